// Normalisation of groups of channels over all tokens: sums in one pass, the result in a second one.
//
// Numbers are added up as they are over a few tokens, and from there on as doubles, so that long sequences are exact.
#pragma once

#include "simd.h"
#include "task.h"

namespace mambino {
namespace MAMBINO_TARGET {

constexpr int64_t NORM_RUN = 64;  // tokens

template <class T> MAMBINO_INLINE void add_lanes(double *to, Vec<T> x, int width) {
    T lanes[Lanes<T>::count];
    store(lanes, x);
    for (int i = 0; i < width; i++) to[i] += lanes[i];
}

template <class T> MAMBINO_INLINE int norm_width(const mambino_norm &n, int64_t channel) {
    const int64_t left = n.channels - channel;
    return left < Lanes<T>::count ? int(left) : Lanes<T>::count;
}

template <class T> void norm_sums(const NormTask &task) {
    const FlushDenormals flush;
    const mambino_norm &n = *task.norm;
    memset(task.sums, 0, size_t(2 * n.channels) * sizeof(double));
    for (int64_t run = task.begin; run < task.end; run += NORM_RUN) {
        const int64_t end = run + NORM_RUN < task.end ? run + NORM_RUN : task.end;
        for (int64_t channel = 0; channel < n.channels; channel += Lanes<T>::count) {
            const int width = norm_width<T>(n, channel);
            const Vec<T> first = load_some(row<T>(n.x, task.batch, 0) + channel, width);
            Vec<T> sum = {}, squares = {};
            for (int64_t t = run; t < end; t++) {
                const Vec<T> x = load_some(row<T>(n.x, task.batch, t) + channel, width) - first;
                sum += x;
                squares += x * x;
            }
            add_lanes<T>(task.sums + channel, sum, width);
            add_lanes<T>(task.sums + n.channels + channel, squares, width);
        }
    }
}

// The mean is taken off first: what is left is small, and so is the error of its factor.
template <class T> MAMBINO_INLINE Vec<T> scaled_about_mean(const mambino_norm &n, Vec<T> x, const T *line, int width) {
    return (x - load_some(line + 2 * n.channels, width)) * load_some(line, width) + load_some(line + n.channels, width);
}

template <class T> void norm_apply(const NormTask &task) {
    const FlushDenormals flush;
    const mambino_norm &n = *task.norm;
    const T *line = (const T *)task.line;
    for (int64_t t = task.begin; t < task.end; t++) {
        const T *from = row<T>(n.x, task.batch, t);
        T *to = row<T>(n.y, task.batch, t);
        for (int64_t channel = 0; channel < n.channels; channel += Lanes<T>::count) {
            const int width = norm_width<T>(n, channel);
            const Vec<T> y = scaled_about_mean(n, load_some(from + channel, width), line + channel, width);
            store_some(to + channel, n.relu ? larger<T>(y, Vec<T>{}) : y, width);
        }
    }
}

// The gradient before the activation: nothing where the result was cut off. `line` here is that of the way forward.
template <class T> MAMBINO_INLINE Vec<T> before_relu(const mambino_norm &n, Vec<T> grad, Vec<T> x, const T *line, int width) {
    if (!n.relu) return grad;
    return scaled_about_mean(n, x, line, width) > 0 ? grad : Vec<T>{};
}

template <class T> void norm_sums_back(const NormTask &task) {
    const FlushDenormals flush;
    const mambino_norm &n = *task.norm;
    const T *line = (const T *)task.line, *mean = line + 2 * n.channels;
    memset(task.sums, 0, size_t(2 * n.channels) * sizeof(double));
    for (int64_t run = task.begin; run < task.end; run += NORM_RUN) {
        const int64_t end = run + NORM_RUN < task.end ? run + NORM_RUN : task.end;
        for (int64_t channel = 0; channel < n.channels; channel += Lanes<T>::count) {
            const int width = norm_width<T>(n, channel);
            const Vec<T> middle = load_some(mean + channel, width);
            Vec<T> sum = {}, products = {};
            for (int64_t t = run; t < end; t++) {
                const Vec<T> x = load_some(row<T>(n.x, task.batch, t) + channel, width);
                const Vec<T> outer = load_some(row<T>(task.gradients->y, task.batch, t) + channel, width);
                const Vec<T> grad = before_relu(n, outer, x, line + channel, width);
                sum += grad;
                products += grad * (x - middle);
            }
            add_lanes<T>(task.sums + channel, sum, width);
            add_lanes<T>(task.sums + n.channels + channel, products, width);
        }
    }
}

template <class T> void norm_apply_back(const NormTask &task) {
    const FlushDenormals flush;
    const mambino_norm &n = *task.norm;
    const T *line = (const T *)task.line, *back = line + 3 * n.channels;
    for (int64_t t = task.begin; t < task.end; t++) {
        const T *from = row<T>(n.x, task.batch, t), *outer = row<T>(task.gradients->y, task.batch, t);
        T *to = row<T>(task.gradients->x, task.batch, t);
        for (int64_t channel = 0; channel < n.channels; channel += Lanes<T>::count) {
            const int width = norm_width<T>(n, channel);
            const Vec<T> x = load_some(from + channel, width);
            const Vec<T> grad = before_relu(n, load_some(outer + channel, width), x, line + channel, width);
            const T *of = back + channel;
            const Vec<T> off = x - load_some(line + 2 * n.channels + channel, width);
            const Vec<T> into = grad * load_some(of, width) + off * load_some(of + n.channels, width) + load_some(of + 2 * n.channels, width);
            store_some(to + channel, into, width);
        }
    }
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
