"""The scan as one torch operator, so that autograd, export and meta tensors see a single node."""

from typing import Any

import torch
from torch import Tensor

from mambino.ops.selective_scan.chunked import cut_of, scan, scan_backward

_library = torch.library.Library("mambino", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor state, bool keep)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define(  # type: ignore[no-untyped-call]
    "selective_scan_backward(Tensor grad, Tensor grad_last, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C,"
    " Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def scan_operator(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return y [b d l] and the last state [b d n]; inputs as `chunked.scan` takes them."""
    inputs = (u, delta, A, B, C, state)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    y, last, _ = torch.ops.mambino.selective_scan(*inputs, keep)
    return y, last


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return scan(u, delta, A, B, C, state, keep=keep)


def _shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    saved = cut_of(u, A, B, C).saved_shape if keep else (0,)
    return u.new_empty(u.shape), state.new_empty(state.shape), A.new_empty(saved)


def _backward_shapes(
    grad: Tensor, grad_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (u, delta, A, B, C, grad_last))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mambino.selective_scan_backward(grad, grad_last, *ctx.saved_tensors)
    return (*grads, None)


# Devices without kernels of their own take this path too.
for _device in ("CPU", "CUDA"):
    _library.impl("selective_scan", _forward, _device)  # type: ignore[no-untyped-call]
    _library.impl("selective_scan_backward", scan_backward, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::selective_scan", _shapes, lib=_library)
torch.library.register_fake("mambino::selective_scan_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("mambino::selective_scan", _differentiate, setup_context=_remember, lib=_library)
