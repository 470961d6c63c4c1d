"""The scan operator on GPUs: what the Triton kernels leave to torch. Triton is imported with the first call."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from torch import Tensor

from mambino.ops.selective_scan.inputs import Inputs, ordered, put_back, rowwise, taken

OLDEST = (3, 3)
"""Release of Triton that the kernels need; it comes with torch 2.7."""
CHUNK = 32
"""Tokens between two states that the gradient starts from; as in triton.py, which cannot be imported everywhere."""


@cache
def missing() -> str:
    """Say why the kernels cannot be used here; empty where they can."""
    if find_spec("triton") is None:
        return "Triton, which comes with CUDA builds of torch, is not installed"
    try:
        known = version("triton")
    except PackageNotFoundError:
        return ""  # a build of its own; it will say itself what it lacks
    found = tuple(int(part) for part in known.split("+")[0].split(".")[:2])
    return "" if found >= OLDEST else f"Triton {known} is older than {OLDEST[0]}.{OLDEST[1]}"


def saved_shape(inputs: Inputs) -> tuple[int, ...]:
    """Return the shape of the states that the gradient starts from: one before each chunk."""
    (batch, length, channels), size = inputs.u.shape, inputs.A.shape[1]
    return (batch, -(-length // CHUNK), channels, size)


def scan(inputs: Inputs, *, softplus: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [b l d], the last state [b d n], and the states that the gradient starts from (if `keep`)."""
    from mambino.ops.selective_scan import triton

    u, delta, A, B, C, D, z, bias, state, _, _ = _laid_out(inputs)
    y, last, saved = triton.scan(u, delta, A, B, C, D, z, bias, state, softplus=softplus, keep=keep)
    return put_back(y, inputs.order), last, saved


def scan_backward(
    grad: Tensor, grad_last: Tensor, inputs: Inputs, saved: Tensor, *, softplus: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all inputs but the order; None where there is no input."""
    from mambino.ops.selective_scan import triton

    order, W = inputs.order, inputs.W
    u, delta, A, B, C, D, z, bias, state, _, _ = _laid_out(inputs)
    grad = rowwise(taken(grad, order))
    du, steps, dA, dB, dC, dD, dz, dbias, dstate = triton.scan_backward(
        grad, grad_last, u, delta, A, B, C, D, z, bias, state, saved, softplus=softplus
    )
    ddelta, dW = steps, None
    if W is not None and steps is not None:
        numbers = taken(inputs.delta, order)
        ddelta, dW = steps @ W.to(steps.dtype), (steps.flatten(0, 1).t() @ numbers.flatten(0, 1)).to(W.dtype)
    du, ddelta, dB, dC, dz = (x if x is None or x.dim() == 2 else put_back(x, order) for x in (du, ddelta, dB, dC, dz))
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dstate, dW


def _laid_out(inputs: Inputs) -> Inputs:
    """Put tokens into the order of the scan, channels side by side, and make the step sizes from what they are of."""
    there = ordered(inputs)
    if there.W is not None:
        there = there._replace(delta=there.delta @ there.W.t().to(there.delta.dtype))
    names = ("u", "delta", "B", "C", "z")
    return there._replace(**{name: rowwise(x) for name in names if (x := getattr(there, name)) is not None})
