// The short causal convolution of each channel by itself, with the activation after it.
#pragma once

#include "simd.h"
#include "task.h"

namespace mambino {
namespace MAMBINO_TARGET {

// Input `token` of a vector of channels; what lies before the first one was handed in, or is zero.
template <class T> MAMBINO_INLINE Vec<T> conv_input(const mambino_conv &c, int64_t batch, int64_t token, int64_t channel, int width) {
    if (token >= 0) return load_some(row<T>(c.x, batch, token) + channel, width);
    if (!c.before) return Vec<T>{};
    return load_some((const T *)c.before + (batch * (c.kernel - 1) + c.kernel - 1 + token) * c.channels + channel, width);
}

template <class T> MAMBINO_INLINE void conv_weights(const mambino_conv &c, int64_t channel, int width, Vec<T> *w) {
    for (int64_t k = 0; k < c.kernel; k++) w[k] = gathered((const T *)c.weight + channel * c.kernel + k, c.kernel, width);
    w[c.kernel] = c.bias ? load_some((const T *)c.bias + channel, width) : Vec<T>{};
}

template <class T> MAMBINO_INLINE int conv_width(const mambino_conv &c, int64_t channel) {
    const int64_t left = c.channels - channel;
    return left < Lanes<T>::count ? int(left) : Lanes<T>::count;
}

// Token by token, and in each token its blocks of channels: rows are read once, and lie side by side. K: the kernel's
// size where it is known.
template <class T, int K> void conv_tokens(const ConvTask &task) {
    const mambino_conv &c = *task.conv;
    const int64_t kernel = K ? K : c.kernel, each = kernel + 1;
    Vec<T> *const weights = (Vec<T> *)task.scratch;
    for (int64_t i = task.first; i < task.last; i++)
        conv_weights<T>(c, i * Lanes<T>::count, conv_width<T>(c, i * Lanes<T>::count), weights + (i - task.first) * each);
    for (int64_t t = task.begin; t < task.end; t++) {
        T *const to = row<T>(c.y, task.batch, t);
        for (int64_t i = task.first; i < task.last; i++) {
            const int64_t channel = i * Lanes<T>::count;
            const int width = conv_width<T>(c, channel);
            const Vec<T> *w = weights + (i - task.first) * each;
            Vec<T> sum = w[kernel];
            for (int64_t k = 0; k < kernel; k++)
                sum += w[k] * conv_input<T>(c, task.batch, t - kernel + 1 + k, channel, width);
            store_some(to + channel, c.silu ? sum * sigmoid<T>(sum) : sum, width);
        }
    }
}

// The same backwards. What each block needs: weights and their gradients, and the last gradients before the weights.
template <class T, int K> void conv_tokens_back(const ConvTask &task) {
    const mambino_conv &c = *task.conv;
    const mambino_conv_gradients &g = *task.gradients;
    const int64_t kernel = K ? K : c.kernel, each = 3 * kernel + 2;
    Vec<T> *const memory = (Vec<T> *)task.scratch;
    memset(memory, 0, size_t((task.last - task.first) * each) * sizeof(Vec<T>));
    for (int64_t i = task.first; i < task.last; i++)
        conv_weights<T>(c, i * Lanes<T>::count, conv_width<T>(c, i * Lanes<T>::count), memory + (i - task.first) * each);
    for (int64_t t = c.length - 1; t >= 0; t--) {
        for (int64_t i = task.first; i < task.last; i++) {
            const int64_t channel = i * Lanes<T>::count;
            const int width = conv_width<T>(c, channel);
            Vec<T> *const w = memory + (i - task.first) * each, *const dw = w + kernel + 1, *const recent = dw + kernel + 1;
            Vec<T> sum = w[kernel], grad = load_some(row<T>(g.y, task.batch, t) + channel, width);
            for (int64_t k = 0; k < kernel; k++)
                sum += w[k] * conv_input<T>(c, task.batch, t - kernel + 1 + k, channel, width);
            if (c.silu) {
                const Vec<T> gate = sigmoid<T>(sum);
                grad *= gate * (1 + sum * (1 - gate));
            }
            // Input t enters output t + j with weight kernel - 1 - j; recent[j] is the gradient there.
            for (int64_t j = kernel - 1; j > 0; j--) recent[j] = recent[j - 1];
            recent[0] = grad;
            Vec<T> into = {};
            for (int64_t j = 0; j < kernel; j++) into += recent[j] * w[kernel - 1 - j];
            for (int64_t k = 0; k < kernel; k++)
                dw[k] += grad * conv_input<T>(c, task.batch, t - kernel + 1 + k, channel, width);
            dw[kernel] += grad;
            store_some(row<T>(g.x, task.batch, t) + channel, into, width);
        }
    }
    for (int64_t i = task.first; i < task.last; i++)
        memcpy((Vec<T> *)task.sums + i * (kernel + 1), memory + (i - task.first) * each + kernel + 1,
               size_t(kernel + 1) * sizeof(Vec<T>));
}

template <class T> void conv_forward(const ConvTask &task) {
    const FlushDenormals flush;
    (task.conv->kernel == 4 ? conv_tokens<T, 4> : conv_tokens<T, 0>)(task);
}

template <class T> void conv_backward(const ConvTask &task) {
    const FlushDenormals flush;
    (task.conv->kernel == 4 ? conv_tokens_back<T, 4> : conv_tokens_back<T, 0>)(task);
}

template <class T> void conv_sum(const mambino_conv &c, const mambino_conv_gradients &g, const void *records) {
    constexpr int lanes = Lanes<T>::count;
    const int64_t blocks = (c.channels + lanes - 1) / lanes;
    for (int64_t i = 0; i < blocks; i++)
        for (int64_t k = 0; k <= c.kernel; k++) {
            Vec<T> sum = {};
            for (int64_t batch = 0; batch < c.batch; batch++)
                sum += ((const Vec<T> *)records)[(batch * blocks + i) * (c.kernel + 1) + k];
            const int width = conv_width<T>(c, i * lanes);
            if (k < c.kernel && g.weight) scattered((T *)g.weight + i * lanes * c.kernel + k, c.kernel, width, sum);
            if (k == c.kernel && g.bias) store_some((T *)g.bias + i * lanes, sum, width);
        }
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
