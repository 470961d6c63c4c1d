"""The scan operator in plain torch, for devices without a kernel: the chunked form with everything around it."""

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as softplus_of

from mambino.errors import MambinoWarning
from mambino.ops.selective_scan.chunked import cut_of
from mambino.ops.selective_scan.chunked import scan as chunked_scan
from mambino.ops.selective_scan.chunked import scan_backward as chunked_backward
from mambino.ops.selective_scan.inputs import Inputs, ordered, put_back, taken

SLOWDOWN = {"cpu": "about 10 to 20 times", "mps": "several times", "cuda": "many times"}
"""How much longer the plain form takes than a kernel for the device; measured on a processor only."""


@cache
def warn_once(device: str, reason: str) -> None:
    """Say, once, that the slow path is taken, why, and what it costs."""
    warnings.warn(
        f"the selective scan on {device} takes its portable form, {SLOWDOWN.get(device, 'many times')} slower: "
        f"{reason}; mambino doctor shows what each device does",
        MambinoWarning,
        stacklevel=2,
    )


def scan(inputs: Inputs, *, softplus: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [b l d], the last state [b d n], and the states that the gradient starts from (if `keep`)."""
    inputs = ordered(inputs)
    step = _steps(inputs, softplus=softplus)
    y, last, saved = _chunked(inputs, step, keep=keep)
    out = _gated(_passed(y, inputs), inputs)
    return put_back(out, inputs.order).contiguous(), last, saved


def scan_backward(
    grad: Tensor, grad_last: Tensor, inputs: Inputs, saved: Tensor, *, softplus: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all inputs but the order; None where there is no input."""
    inputs = ordered(inputs)
    u, z, order = inputs.u, inputs.z, inputs.order
    raw, step = _raw_steps(inputs), _steps(inputs, softplus=softplus)
    grad, grad_z = taken(grad, order), None
    if z is not None:
        y = _passed(_chunked(inputs, step, keep=False)[0], inputs)
        gate = torch.sigmoid(z)
        grad, grad_z = grad * silu(z), grad * y * gate * (1 + z * (1 - gate))
    B, C = _couplings(inputs)
    grad_major, u_major, step_major = (x.transpose(1, 2).contiguous() for x in (grad, u, step))
    back = chunked_backward(grad_major, grad_last, u_major, step_major, inputs.A, B, C, saved)
    grad_u, grad_step = (x.transpose(1, 2) for x in back[:2])
    if inputs.D is not None:
        grad_u = grad_u + grad * inputs.D
    grad_raw = grad_step * torch.sigmoid(raw) if softplus else grad_step
    grad_delta = grad_raw if inputs.W is None else grad_raw @ inputs.W
    sequences = [grad_u, grad_delta, *(_token_major(x) for x in back[3:5]), grad_z]
    du, ddelta, dB, dC, dz = (x if x is None or x.dim() == 2 else put_back(x, order).contiguous() for x in sequences)
    return (
        du,
        ddelta,
        back[2],
        dB,
        dC,
        None if inputs.D is None else (grad * u).sum((0, 1)),
        dz,
        None if inputs.bias is None else grad_raw.sum((0, 1)),
        None if inputs.state is None else back[5],
        None if inputs.W is None else grad_raw.flatten(0, 1).t() @ inputs.delta.flatten(0, 1),
    )


def saved_shape(inputs: Inputs) -> tuple[int, ...]:
    """Return the shape of the states that the gradient starts from."""
    batch, length, channels = inputs.u.shape
    sequence = inputs.u.new_empty((batch, channels, length), device="meta")
    couplings = [m.new_empty(m.shape if m.dim() == 2 else _coupling_shape(m), device="meta") for m in inputs[3:5]]
    return cut_of(sequence, inputs.A, *couplings).saved_shape


def _chunked(inputs: Inputs, step: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, state = inputs.u, inputs.state
    if state is None:
        state = u.new_zeros(u.shape[0], u.shape[2], inputs.A.shape[1])
    u, step = u.transpose(1, 2).contiguous(), step.transpose(1, 2).contiguous()
    y, last, saved = chunked_scan(u, step, inputs.A, *_couplings(inputs), state, keep=keep)
    return y.transpose(1, 2), last, saved


def _raw_steps(inputs: Inputs) -> Tensor:
    raw = inputs.delta if inputs.W is None else inputs.delta @ inputs.W.t()
    return raw if inputs.bias is None else raw + inputs.bias


def _steps(inputs: Inputs, *, softplus: bool) -> Tensor:
    raw = _raw_steps(inputs)
    return softplus_of(raw) if softplus else raw


def _passed(y: Tensor, inputs: Inputs) -> Tensor:
    return y if inputs.D is None else torch.addcmul(y, inputs.u, inputs.D)


def _gated(y: Tensor, inputs: Inputs) -> Tensor:
    return y if inputs.z is None else y * silu(inputs.z)


def _couplings(inputs: Inputs) -> tuple[Tensor, Tensor]:
    B, C = (m if m.dim() == 2 else m.permute(0, 2, 3, 1).contiguous() for m in (inputs.B, inputs.C))
    return B, C


def _coupling_shape(m: Tensor) -> tuple[int, int, int, int]:
    batch, length, groups, size = m.shape
    return batch, groups, size, length


def _token_major(coupling: Tensor) -> Tensor:
    return coupling if coupling.dim() == 2 else coupling.permute(0, 3, 1, 2)
