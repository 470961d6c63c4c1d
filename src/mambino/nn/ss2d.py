"""SS2D: a scan along every axis of an image, both ways; and the block round it."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambino.nn.dims import CONV
from mambino.nn.drop_path import DropPath
from mambino.nn.mamba import initialise_steps
from mambino.nn.mixers import Attention, GridConv, Mixer, Scan, check_names
from mambino.nn.transformer import MLP
from mambino.ops.cross_scan import cross_scan
from mambino.ops.grid_conv import grid_conv
from mambino.ops.layer_norm import layer_norm
from mambino.ops.linear import linear
from mambino.ops.scan_paths import scan_paths


class SS2D(nn.Module):
    """Projection, depthwise convolution, scans along all axes, normalisation, gate, projection (arXiv 2401.10166).

    Both generations of VMamba have this mixer; images have their channels last, [b *s c]. In 2D four scans add
    into one output: by rows, by columns, and both backwards; in 3D six.

    Args:
        dim: 2 or 3.
        width: channels in and out.
        state_size: n, numbers of state a channel.
        expand: inner width over `width`.
        gate: multiply by a gate made of the input, as the first generation does.
        conv_bias: of the depthwise convolution.
        scan: "selective", or "identity": all but the recurrence stays.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        state_size: int = 16,
        expand: float = 2.0,
        gate: bool = True,
        conv_bias: bool = True,
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        check_names("scan", scan)
        inner, rank, paths = int(expand * width), math.ceil(width / 16), 2 * dim
        self.inner, self.gate, self.scan = inner, gate, scan
        self.in_proj = nn.Linear(width, inner * (1 + gate), bias=False)
        self.conv = CONV[dim](inner, inner, 3, padding=1, groups=inner, bias=conv_bias)
        if scan == "selective":
            bound = inner**-0.5
            self.x_proj = nn.Parameter(torch.empty(paths, rank + 2 * state_size, inner).uniform_(-bound, bound))
            self.dt_proj = nn.Parameter(torch.empty(paths, inner, rank))
            self.dt_bias = nn.Parameter(torch.empty(paths, inner))
            self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(paths * inner, 1))
            with torch.no_grad():
                initialise_steps(self.dt_proj, self.dt_bias)
        self.D = nn.Parameter(torch.ones(paths * inner))
        self.norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        space = x.shape[1:-1]
        x, z = linear(x, self.in_proj.weight).tensor_split([self.inner], -1)
        x = grid_conv(x, self.conv, silu=True)
        y = self._scanned(x.flatten(1, -2), space)
        y = layer_norm(y, self.norm, gate=z.flatten(1, -2) if self.gate else None)
        result: Tensor = self.out_proj(y.view(x.shape))
        return result

    def _scanned(self, tokens: Tensor, space: torch.Size) -> Tensor:
        if self.scan == "identity":
            return tokens * self.D.view(-1, self.inner).sum(0)
        paths = len(self.x_proj)
        return cross_scan(
            tokens,
            linear(tokens, self.x_proj.flatten(0, 1)),
            -self.A_log.float().exp().view(paths, self.inner, -1),
            self.D.view(paths, -1),
            self.dt_proj,
            self.dt_bias,
            scan_paths(space, tokens.device),
        )


class VSSBlock(nn.Module):
    """A residual SS2D, and in the second generation a residual perceptron after it; [b *s c].

    Args:
        dim, width: as of `SS2D`.
        mlp_ratio: inner width of the perceptron over `width`; 0 leaves it out.
        drop_path: share of samples that pass a branch by in training.
        mixer: "scan" is SS2D; "conv" or "attention" of like width in its place; "none" leaves the branch out.
        options: of `SS2D`.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        mlp_ratio: float = 0.0,
        drop_path: float = 0.0,
        mixer: Mixer = "scan",
        **options: Any,
    ) -> None:
        super().__init__()
        self.mixes = mixer != "none"
        check_names(mixer, options.get("scan", "selective"))
        if self.mixes:
            self.norm = nn.LayerNorm(width)
            self.mixer = _mixer(mixer, dim, width, options)
        self.drop_path = DropPath(drop_path)
        if mlp_ratio > 0:
            self.norm2 = nn.LayerNorm(width)
            self.mlp = MLP(width, int(mlp_ratio * width))
        self.has_mlp = mlp_ratio > 0

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        if self.mixes:
            x = x + self.drop_path(self.mixer(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x))) if self.has_mlp else x


def _mixer(mixer: Mixer, dim: int, width: int, options: dict[str, Any]) -> nn.Module:
    if mixer == "conv":
        return GridConv(dim, width, expand=options.get("expand", 2.0))
    return Attention(width) if mixer == "attention" else SS2D(dim, width, **options)
