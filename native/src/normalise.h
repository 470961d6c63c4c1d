// The normalisation: what lies between the passes over the tokens.
#pragma once

#include <cmath>
#include <vector>

#include "task.h"
#include "threads.h"

namespace mambino {

constexpr int64_t RANGE = 2048;  // tokens

inline int64_t ranges_of(const mambino_norm &n) { return (n.length + RANGE - 1) / RANGE; }

// Run `work` for each range of tokens of each sample, and hand it the place of the range.
template <class Work> void share_ranges(const mambino_norm &n, int threads, const Work &work) {
    const int64_t ranges = ranges_of(n), step = RANGE;
    std::vector<int64_t> places(size_t(n.batch * ranges));
    for (size_t i = 0; i < places.size(); i++) places[i] = int64_t(i);
    share(places, threads, [&](int64_t place) {
        const int64_t begin = place % ranges * step;
        NormTask task{};
        task.norm = &n, task.batch = place / ranges;
        task.begin = begin, task.end = begin + step < n.length ? begin + step : n.length;
        work(task, place);
    });
}

// Sums [2, channels] of each range become those of each sample.
inline std::vector<double> of_samples(const mambino_norm &n, const std::vector<double> &ranges) {
    const size_t width = size_t(2 * n.channels), each = ranges.size() / width / size_t(n.batch);
    std::vector<double> sums(width * size_t(n.batch));
    for (size_t i = 0; i < ranges.size(); i++) sums[i / (width * each) * width + i % width] += ranges[i];
    return sums;
}

// What the way forward needs of each channel of each sample: see NormTask. `line` has six rows a sample.
template <class T> void lines_forward(const mambino_norm &n, std::vector<T> &line) {
    const int64_t wide = n.channels / n.groups;
    for (int64_t b = 0; b < n.batch; b++)
        for (int64_t c = 0; c < n.channels; c++) {
            const double mean = ((T *)n.mean)[b * n.groups + c / wide], scale = ((T *)n.scale)[b * n.groups + c / wide];
            const double slope = scale * (n.weight ? double(((const T *)n.weight)[c]) : 1.0);
            T *const of = &line[size_t(b * 6 * n.channels + c)];
            of[0] = T(slope);
            of[n.channels] = n.bias ? ((const T *)n.bias)[c] : T(0);
            of[2 * n.channels] = T(mean);
        }
}

template <class T> void normalise(const mambino_norm &n, const Kernels &k, int threads) {
    std::vector<double> ranges(size_t(n.batch * ranges_of(n) * 2 * n.channels));
    share_ranges(n, threads, [&](NormTask task, int64_t place) {
        task.sums = &ranges[size_t(place * 2 * n.channels)];
        k.norm_sums(task);
    });
    const std::vector<double> sums = of_samples(n, ranges);
    const int64_t wide = n.channels / n.groups;
    for (int64_t b = 0; b < n.batch; b++)
        for (int64_t g = 0; g < n.groups; g++) {
            double mean = 0, square = 0;
            const double *of = &sums[size_t(b * 2 * n.channels)];
            const T *first = (const T *)n.x.data + b * n.x.batch;
            for (int64_t c = g * wide; c < (g + 1) * wide; c++) mean += of[c] / double(n.length) + double(first[c]);
            mean /= double(wide);
            for (int64_t c = g * wide; c < (g + 1) * wide; c++) {
                const double middle = of[c] / double(n.length), off = middle + double(first[c]) - mean;
                square += of[n.channels + c] / double(n.length) - middle * middle + off * off;
            }
            ((T *)n.mean)[b * n.groups + g] = T(mean);
            ((T *)n.scale)[b * n.groups + g] = T(1 / std::sqrt(square / double(wide) + n.eps));
        }
    std::vector<T> line(size_t(n.batch * 6 * n.channels));
    lines_forward(n, line);
    share_ranges(n, threads, [&](NormTask task, int64_t) {
        task.line = &line[size_t(task.batch * 6 * n.channels)];
        k.norm_apply(task);
    });
}

template <class T> void normalise_back(const mambino_norm &n, const mambino_norm_gradients &g, const Kernels &k, int threads) {
    std::vector<T> line(size_t(n.batch * 6 * n.channels));
    lines_forward(n, line);
    std::vector<double> ranges(size_t(n.batch * ranges_of(n) * 2 * n.channels));
    share_ranges(n, threads, [&](NormTask task, int64_t place) {
        task.gradients = &g, task.sums = &ranges[size_t(place * 2 * n.channels)];
        task.line = &line[size_t(task.batch * 6 * n.channels)];
        k.norm_sums_back(task);
    });
    const std::vector<double> sums = of_samples(n, ranges);
    const int64_t wide = n.channels / n.groups;
    std::vector<double> weight(size_t(n.channels)), bias(size_t(n.channels));
    for (int64_t b = 0; b < n.batch; b++)
        for (int64_t c = 0; c < n.channels; c++) {
            const double *of = &sums[size_t(b * 2 * n.channels)];
            const double scale = ((T *)n.scale)[b * n.groups + c / wide];
            double plain = 0, along = 0;  // sums over the group of the normalised gradient, and along x
            for (int64_t i = c / wide * wide; i < (c / wide + 1) * wide; i++) {
                const double w = n.weight ? double(((const T *)n.weight)[i]) : 1.0;
                plain += w * of[i], along += w * of[n.channels + i] * scale;
            }
            const double count = double(n.length) * double(wide), tilt = scale * scale * along / count;
            T *const back = &line[size_t((b * 6 + 3) * n.channels + c)];
            back[0] = T(scale * (n.weight ? double(((const T *)n.weight)[c]) : 1.0));
            back[n.channels] = T(-tilt);
            back[2 * n.channels] = T(-scale * plain / count);
            weight[size_t(c)] += of[n.channels + c] * scale;
            bias[size_t(c)] += of[c];
        }
    for (int64_t c = 0; c < n.channels; c++) {
        if (g.weight) ((T *)g.weight)[c] = T(weight[size_t(c)]);
        if (g.bias) ((T *)g.bias)[c] = T(bias[size_t(c)]);
    }
    share_ranges(n, threads, [&](NormTask task, int64_t) {
        task.gradients = &g, task.line = &line[size_t(task.batch * 6 * n.channels)];
        k.norm_apply_back(task);
    });
}

}  // namespace mambino
