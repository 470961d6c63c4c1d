#define MAMBINO_TARGET avx512
#include "kernels.h"
extern const mambino::Target mambino_avx512;
constexpr mambino::Target mambino_avx512 = {"avx512", mambino::avx512::kernels<float>(), mambino::avx512::kernels<double>()};
