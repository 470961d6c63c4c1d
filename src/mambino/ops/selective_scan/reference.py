"""The definition of the selective scan: slow, and what every other form is tested against."""

import torch
from jaxtyping import Float
from torch import Tensor


def selective_scan_reference(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    C: Float[Tensor, "d n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"],
    *,
    state: Float[Tensor, "b d n"] | None = None,
) -> tuple[Float[Tensor, "b d l"], Float[Tensor, "b d n"]]:
    """Run a linear recurrence whose step, input map and output map follow the input.

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = C[t] . h[t]

    Args:
        u: the sequence.
        delta: step size, positive; bias and softplus are the caller's.
        A: decay rates, negative, so that h stays bounded.
        B: how the input enters the state: constant, at each step, or at each step for each group of
            d/g consecutive channels.
        C: how the state becomes output, in the same three forms.
        state: h before the first step; zeros if None.

    Returns:
        y in the dtype of `u`, and h after the last step, unrounded. The recurrence runs in
        float32 (float64 for float64 inputs): half precision overflows after a few hundred steps.
    """
    wide = torch.promote_types(u.dtype, torch.float32)
    h = u.new_zeros(*u.shape[:2], A.shape[1], dtype=wide) if state is None else state.to(wide)
    steps = [x.to(wide).unbind(-1) for x in (u, delta, _per_channel(B, u), _per_channel(C, u))]
    outputs = []
    for u_t, step, B_t, C_t in zip(*steps, strict=True):
        h = torch.exp(step[..., None] * A.to(wide)) * h + (step * u_t)[..., None] * B_t
        outputs.append((h * C_t).sum(-1))
    return torch.stack(outputs, -1).to(u.dtype), h


def _per_channel(x: Tensor, u: Tensor) -> Float[Tensor, "b d n l"]:
    """Give every channel its own copy of an input or output map."""
    batch, channels, length = u.shape
    if x.dim() == 2:
        return x[None, :, :, None].expand(batch, -1, -1, length)
    if x.dim() == 3:
        return x[:, None].expand(-1, channels, -1, -1)
    return x.repeat_interleave(channels // x.shape[1], dim=1)
