"""The selective scan: a linear recurrence along a sequence whose coefficients follow the input."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambino.errors import ShapeError
from mambino.ops.selective_scan.inputs import Inputs
from mambino.ops.selective_scan.operator import path, scan_operator


def selective_scan(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    C: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    *,
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b d l"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    softplus: bool = False,
    state: Float[Tensor, "b d n"] | None = None,
) -> tuple[Float[Tensor, "b d l"], Float[Tensor, "b d n"]]:
    """Scan a sequence (arXiv 2312.00752, section 3).

        delta = softplus(delta + delta_bias)                       bias and softplus where asked for
        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = (C[t] . h[t] + D u[t]) * silu(z[t])                 D and z where given

    Args:
        u: the sequence.
        delta: step size; positive after bias and softplus.
        A: decay rates, negative, so that h stays bounded.
        B: how the input enters the state: constant, at each step, or at each step for each of g groups
            of d/g consecutive channels.
        C: how the state becomes output, in the same three forms.
        D: how the input passes by the state.
        z: the gate.
        delta_bias: added to the step size.
        softplus: make the step size positive; linear above 20, as torch has it.
        state: h before the first step; zeros if None.

    Returns:
        y in the dtype of `u`, and h after the last step. All is computed in float32 (float64 for float64
        inputs), whatever the inputs are: half precision overflows after a few hundred steps.

    Raises:
        ShapeError: an input does not fit the others.
    """
    _check(u, delta, A, B, C, {"D": D, "delta_bias": delta_bias}, {"z": z}, state)
    B, C = (m if m.dim() == 2 else (m[:, None] if m.dim() == 3 else m).permute(0, 3, 1, 2) for m in (B, C))
    gate = None if z is None else z.transpose(1, 2)
    inputs = Inputs(u.transpose(1, 2), delta.transpose(1, 2), A, B, C, D, gate, delta_bias, state, None, None)
    y, last = _scan(inputs, softplus=softplus)
    return y.transpose(1, 2), last


def scan_tokens(
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"] | Float[Tensor, "b l r"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "d n"] | Float[Tensor, "b l n"] | Float[Tensor, "b l g n"],
    C: Float[Tensor, "d n"] | Float[Tensor, "b l n"] | Float[Tensor, "b l g n"],
    *,
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b l d"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_weight: Float[Tensor, "d r"] | None = None,
    softplus: bool = False,
    state: Float[Tensor, "b d n"] | None = None,
    order: Int[Tensor, " l"] | None = None,
) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b d n"]]:
    """Scan tokens that have their channels side by side, as `selective_scan` does: nothing is transposed or copied.

    Args:
        u, A, D, z, delta_bias, softplus, state: as there.
        delta: step sizes, or with `delta_weight` the r numbers of a token that they are a product of.
        B, C: as there, but token-major.
        delta_weight: makes a step size for each channel of the r numbers in `delta`.
        order: the token of each step, each token once; as they lie if None.

    Returns:
        y in the dtype of `u`, token by token as `u` lies, and h after the last step.

    Raises:
        ShapeError: an input does not fit the others.
    """
    _check_tokens(u, delta, delta_weight, order)
    steps = delta if delta_weight is None else u
    enter, leave = (m if m.dim() == 2 else m.movedim(1, -1) for m in (B, C))
    gate = None if z is None else z.transpose(1, 2)
    channelwise = {"D": D, "delta_bias": delta_bias}
    _check(u.transpose(1, 2), steps.transpose(1, 2), A, enter, leave, channelwise, {"z": gate}, state)
    B, C = (m[:, :, None] if m.dim() == 3 else m for m in (B, C))
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, state, delta_weight, order)
    return _scan(inputs, softplus=softplus)


def _scan(inputs: Inputs, *, softplus: bool) -> tuple[Tensor, Tensor]:
    """Give inputs the types that the device computes with, B and C the same groups, and call the operator."""
    kind = inputs.u.dtype
    wide = torch.promote_types(kind, torch.float32)
    # A GPU reads half precision as it is, and saves half of what takes longest there; parameters stay wide.
    names = ("A", "D", "bias", "state") if path(inputs.u.device.type) == "triton" else Inputs._fields[:-1]
    cast = inputs._replace(**{name: x.to(wide) for name in names if (x := getattr(inputs, name)) is not None})
    groups = [m.shape[2] for m in (cast.B, cast.C) if m.dim() == 4]
    if len(set(groups)) > 1:
        common = math.lcm(*groups)
        cast = cast._replace(**{name: _repeated(getattr(cast, name), common) for name in ("B", "C")})
    y, last = scan_operator(cast, softplus=softplus)
    return y.to(kind), last


def _repeated(coupling: Tensor, groups: int) -> Tensor:
    return coupling if coupling.dim() == 2 else coupling.repeat_interleave(groups // coupling.shape[2], 2)


def _check_tokens(u: Tensor, delta: Tensor, weight: Tensor | None, order: Tensor | None) -> None:
    if u.dim() != 3 or u.shape[1] < 1:
        raise ShapeError(f"scan_tokens takes u of [batch, length >= 1, channels], got {tuple(u.shape)}")
    batch, length, channels = u.shape
    if weight is not None and (weight.dim() != 2 or weight.shape[0] != channels):
        raise ShapeError(f"scan_tokens takes delta_weight of [{channels} channels, rank], got {tuple(weight.shape)}")
    if weight is not None and tuple(delta.shape) != (batch, length, weight.shape[1]):
        wanted = (batch, length, weight.shape[1])
        raise ShapeError(f"scan_tokens takes delta of {wanted} with this delta_weight, got {tuple(delta.shape)}")
    if order is not None and (tuple(order.shape) != (length,) or order.dtype != torch.int32):
        raise ShapeError(f"scan_tokens takes an order of ({length},) int32, got {tuple(order.shape)} {order.dtype}")


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    channelwise: dict[str, Tensor | None],
    sequences: dict[str, Tensor | None],
    state: Tensor | None,
) -> None:
    if u.dim() != 3 or u.shape[-1] < 1:
        raise ShapeError(f"selective_scan takes u of [batch, channels, length >= 1], got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ShapeError(f"selective_scan takes A of [{channels} channels, state], got {tuple(A.shape)}")
    size = A.shape[1]
    for name, coupling in (("B", B), ("C", C)):
        _check_coupling(name, coupling, u, size)
    whole = (batch, channels, length)
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "delta": (delta, whole),
        "state": (state, (batch, channels, size)),
    }
    wanted |= {name: (x, whole) for name, x in sequences.items()}
    wanted |= {name: (x, (channels,)) for name, x in channelwise.items()}
    for name, (x, shape) in wanted.items():
        if x is not None and tuple(x.shape) != shape:
            raise ShapeError(f"selective_scan takes {name} of {shape} with this u, got {tuple(x.shape)}")


def _check_coupling(name: str, coupling: Tensor, u: Tensor, size: int) -> None:
    batch, channels, length = u.shape
    groups = coupling.shape[1] if coupling.dim() == 4 else 1
    fitting = {2: (channels, size), 3: (batch, size, length), 4: (batch, groups, size, length)}
    if tuple(coupling.shape) != fitting.get(coupling.dim()) or groups < 1 or channels % groups:
        forms = f"{(channels, size)}, {(batch, size, length)} or {(batch, 'groups', size, length)}"
        raise ShapeError(
            f"selective_scan takes {name} of {forms}, groups dividing {channels}, got {tuple(coupling.shape)}"
        )
