#define MAMBINO_TARGET avx2
#include "kernels.h"
extern const mambino::Target mambino_avx2;
constexpr mambino::Target mambino_avx2 = {"avx2", mambino::avx2::kernels<float>(), mambino::avx2::kernels<double>()};
