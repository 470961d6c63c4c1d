"""Swin-UMamba and Swin-UMamba† (arXiv 2402.03302): VMamba's encoder, with decoders of convolutions and of VSS blocks.

Follows JiarunLiu/Swin-UMamba (Apache-2.0), commits 2c1f72e and 6855410. In 2D, as published.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.dims import CONV, INSTANCE_NORM
from mambino.nn.drop_path import rising_rates
from mambino.nn.init import he_normal, truncated_normal
from mambino.nn.mixers import Mixer, Scan
from mambino.nn.patches import PatchEmbed, PatchExpand
from mambino.nn.ss2d import VSSBlock
from mambino.nn.unetr_blocks import ResidualBlock, ResidualUp
from mambino.nn.vss_encoder import VSSEncoder

PATCH = 4


class SwinUMamba(nn.Module):
    """VMamba's encoder on the halved image; skips pass a residual block each, and meet in a decoder of convolutions.

    Args:
        dim: 2.
        in_channels, out_channels: of images and logits.
        width: channels of the encoder's first stage, doubled at each further one; even.
        depths: blocks of each encoder stage, finest first.
        state_size: numbers of state a channel.
        drop_path: share of samples that pass by the last block of the encoder in training.
        mixer: "scan" is SS2D; "conv" or "attention" of like width in its place; "none" leaves it out of every block.
        scan: "identity" takes the recurrence out of SS2D, and leaves its projections, convolution, norm and gate.
    """

    deepest = True  # what comes out of the last stage of the encoder is used

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 9, 2),
        state_size: int = 16,
        drop_path: float = 0.2,
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        _check("swin_umamba", width, depths)
        block: dict[str, Any] = {"state_size": state_size, "mixer": mixer, "scan": scan}
        self.in_channels, self.divisor = in_channels, (PATCH * 2 ** (len(depths) - 1),) * dim
        half = width // 2
        self.stem = nn.Sequential(CONV[dim](in_channels, half, 7, 2, 3), INSTANCE_NORM[dim](half, affine=True))
        self.embed = PatchEmbed(dim, half, width, 2)
        self.encoder = VSSEncoder(dim, width, depths, drop_path=drop_path, **block)
        self.apply(truncated_normal)
        widths = (half, *self.encoder.widths)
        self.skips = nn.ModuleList(
            ResidualBlock(dim, a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        coarse = widths[::-1]
        self.bottom = ResidualUp(dim, coarse[0], coarse[0]) if self.deepest else None
        self.decoder = nn.ModuleList(ResidualUp(dim, a, b) for a, b in pairwise(coarse))
        self.last = ResidualBlock(dim, half, half)
        # A head for what `last` gives, then for the decoder's stages from half of the resolution on.
        self.heads = nn.ModuleList(CONV[dim](w, out_channels, 1) for w in (half, *widths[1:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        logits: Tensor = self.heads[0](self._features(x)[0])
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits at the full, the halved, ... resolution, finest first."""
        return tuple(head(f) for head, f in zip(self.heads, self._features(x), strict=True))

    def _features(self, x: Tensor) -> list[Tensor]:
        check_sides(x, self.in_channels, self.divisor)
        stem = self.stem(x)
        stages = [y.movedim(-1, 1) for y in self.encoder.outputs(self.embed(stem), last=self.deepest)]
        into = [x, stem, *stages]
        skips = [block(y) for block, y in zip(self.skips, into, strict=False)]
        y = self.bottom(into[-1], skips[-1]) if self.bottom is not None else skips[-1]
        found = []
        for up, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            y = up(y, skip)
            found.append(y)
        return [self.last(found[-1]), *found[-2::-1]]


class SwinUMambaFirst(SwinUMamba):
    """Swin-UMamba before 6 March 2024: the deepest stage of the encoder has weights but no use."""

    deepest = False


class SwinUMambaDagger(nn.Module):
    """VMamba's encoder on the image, and a decoder of VSS blocks: what was doubled and the skip, joined and mixed.

    Args:
        dim: 2.
        in_channels, out_channels: of images and logits.
        width, depths, state_size, drop_path, mixer, scan: as of `SwinUMamba`.
        decoder_depth: blocks of each decoder stage.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 9, 2),
        decoder_depth: int = 2,
        state_size: int = 16,
        drop_path: float = 0.2,
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        _check("swin_umamba_dagger", width, depths)
        if decoder_depth < 1:
            raise OptionError(f"swin_umamba_dagger: decoder_depth must be at least 1, got {decoder_depth}")
        block: dict[str, Any] = {"state_size": state_size, "mixer": mixer, "scan": scan}
        self.in_channels, self.divisor = in_channels, (PATCH * 2 ** (len(depths) - 1),) * dim
        self.embed = PatchEmbed(dim, in_channels, width, PATCH)
        self.encoder = VSSEncoder(dim, width, depths, drop_path=drop_path, **block)
        self.apply(truncated_normal)
        widths = self.encoder.widths[-2::-1]
        rates = reversed(rising_rates(drop_path, decoder_depth * len(widths)))
        self.expands = nn.ModuleList(PatchExpand(dim, 2 * w, w) for w in widths)
        self.joins = nn.ModuleList(nn.Linear(2 * w, w) for w in widths)
        self.decoder = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, w, drop_path=next(rates), **block) for _ in range(decoder_depth)))
            for w in widths
        )
        self.final = PatchExpand(dim, width, width, PATCH)
        self.heads = nn.ModuleList(CONV[dim](w, out_channels, 1) for w in (*widths, width))
        self.apply(he_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        logits: Tensor = self.heads[-1](self._features(x)[-1])
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits at the full resolution, then at a quarter, an eighth, ... of it."""
        return tuple(head(f) for head, f in zip(self.heads, self._features(x), strict=True))[::-1]

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return the features of every decoder stage, coarsest first."""
        check_sides(x, self.in_channels, self.divisor)
        stages = self.encoder.outputs(self.embed(x))
        y, found = stages[-1], []
        for expand, join, blocks, skip in zip(self.expands, self.joins, self.decoder, stages[-2::-1], strict=True):
            y = blocks(join(torch.cat([expand(y), skip], -1)))
            found.append(y.movedim(-1, 1))
        return [*found, self.final(y).movedim(-1, 1)]


def _check(name: str, width: int, depths: tuple[int, ...]) -> None:
    if width < 2 or width % 2:
        raise OptionError(f"{name}: width must be even, got {width}")
    if len(depths) < 2 or min(depths) < 1:
        raise OptionError(f"{name}: depths needs a number of at least 1 for each of two stages or more, got {depths}")
