// All kernels of one instruction set: included once for each, with MAMBINO_TARGET its namespace.
#pragma once

#include "conv.h"
#include "norm.h"
#include "scan_backward.h"

namespace mambino {
namespace MAMBINO_TARGET {

template <class T> constexpr Kernels kernels() {
    return {blocks<T>,        forward_scratch<T>, backward_scratch<T>, channel_sum<T>,    forward<T>,
            backward<T>,      sum_tokens<T>,      sum_channels<T>,     conv_forward<T>,   conv_backward<T>,
            conv_sum<T>,      norm_sums<T>,       norm_apply<T>,       norm_sums_back<T>, norm_apply_back<T>,
            Lanes<T>::count};
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
