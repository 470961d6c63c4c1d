// What the dispatcher hands to the kernels of one instruction set.
#pragma once

#include <stddef.h>

#include "mambino/scan.h"

namespace mambino {

// A part of the work: some blocks of channels of one sample, from its first step to its last.
struct Task {
    const mambino_scan *scan;
    const mambino_scan_gradients *gradients;
    int64_t batch, first, last;
    void *scratch;        // of this task alone
    void *token_sums;     // [length, sum_width] of this task alone: gradients summed over its channels
    bool alone;           // these are all there are of each token: one chunk of them at a time is written out
    void *channel_sums;   // one record a block of this sample: gradients summed over its steps
};

// Some blocks of channels of one sample, and some of its tokens.
struct ConvTask {
    const mambino_conv *conv;
    const mambino_conv_gradients *gradients;
    int64_t batch, first, last;  // blocks of channels
    int64_t begin, end;          // tokens; backwards always all of them
    void *scratch;               // of this task alone
    void *sums;                  // one record a block of this sample
};

// Some tokens of one sample. A range is as long everywhere, so that sums do not depend on threads.
struct NormTask {
    const mambino_norm *norm;
    const mambino_norm_gradients *gradients;
    int64_t batch, begin, end;
    double *sums;     // [2, channels] of this range
    // [6, channels] of this sample: y is line 0 times (x - line 2) plus line 1; the gradient of x is line 3 times that
    // of y plus line 4 times (x - line 2) plus line 5
    const void *line;
};

// Some tokens of one sample.
struct LayerNormTask {
    const mambino_layer_norm *norm;
    int64_t batch, begin, end;
};

struct GridConvTask {
    const mambino_grid_conv *conv;
    int64_t batch, begin, end;
};

// The kernels of one instruction set for one type of number.
struct Kernels {
    int64_t (*blocks)(const mambino_scan &);                          // of channels
    size_t (*forward_scratch)(const mambino_scan &, int64_t blocks);  // (bytes)
    size_t (*backward_scratch)(const mambino_scan &, int64_t blocks);
    size_t (*channel_sum)(const mambino_scan &);  // of one block (bytes)
    int64_t (*sum_width)(const mambino_scan &);   // numbers of a token that are summed over channels
    void (*forward)(const Task &);
    void (*backward)(const Task &);
    // Add up what the tasks of one group of one sample have left, for the tokens from `begin` to before `end`.
    void (*sum_tokens)(const Task &, int64_t group, void *const *tasks, int count, int64_t begin, int64_t end);
    // Add up the records [batch, blocks] of all samples.
    void (*sum_channels)(const mambino_scan &, const mambino_scan_gradients &, const void *records);
    void (*conv_forward)(const ConvTask &);
    void (*conv_backward)(const ConvTask &);
    void (*conv_sum)(const mambino_conv &, const mambino_conv_gradients &, const void *records);
    void (*norm_sums)(const NormTask &);       // of x and its square, less the first token
    void (*norm_apply)(const NormTask &);
    void (*norm_sums_back)(const NormTask &);  // of the gradient, and of the gradient times (x - mean)
    void (*norm_apply_back)(const NormTask &);
    void (*layer_norm)(const LayerNormTask &);
    void (*grid_conv)(const GridConvTask &);
    double (*spin)(int64_t rounds);            // twelve independent multiply-adds a round
    int lanes;                                 // numbers in a vector
};

struct Target {
    const char *name;
    Kernels of_float, of_double;
};

}  // namespace mambino
