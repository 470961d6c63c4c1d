#define MAMBINO_TARGET neon
#include "kernels.h"
extern const mambino::Target mambino_neon;
constexpr mambino::Target mambino_neon = {"neon", mambino::neon::kernels<float>(), mambino::neon::kernels<double>()};
