// The convolution of each channel by itself over neighbours along all axes, with the activation after it.
#pragma once

#include "simd.h"
#include "task.h"

namespace mambino {
namespace MAMBINO_TARGET {

// Weights and inputs of the neighbours that one token has inside the grid.
template <class T> struct Neighbours {
    const T *x[MAMBINO_TAPS], *weight[MAMBINO_TAPS];
    int count = 0;

    void find(const mambino_grid_conv &c, int64_t batch, int64_t token) {
        const int64_t *s = c.sides, *k = c.kernel;
        const int64_t at[3] = {token / (s[1] * s[2]), token / s[2] % s[1], token % s[2]};
        count = 0;
        for (int64_t i = 0; i < k[0] * k[1] * k[2]; i++) {
            const int64_t to[3] = {at[0] + i / (k[1] * k[2]) - k[0] / 2, at[1] + i / k[2] % k[1] - k[1] / 2, at[2] + i % k[2] - k[2] / 2};
            bool inside = true;
            for (int axis = 0; axis < 3; axis++) inside &= to[axis] >= 0 && to[axis] < s[axis];
            if (!inside) continue;
            x[count] = row<T>(c.x, batch, (to[0] * s[1] + to[1]) * s[2] + to[2]);
            weight[count++] = (const T *)c.weight + i * c.channels;
        }
    }
};

// VECTORS of channels of one token at a time; a single one may be of fewer lanes.
template <class T, int VECTORS>
MAMBINO_INLINE void conv_vectors(const mambino_grid_conv &c, const Neighbours<T> &near, T *to, int64_t channel, int width) {
    constexpr int lanes = Lanes<T>::count;
    const T *bias = (const T *)c.bias;
    Vec<T> sum[VECTORS];
    for (int j = 0; j < VECTORS; j++) sum[j] = bias ? load_some(bias + channel + j * lanes, width) : Vec<T>{};
    for (int i = 0; i < near.count; i++)
        for (int j = 0; j < VECTORS; j++)
            sum[j] += load_some(near.weight[i] + channel + j * lanes, width) * load_some(near.x[i] + channel + j * lanes, width);
    for (int j = 0; j < VECTORS; j++) store_some(to + channel + j * lanes, c.silu ? sum[j] * sigmoid<T>(sum[j]) : sum[j], width);
}

template <class T> void grid_conv(const GridConvTask &task) {
    constexpr int lanes = Lanes<T>::count;
    const FlushDenormals flush;
    const mambino_grid_conv &c = *task.conv;
    Neighbours<T> near;
    for (int64_t t = task.begin; t < task.end; t++) {
        near.find(c, task.batch, t);
        T *const to = row<T>(c.y, task.batch, t);
        int64_t channel = 0;
        for (; channel + 4 * lanes <= c.channels; channel += 4 * lanes) conv_vectors<T, 4>(c, near, to, channel, lanes);
        for (; channel + lanes <= c.channels; channel += lanes) conv_vectors<T, 1>(c, near, to, channel, lanes);
        if (channel < c.channels) conv_vectors<T, 1>(c, near, to, channel, int(c.channels - channel));
    }
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
