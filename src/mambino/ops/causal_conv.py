"""The short causal convolution before a scan: each channel by itself, over a token and those before it."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mambino.errors import ShapeError
from mambino.ops.selective_scan import native
from mambino.ops.selective_scan.inputs import rowwise

_library = torch.library.Library("mambino", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "causal_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? before, bool silu) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "causal_conv_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, bool silu) -> (Tensor, Tensor, Tensor)"
)


class _Conv(ctypes.Structure):
    _fields_ = (
        *native.fields(ctypes.c_int64, "batch length channels kernel"),
        ("silu", ctypes.c_int32),
        *native.fields(native.Rows, "x y"),
        *native.fields(ctypes.c_void_p, "weight bias before"),
    )


class _ConvGradients(ctypes.Structure):
    _fields_ = (("y", native.Rows), ("x", native.Rows), *native.fields(ctypes.c_void_p, "weight bias"))


def causal_conv(
    x: Float[Tensor, "b l d"],
    weight: Float[Tensor, "d k"],
    bias: Float[Tensor, " d"] | None = None,
    *,
    before: Float[Tensor, "b m d"] | None = None,
    silu: bool = False,
) -> Float[Tensor, "b l d"]:
    """Convolve along the tokens, so that a token sees itself and the k - 1 before it.

        y[t] = act(bias + sum over j of weight[j] x[t - k + 1 + j])

    Args:
        x: token-major; tokens may lie at any distance.
        weight: of each channel.
        bias: of each channel.
        before: the m = k - 1 tokens before the first one; zeros if None. Nothing is learnt through it.
        silu: apply x sigmoid(x) to the result.

    Raises:
        ShapeError: an input does not fit the others.
    """
    _check(x, weight, bias, before)
    kind = x.dtype
    wide = torch.promote_types(kind, torch.float32)
    inputs = [None if t is None else t.to(wide) for t in (x, weight, bias, before)]
    y: Tensor = torch.ops.mambino.causal_conv(*inputs, silu)
    return y.to(kind)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, silu: bool) -> Tensor:
    if x.device.type == "cpu" and not native.missing():
        return _native(x, weight.contiguous(), bias, None if before is None else before.contiguous(), silu=silu)
    y = _portable(x, weight, bias, before)
    return functional.silu(y) if silu else y


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == "cpu" and not native.missing():
        dx, dw, db = _native_backward(grad, x, weight.contiguous(), bias, silu=silu)
        return dx, dw, x.new_empty(0) if db is None else db
    if silu:
        y = _portable(x, weight, bias, None)
        gate = torch.sigmoid(y)
        grad = grad * gate * (1 + y * (1 - gate))
    taps, length = weight.shape[1], x.shape[1]
    ahead = functional.pad(grad, (0, 0, 0, taps - 1))
    behind = functional.pad(x, (0, 0, taps - 1, 0))
    dx = sum((ahead[:, j : j + length] * weight[:, taps - 1 - j] for j in range(taps)), torch.zeros_like(x))
    dw = torch.stack([(grad * behind[:, j : j + length]).sum((0, 1)) for j in range(taps)], 1)
    return dx, dw, x.new_empty(0) if bias is None else grad.sum((0, 1))


def _portable(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None) -> Tensor:
    taps, length = weight.shape[1], x.shape[1]
    wide = functional.pad(x, (0, 0, taps - 1, 0)) if before is None else torch.cat([before, x], 1)
    y = sum((wide[:, j : j + length] * weight[:, j] for j in range(taps)), torch.zeros_like(x))
    return y if bias is None else y + bias


def _shapes(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


def _backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), x.new_empty(0 if bias is None else bias.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dw, db = torch.ops.mambino.causal_conv_backward(grad, x, weight, bias, ctx.silu)
    return dx, dw, None if bias is None else db, None, None


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ShapeError(f"causal_conv takes x of [batch, length >= 1, channels], got {tuple(x.shape)}")
    batch, _, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels:
        raise ShapeError(f"causal_conv takes a weight of [{channels} channels, kernel], got {tuple(weight.shape)}")
    wanted = {"bias": (bias, (channels,)), "before": (before, (batch, weight.shape[1] - 1, channels))}
    for name, (given, shape) in wanted.items():
        if given is not None and tuple(given.shape) != shape:
            raise ShapeError(f"causal_conv takes {name} of {shape} with this x, got {tuple(given.shape)}")


def _native(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, *, silu: bool) -> Tensor:
    """Convolve each channel of x [b l d] with weight [d k] over this and earlier tokens; `before` is [b k-1 d]."""
    x = rowwise(x)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    call = _conv_call(x, weight, bias, before, silu=silu)
    call.y = native.rows(y)
    native.call("mambino_conv_forward", call, size=x.element_size())
    return y


def _native_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, weight and bias."""
    x, grad = rowwise(x), rowwise(grad)
    room = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, weight)]
    room_bias = None if bias is None else torch.empty_like(bias)
    call = _conv_call(x, weight, bias, None, silu=silu)
    out = _ConvGradients(
        y=native.rows(grad), x=native.rows(room[0]), weight=native.pointer(room[1]), bias=native.pointer(room_bias)
    )
    call.y = out.y
    size = x.element_size()
    native.call("mambino_conv_backward", call, out, size=size)
    return room[0], room[1], room_bias


def _conv_call(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, *, silu: bool) -> _Conv:
    batch, length, channels = x.shape
    return _Conv(
        batch=batch,
        length=length,
        channels=channels,
        kernel=weight.shape[1],
        silu=silu,
        x=native.rows(x),
        weight=native.pointer(weight),
        bias=native.pointer(bias),
        before=native.pointer(before),
    )


_library.impl("causal_conv", _forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("causal_conv_backward", _backward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::causal_conv", _shapes, lib=_library)
torch.library.register_fake("mambino::causal_conv_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("mambino::causal_conv", _differentiate, setup_context=_remember, lib=_library)
