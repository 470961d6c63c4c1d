"""The selective scan: a recurrence along a sequence whose coefficients follow the input."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambino.errors import ShapeError
from mambino.ops.selective_scan.chunked import ChunkedScan


def selective_scan(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Tensor,
    C: Tensor,
    *,
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b d l"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    softplus: bool = False,
    state: Float[Tensor, "b d n"] | None = None,
) -> tuple[Float[Tensor, "b d l"], Float[Tensor, "b d n"]]:
    wide = torch.promote_types(u.dtype, torch.float32)
    step = delta.to(wide)
    if delta_bias is not None:
        step = step + delta_bias.to(wide)[:, None]
    if softplus:
        step = F.softplus(step)
    if state is None:
        state = step.new_zeros(*u.shape[:2], A.shape[1])
    y, last = ChunkedScan.apply(u.to(wide), step, A.to(wide), B.to(wide), C.to(wide), state.to(wide))
    if D is not None:
        y = y + D.to(wide)[:, None] * u.to(wide)
    if z is not None:
        y = y * F.silu(z.to(wide))
    return y.to(u.dtype), last
