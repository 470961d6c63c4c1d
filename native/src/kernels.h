// All kernels of one instruction set: included once for each, with MAMBINO_TARGET its namespace.
#pragma once

#include "conv.h"
#include "grid_conv.h"
#include "layer_norm.h"
#include "norm.h"
#include "scan_backward.h"

namespace mambino {
namespace MAMBINO_TARGET {

// What a benchmark measures the arithmetic limit by.
template <class T> double spin(int64_t rounds) {
    Vec<T> x[12];
    for (int i = 0; i < 12; i++) x[i] = splat(T(i));
    const Vec<T> a = splat(T(0.999)), b = splat(T(0.001));
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) x[i] = x[i] * a + b;
    T sum = 0;
    for (int i = 0; i < 12; i++) sum += x[i][0];
    return double(sum);
}

template <class T> constexpr Kernels kernels() {
    return {blocks<T>,        forward_scratch<T>, backward_scratch<T>, channel_sum<T>,  sum_width<T>,
            forward<T>,       backward<T>,        sum_tokens<T>,       sum_channels<T>, conv_forward<T>,
            conv_backward<T>, conv_sum<T>,        norm_sums<T>,        norm_apply<T>,   norm_sums_back<T>,
            norm_apply_back<T>, layer_norm<T>,    grid_conv<T>,        spin<T>,         Lanes<T>::count};
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
