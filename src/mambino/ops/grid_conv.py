"""The convolution of each channel by itself over neighbours along all axes, of images with their channels last."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mambino.errors import ShapeError
from mambino.ops.selective_scan import native
from mambino.ops.selective_scan.inputs import rowwise

_library = torch.library.Library("mambino", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "grid_conv(Tensor x, Tensor weight, Tensor? bias, bool silu) -> Tensor"
)


class _GridConv(ctypes.Structure):
    _fields_ = (
        *native.fields(ctypes.c_int64, "batch channels"),
        ("sides", ctypes.c_int64 * 3),
        ("kernel", ctypes.c_int64 * 3),
        ("silu", ctypes.c_int32),
        *native.fields(native.Rows, "x y"),
        *native.fields(ctypes.c_void_p, "weight bias"),
    )


def grid_conv(
    x: Float[Tensor, "b *s d"], conv: nn.Conv2d | nn.Conv3d, *, silu: bool = False
) -> Float[Tensor, "b *s d"]:
    """Convolve each channel by itself, with zeros round the image, which keeps its sides.

    Where nothing is learnt, the processor reads the image as it lies; else this is torch's own.

    Args:
        x: an image of two or three axes with its channels last; in memory, its tokens lie at one distance.
        conv: depthwise, of an odd kernel and stride 1, padded by half of it.
        silu: apply x sigmoid(x) to the result.

    Raises:
        ShapeError: x has other axes or channels than `conv`.
    """
    weight, bias = conv.weight, conv.bias
    if x.dim() != weight.dim() or x.shape[-1] != weight.shape[0]:
        raise ShapeError(
            f"grid_conv takes x of [batch, {weight.dim() - 2} sides, {weight.shape[0]} channels], got {tuple(x.shape)}"
        )
    if native.without_gradient(x, weight, bias):
        result: Tensor = torch.ops.mambino.grid_conv(x, weight, bias, silu)
        return result
    y: Tensor = conv(x.movedim(-1, 1))
    return (functional.silu(y) if silu else y).movedim(1, -1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Convolve each channel of x [b *s d] with weight [d 1 *k] over its neighbours."""
    tokens = rowwise(x.flatten(1, -2))
    y = torch.empty_like(tokens, memory_format=torch.contiguous_format)
    taps = weight.flatten(1).t().contiguous()
    call = _GridConv(
        batch=len(x),
        channels=x.shape[-1],
        sides=(ctypes.c_int64 * 3)(*(1,) * (5 - x.dim()), *x.shape[1:-1]),
        kernel=(ctypes.c_int64 * 3)(*(1,) * (5 - x.dim()), *weight.shape[2:]),
        silu=silu,
        x=native.rows(tokens),
        y=native.rows(y),
        weight=native.pointer(taps),
        bias=native.pointer(bias),
    )
    native.call("mambino_grid_conv_forward", call, size=x.element_size())
    return y.view(x.shape)


def _shapes(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


_library.impl("grid_conv", _forward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::grid_conv", _shapes, lib=_library)
