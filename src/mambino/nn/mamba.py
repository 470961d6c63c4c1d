"""Mamba: one sequence in, one out, each token seeing all before it."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from mambino.ops.causal_conv import causal_conv
from mambino.ops.layer_norm import layer_norm
from mambino.ops.linear import linear
from mambino.ops.selective_scan import scan_tokens

Around = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor | None], Tensor]
"""What is done to tokens around their mixing, which is its first argument; each token by itself. The result goes into
the last one, if it is there."""


def alone(mix: Callable[[Tensor], Tensor], tokens: Tensor, out: Tensor | None = None) -> Tensor:
    """Mix the tokens, and nothing else."""
    return mix(tokens) if out is None else out.copy_(mix(tokens))


TILE = 16384
"""Tokens that go through the block together where nothing is learnt: what is wider than the input stays this long."""


class Mamba(nn.Module):
    """The first Mamba block: gate, short causal convolution, selective scan (arXiv 2312.00752, figure 3).

    Sequences are token-major, [b l c], so that no step needs a copy.

    Args:
        width: channels in and out.
        state_size: n, numbers of state a channel.
        kernel: reach of the causal convolution (tokens).
        expand: inner width over `width`.
        rank: numbers that a token's step sizes are made from; a sixteenth of `width`, rounded up, if None.
        bias: of the projections in and out.
        conv_bias: of the causal convolution.
        scan: "identity" leaves the recurrence out, and with it what only the recurrence uses; each channel of a
            token passes by it as D times itself, and projections, convolution, norm and gate stay.
        norm: normalise what the scan gives, before the gate.
    """

    def __init__(  # noqa: PLR0913 - all that published blocks differ in
        self,
        width: int,
        *,
        state_size: int = 16,
        kernel: int = 4,
        expand: int = 2,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        scan: Literal["selective", "identity"] = "selective",
        norm: bool = False,
    ) -> None:
        super().__init__()
        inner, self.rank, self.state_size = expand * width, rank or math.ceil(width / 16), state_size
        self.in_proj = nn.Linear(width, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1, bias=conv_bias)
        self.recurs = scan == "selective"
        if self.recurs:
            self.x_proj = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
            self.dt_proj = nn.Linear(self.rank, inner)
            self.A_log = nn.Parameter(torch.arange(1, state_size + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.norm = nn.LayerNorm(inner) if norm else None
        self.out_proj = nn.Linear(inner, width, bias=bias)
        if self.recurs:
            with torch.no_grad():
                initialise_steps(self.dt_proj.weight, self.dt_proj.bias)

    def forward(self, tokens: Float[Tensor, "b l c"], around: Around = alone) -> Float[Tensor, "b l k"]:
        """Mix the tokens; `around(mix, tokens, out)` does it with what belongs before and after, a token at a time.

        Where nothing is learnt, long sequences go through all of it in parts, and what is wider than they stays short.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or tokens.shape[1] <= TILE:
            return around(lambda whole: self._tile(whole, None, None)[0], tokens, None)
        before, state = None, None

        def mix(part: Tensor) -> Tensor:
            nonlocal before, state
            y, before, state = self._tile(part, before, state)
            return y

        first, *others = torch.split(tokens, TILE, 1)
        y = around(mix, first, None)
        result = y.new_empty(y.shape[0], tokens.shape[1], y.shape[2])
        places = iter(torch.split(result, TILE, 1))
        next(places).copy_(y)
        for place, part in zip(places, others, strict=True):
            around(mix, part, place)
        return result

    def _tile(
        self, tokens: Tensor, before: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run a part of a sequence; `before` and `state` are what the part before it has left."""
        x, z = linear(tokens, self.in_proj.weight, self.in_proj.bias).chunk(2, dim=-1)
        left = self._left(x, before)
        x = causal_conv(x, self.conv1d.weight[:, 0], self.conv1d.bias, before=before, silu=True)
        gates = self.recurs and self.norm is None  # then the scan does, in one go
        y, state = self._scan(x, z if gates else None, state) if self.recurs else (x * self.D, None)
        if not gates:
            y = y * silu(z) if self.norm is None else layer_norm(y, self.norm, gate=z)
        return linear(y, self.out_proj.weight, self.out_proj.bias), left, state

    def _scan(self, x: Tensor, z: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        step, enter, leave = linear(x, self.x_proj.weight).split_with_sizes(
            [self.rank, self.state_size, self.state_size], -1
        )
        return scan_tokens(
            x,
            step,
            -self.A_log.float().exp(),
            enter,
            leave,
            D=self.D,
            z=z,
            delta_weight=self.dt_proj.weight,
            delta_bias=self.dt_proj.bias,
            softplus=True,
            state=state,
        )

    def _left(self, x: Tensor, before: Tensor | None) -> Tensor | None:
        """Return the last tokens of a part, which the convolution of the next part sees; none are needed to learn."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        count = self.conv1d.kernel_size[0] - 1
        if x.shape[1] < count:
            x = torch.cat([x.new_zeros(x.shape[0], count, x.shape[2]) if before is None else before, x], 1)
        return x[:, x.shape[1] - count :].contiguous()


def initialise_steps(weight: Tensor, bias: Tensor, shortest: float = 1e-3, longest: float = 1e-1) -> None:
    """Let initial step sizes, after softplus, be log-uniform between `shortest` and `longest`; weight is [... r]."""
    bound = weight.shape[-1] ** -0.5
    weight.uniform_(-bound, bound)
    span = math.log(longest) - math.log(shortest)
    step = (torch.rand(bias.shape) * span + math.log(shortest)).exp().clamp(min=1e-4)
    bias.copy_(step + (-(-step).expm1()).log())
