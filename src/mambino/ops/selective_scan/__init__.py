"""The selective scan: a linear recurrence along a sequence whose coefficients follow the input."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mambino.errors import ShapeError
from mambino.ops.selective_scan.operator import scan_operator


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
    wide = torch.promote_types(u.dtype, torch.float32)
    x, step = u.to(wide), delta.to(wide)
    if delta_bias is not None:
        step = step + delta_bias.to(wide)[:, None]
    if softplus:
        step = functional.softplus(step)
    h = step.new_zeros(*u.shape[:2], A.shape[1]) if state is None else state.to(wide)
    y, last = scan_operator(x, step, A.to(wide), _grouped(B).to(wide), _grouped(C).to(wide), h)
    if D is not None:
        y = torch.addcmul(y, x, D.to(wide)[:, None])
    if z is not None:
        y = y * functional.silu(z.to(wide))
    return y.to(u.dtype), last


def _grouped(coupling: Tensor) -> Tensor:
    return coupling[:, None] if coupling.dim() == 3 else coupling


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
