"""Mamba: one sequence in, one out, each token seeing all before it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from mambino.ops.selective_scan import selective_scan


class Mamba(nn.Module):
    """The first Mamba block: gate, short causal convolution, selective scan (arXiv 2312.00752, figure 3).

    Sequences are channel-first, [b c l], so that a flattened image needs no copy.

    Args:
        width: channels in and out.
        state_size: n, numbers of state a channel.
        kernel: reach of the causal convolution (tokens).
        expand: inner width over `width`.
        rank: numbers that a token's step sizes are made from; a sixteenth of `width`, rounded up, if None.
        bias: of the projections in and out.
        conv_bias: of the causal convolution.
    """

    def __init__(
        self,
        width: int,
        *,
        state_size: int = 16,
        kernel: int = 4,
        expand: int = 2,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        inner, self.rank, self.state_size = expand * width, rank or math.ceil(width / 16), state_size
        self.in_proj = nn.Linear(width, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1, bias=conv_bias)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state_size + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=bias)
        with torch.no_grad():
            _initialise_steps(self.dt_proj, self.rank)

    def forward(self, tokens: Float[Tensor, "b c l"]) -> Float[Tensor, "b c l"]:
        x, z = project(self.in_proj, tokens).chunk(2, dim=1)
        x = silu(self.conv1d(x)[..., : x.shape[-1]])
        step, enter, leave = torch.split(project(self.x_proj, x), [self.rank, self.state_size, self.state_size], dim=1)
        delta, rates = _along_channels(self.dt_proj.weight, step), -self.A_log.float().exp()
        y, _ = selective_scan(x, delta, rates, enter, leave, D=self.D, z=z, delta_bias=self.dt_proj.bias, softplus=True)
        return project(self.out_proj, y)


def project(layer: nn.Linear, x: Float[Tensor, "b c l"]) -> Float[Tensor, "b k l"]:
    """Apply a linear layer to the channels of a channel-first sequence."""
    y = _along_channels(layer.weight, x)
    return y if layer.bias is None else y + layer.bias[:, None]


def _along_channels(weight: Float[Tensor, "k c"], x: Float[Tensor, "b c l"]) -> Float[Tensor, "b k l"]:
    # weight @ x gives the same, up to seven times slower: it computes the transpose and copies.
    return torch.bmm(weight.expand(x.shape[0], *weight.shape), x)


def _initialise_steps(layer: nn.Linear, rank: int, shortest: float = 1e-3, longest: float = 1e-1) -> None:
    """Let initial step sizes, after softplus, be log-uniform between `shortest` and `longest`."""
    layer.weight.uniform_(-(rank**-0.5), rank**-0.5)
    span = math.log(longest) - math.log(shortest)
    step = (torch.rand(layer.bias.shape) * span + math.log(shortest)).exp().clamp(min=1e-4)
    layer.bias.copy_(step + (-(-step).expm1()).log())
