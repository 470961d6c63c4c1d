// Normalisation of each token over its channels, with the sum before it and the gate after it.
//
// As many tokens as a vector has lanes go together, so that their sums are added up together.
#pragma once

#include "simd.h"
#include "task.h"

namespace mambino {
namespace MAMBINO_TARGET {

// The first `width` lanes of x; the others are zero.
template <class T> MAMBINO_INLINE Vec<T> only_first(Vec<T> x, int width) {
    if (width == Lanes<T>::count) return x;
    T lanes[Lanes<T>::count] = {};
    store_part(lanes, x, width);
    return load(lanes);
}

// Call work(channel, width) for each vector of channels.
template <class T, class Work> MAMBINO_INLINE void each_vector(int64_t channels, const Work &work) {
    int64_t channel = 0;
    for (; channel + Lanes<T>::count <= channels; channel += Lanes<T>::count) work(channel, Lanes<T>::count);
    if (channel < channels) work(channel, int(channels - channel));
}

template <class T> void layer_norm(const LayerNormTask &task) {
    constexpr int lanes = Lanes<T>::count;
    const FlushDenormals flush;
    const mambino_layer_norm &n = *task.norm;
    const Vec<T> factor = splat(n.scale ? *(const T *)n.scale : T(1));
    const T *weight = (const T *)n.weight, *bias = (const T *)n.bias;
    for (int64_t first = task.begin; first < task.end; first += lanes) {
        const int count = task.end - first < lanes ? int(task.end - first) : lanes;
        const auto input = [&](int i, int64_t channel, int width) {
            const Vec<T> x = load_some(row<T>(n.x, task.batch, first + i) + channel, width);
            return n.add.data ? x + factor * load_some(row<T>(n.add, task.batch, first + i) + channel, width) : x;
        };
        Vec<T> sums[lanes] = {}, squares[lanes] = {};
        for (int i = 0; i < count; i++)
            each_vector<T>(n.channels, [&](int64_t channel, int width) { sums[i] += input(i, channel, width); });
        T mean[lanes], scale[lanes];
        store(mean, row_sums<T, lanes>(sums) / T(n.channels));
        for (int i = 0; i < count; i++)
            each_vector<T>(n.channels, [&](int64_t channel, int width) {
                const Vec<T> off = only_first<T>(input(i, channel, width) - mean[i], width);
                squares[i] += off * off;
            });
        store(scale, row_sums<T, lanes>(squares) / T(n.channels) + T(n.eps));
        for (int i = 0; i < lanes; i++) scale[i] = 1 / (sizeof(T) == 4 ? __builtin_sqrtf(float(scale[i])) : T(__builtin_sqrt(scale[i])));
        for (int i = 0; i < count; i++) {
            T *const to = row<T>(n.y, task.batch, first + i);
            const T *const gate = n.gate.data ? row<T>(n.gate, task.batch, first + i) : nullptr;
            each_vector<T>(n.channels, [&](int64_t channel, int width) {
                Vec<T> y = (input(i, channel, width) - mean[i]) * scale[i];
                y = y * load_some(weight + channel, width) + load_some(bias + channel, width);
                const Vec<T> z = gate ? load_some(gate + channel, width) : Vec<T>{};
                store_some(to + channel, gate ? y * z * sigmoid<T>(z) : y, width);
            });
        }
    }
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
