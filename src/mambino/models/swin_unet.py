"""Swin-Unet (arXiv 2105.05537): a U-Net of Swin transformer blocks alone.

Follows HuCaoFighting/Swin-Unet, commit f48f623.
"""

import math

import torch
from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_patch, check_sides
from mambino.nn.drop_path import rising_rates
from mambino.nn.init import truncated_normal
from mambino.nn.patches import PatchExpand, PatchMerging
from mambino.nn.swin import check_levels, swin_blocks

TOKEN = 4
"""Side of the square of pixels that becomes a token."""


class SwinUNet(nn.Module):
    """Swin transformer blocks down and up again; skips are joined, and mixed by a linear layer.

    Windows must fill the image at every level, so that the network takes images of one size. The original repeats
    a grey image to three channels before its network; here the network has the channels of the image, and weights of
    the original, which are of three, take images of three.

    Args:
        dim: 2.
        in_channels, out_channels: of images and logits.
        patch: size of the images (pixels).
        width: channels of the finest level, a quarter of the sides; doubled at each further one.
        depths: blocks of each level, finest first, down and up alike.
        heads: attentions side by side at each level; the level's width is a multiple of it.
        window: side of the windows of attention (tokens); where an image is smaller, its shorter side.
        positions: learn a number for every place and channel, added to the tokens at the beginning.
        drop_path: share of images that go without the last block's branches in training; earlier ones less.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        patch: tuple[int, ...] = (224, 224),
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
        positions: bool = False,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        self.patch, self.in_channels, levels = patch, in_channels, len(depths)
        self.divisor = (TOKEN * 2 ** (levels - 1),) * dim
        check_levels("swin_unet", width, depths, heads, window)
        _check(patch, self.divisor, drop_path)
        places = [tuple(side // (TOKEN * 2**i) for side in patch) for i in range(levels)]
        windows = [_window(i, place, window) for i, place in enumerate(places)]
        rates = rising_rates(drop_path, sum(depths))

        def blocks(level: int) -> nn.Sequential:
            own = rates[sum(depths[:level]) : sum(depths[: level + 1])]
            several = min(places[level]) > window
            return swin_blocks(dim, width * 2**level, heads[level], windows[level], own, shift=several)

        self.embed = nn.Conv2d(in_channels, width, TOKEN, stride=TOKEN)
        self.embed_norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.empty(1, math.prod(places[0]), width)) if positions else None
        self.stages = nn.ModuleList(blocks(level) for level in range(levels))
        self.merges = nn.ModuleList(PatchMerging(dim, width * 2**level, pad=True) for level in range(levels - 1))
        self.norm = nn.LayerNorm(width * 2 ** (levels - 1))
        up = range(levels - 2, -1, -1)
        self.expands = nn.ModuleList(PatchExpand(dim, width * 2 ** (level + 1), width * 2**level) for level in up)
        self.joins = nn.ModuleList(nn.Linear(width * 2 ** (level + 1), width * 2**level) for level in up)
        self.decoder = nn.ModuleList(blocks(level) for level in up)
        self.decoder_norm = nn.LayerNorm(width)
        self.last = PatchExpand(dim, width, width, TOKEN)
        self.head = nn.Conv2d(width, out_channels, 1, bias=False)
        self.apply(truncated_normal)
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        check_patch(x, self.patch)
        x = self.embed_norm(self.embed(x).movedim(1, -1))
        if self.positions is not None:
            x = x + self.positions.reshape(1, *x.shape[1:])
        skips = []
        for stage, merge in zip(self.stages, self.merges, strict=False):
            skips.append(x)
            x = merge(stage(x))
        x = self.norm(self.stages[-1](x))
        for expand, join, blocks, skip in zip(self.expands, self.joins, self.decoder, reversed(skips), strict=True):
            x = blocks(join(torch.cat([expand(x), skip], -1)))
        logits: Tensor = self.head(self.last(self.decoder_norm(x)).movedim(-1, 1))
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)


def _window(level: int, place: tuple[int, ...], window: int) -> int:
    """Return the side of the windows at a level whose map has the sides `place`, which windows must fill."""
    side = min(window, *place)
    if any(p % side for p in place):
        raise OptionError(
            f"swin_unet: windows of {side} tokens do not fill the map of {place} tokens at level {level}",
            hint="choose a patch whose sides are multiples of 32 times window, such as 224 with window 7",
        )
    return side


def _check(patch: tuple[int, ...], divisor: tuple[int, ...], drop_path: float) -> None:
    if len(patch) != len(divisor) or any(p % d or p < 1 for p, d in zip(patch, divisor, strict=True)):
        raise OptionError(f"swin_unet: the sides of patch must be multiples of {divisor}, got {patch}")
    if not 0 <= drop_path < 1:
        raise OptionError(f"swin_unet: drop_path must be at least 0 and below 1, got {drop_path}")
