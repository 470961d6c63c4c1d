"""The scan of an image along several paths at once: all read the same tokens and add into the same output."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambino.errors import ShapeError
from mambino.ops.selective_scan import native
from mambino.ops.selective_scan.inputs import Inputs, rowwise
from mambino.ops.selective_scan.operator import form_of, form_to_run, refuse_second, refuse_vmap, saved_shape

_library = torch.library.Library("mambino", "FRAGMENT")  # type: ignore[no-untyped-call]
_INPUTS = "Tensor u, Tensor coefficients, Tensor A, Tensor D, Tensor W, Tensor bias, Tensor paths"
_library.define(f"cross_scan({_INPUTS}, bool keep) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    f"cross_scan_backward(Tensor grad, {_INPUTS}, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def cross_scan(
    u: Float[Tensor, "b l d"],
    coefficients: Float[Tensor, "b l k*(r+2n)"],
    A: Float[Tensor, "k d n"],
    D: Float[Tensor, "k d"],
    W: Float[Tensor, "k d r"],
    bias: Float[Tensor, "k d"],
    paths: Int[Tensor, "k l"],
) -> Float[Tensor, "b l d"]:
    """Return the sum over k paths of the selective scans of u (arXiv 2401.10166, section 4.2), with softplus.

    Nothing is flipped, transposed or copied: each path reads tokens where they lie and adds to them there.

    Args:
        u: tokens, as they lie in the image.
        coefficients: for each path r numbers that step sizes are made of, then n that let the input into the
            state, then n that read the state.
        A, D: decay rates, and how the input passes by, of each path.
        W, bias: make a step size for each channel of the r numbers.
        paths: the token of each step, each token once; int32, as `scan_paths` gives them.

    Raises:
        ShapeError: an input does not fit the others.
    """
    _check(u, coefficients, A, D, W, bias, paths)
    kind = u.dtype
    wide = torch.promote_types(kind, torch.float32)
    inputs = [x.to(wide) for x in (u, coefficients, A, D, W, bias)]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    y, _ = torch.ops.mambino.cross_scan(*inputs, paths, keep)
    return y.to(kind)  # type: ignore[no-any-return]


def _path(given: Sequence[Tensor], k: int) -> Inputs:
    """Return the inputs of one path; those of the coefficients are views."""
    u, coefficients, A, D, W, bias, paths = given
    step, enter, leave = _parts(coefficients, A, W, k)
    return Inputs(u, step, A[k], enter, leave, D[k], None, bias[k], None, W[k], paths[k])


def _parts(coefficients: Tensor, A: Tensor, W: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one path has of the coefficients (or of their gradient): step sizes, B and C."""
    rank, states = W.shape[2], A.shape[2]
    own = coefficients.narrow(-1, k * (rank + 2 * states), rank + 2 * states)
    step, enter, leave = own.split_with_sizes([rank, states, states], -1)
    return step, enter[:, :, None], leave[:, :, None]


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, keep = arguments
    u, count = given[0], given[-1].shape[0]
    form = form_to_run(u.device.type)
    if form is native:
        return _together([rowwise(x) for x in given[:2]] + [x.contiguous() for x in given[2:]], keep=keep)
    each = [_path(given, k) for k in range(count)]
    found = [form.scan(inputs, softplus=True, keep=keep) for inputs in each]
    return sum(y for y, _, _ in found), torch.stack([saved for _, _, saved in found])


def _together(given: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, Tensor]:
    """Run all paths in one call of the library, which reads the inputs as they lie."""
    u, coefficients, A, D, W, bias, paths = given
    first = _path(given, 0)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    saved = u.new_empty((len(A), *saved_shape(first)) if keep else (len(A), 0))
    stacked = {"A": A, "D": D, "W": W, "bias": bias, "order": paths}
    native.scan_paths_into(y, saved if keep else None, first, coefficients, stacked)
    return y, saved


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *given, saved = arguments
    u, coefficients, A, D, W, bias, paths = given
    form = form_of(u.device.type)
    du, dcoefficients = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (u, coefficients))
    own = dA, dD, dW, dbias = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (A, D, W, bias)]
    for k in range(len(paths)):
        inputs, parts = _path(given, k), _parts(dcoefficients, A, W, k)
        room = [du, parts[0], dA[k], *parts[1:], dD[k], None, dbias[k], None, dW[k]]
        if form is native:
            native.scan_backward_into(room, grad, None, inputs, saved[k], softplus=True, accumulate=True)
            continue
        nothing = u.new_zeros(u.shape[0], *A.shape[1:])
        found = form.scan_backward(grad, nothing, inputs, saved[k], softplus=True)
        for to, x in zip(room, found, strict=True):
            if to is not None:
                to.copy_(to + x if to is du else x)
    return (du, dcoefficients, *own)


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, keep = arguments
    u, count = given[0], given[-1].shape[0]
    saved = (count, *saved_shape(_path(given, 0))) if keep else (count, 0)
    return u.new_empty(u.shape), u.new_empty(saved)


def _backward_shapes(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:6])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.mambino.cross_scan_backward(grad, *ctx.saved_tensors), None, None)


def _check(u: Tensor, coefficients: Tensor, A: Tensor, D: Tensor, W: Tensor, bias: Tensor, paths: Tensor) -> None:
    if u.dim() != 3 or u.shape[1] < 1:
        raise ShapeError(f"cross_scan takes u of [batch, length >= 1, channels], got {tuple(u.shape)}")
    batch, length, channels = u.shape
    if A.dim() != 3 or A.shape[1] != channels:
        raise ShapeError(f"cross_scan takes A of [paths, {channels} channels, state], got {tuple(A.shape)}")
    if W.dim() != 3:
        raise ShapeError(f"cross_scan takes W of [paths, channels, rank], got {tuple(W.shape)}")
    count, rank, states = len(A), W.shape[2], A.shape[2]
    wanted = {
        "coefficients": (coefficients, (batch, length, count * (rank + 2 * states))),
        "D": (D, (count, channels)),
        "W": (W, (count, channels, rank)),
        "bias": (bias, (count, channels)),
        "paths": (paths, (count, length)),
    }
    for name, (x, shape) in wanted.items():
        if tuple(x.shape) != shape:
            raise ShapeError(f"cross_scan takes {name} of {shape} with this u and A, got {tuple(x.shape)}")
    if paths.dtype != torch.int32:
        raise ShapeError(f"cross_scan takes paths of int32, got {paths.dtype}")


for _device in ("CPU", "CUDA", "MPS", "XPU"):
    _library.impl("cross_scan", _forward, _device)  # type: ignore[no-untyped-call]
    _library.impl("cross_scan_backward", _backward, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::cross_scan", _shapes, lib=_library)
torch.library.register_fake("mambino::cross_scan_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("mambino::cross_scan", _differentiate, setup_context=_remember, lib=_library)
torch.library.register_autograd("mambino::cross_scan_backward", refuse_second, lib=_library)
for _name in ("cross_scan", "cross_scan_backward"):
    torch.library.register_vmap(f"mambino::{_name}", refuse_vmap, lib=_library)
