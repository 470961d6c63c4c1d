"""Normalisation of each token over its channels, in one pass with the sum before it and the gate after it."""

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
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, Tensor? add, Tensor? scale, Tensor? gate) -> Tensor"
)


class _LayerNorm(ctypes.Structure):
    _fields_ = (
        *native.fields(ctypes.c_int64, "batch length channels"),
        ("eps", ctypes.c_double),
        *native.fields(native.Rows, "x add gate y"),
        *native.fields(ctypes.c_void_p, "weight bias scale"),
    )


def layer_norm(
    x: Float[Tensor, "b l d"],
    norm: nn.LayerNorm,
    *,
    add: Float[Tensor, "b l d"] | None = None,
    scale: Float[Tensor, " 1"] | None = None,
    gate: Float[Tensor, "b l d"] | None = None,
) -> Float[Tensor, "b l d"]:
    """Return norm(x + scale add) silu(gate).

    Where nothing is learnt, the processor reads and writes each number once; else this is torch's own.

    Args:
        x: token-major; tokens may lie at any distance.
        norm: of the channels.
        add: added to x before.
        scale: of `add`; 1 if None.
        gate: what the result is multiplied by goes through x sigmoid(x); nothing if None.

    Raises:
        ShapeError: an input does not fit the others.
    """
    if x.dim() != 3 or tuple(norm.normalized_shape) != (x.shape[-1],):
        raise ShapeError(
            f"layer_norm takes x of [batch, length, {norm.normalized_shape[-1]} channels], got {tuple(x.shape)}"
        )
    for name, given in (("add", add), ("gate", gate)):
        if given is not None and given.shape != x.shape:
            raise ShapeError(f"layer_norm takes {name} of {tuple(x.shape)} with this x, got {tuple(given.shape)}")
    inputs = (x, norm.weight, norm.bias, norm.eps, add, scale, gate)
    if native.without_gradient(x, norm.weight, norm.bias, add, scale, gate):
        result: Tensor = torch.ops.mambino.layer_norm(*inputs)
        return result
    return _portable(*inputs)


def _portable(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None, scale: Tensor | None, gate: Tensor | None
) -> Tensor:
    if add is not None:
        x = x + add if scale is None else torch.addcmul(x, add, scale)
    y = functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)
    return y if gate is None else y * functional.silu(gate)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None, scale: Tensor | None, gate: Tensor | None
) -> Tensor:
    """Return the layer norm of x + scale add [b l d], times silu(gate)."""
    x, add, gate = rowwise(x), None if add is None else rowwise(add), None if gate is None else rowwise(gate)
    weight, bias, y = weight.contiguous(), bias.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    batch, length, channels = x.shape
    call = _LayerNorm(
        batch=batch,
        length=length,
        channels=channels,
        eps=eps,
        x=native.rows(x),
        add=native.rows(add),
        gate=native.rows(gate),
        y=native.rows(y),
        weight=native.pointer(weight),
        bias=native.pointer(bias),
        scale=native.pointer(scale),
    )
    native.call("mambino_layer_norm_forward", call, size=x.element_size())
    return y


def _shapes(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


_library.impl("layer_norm", _forward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::layer_norm", _shapes, lib=_library)
