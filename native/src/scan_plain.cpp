#define MAMBINO_TARGET plain
#include "kernels.h"
extern const mambino::Target mambino_plain;
constexpr mambino::Target mambino_plain = {"plain", mambino::plain::kernels<float>(), mambino::plain::kernels<double>()};
