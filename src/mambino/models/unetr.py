"""UNETR (arXiv 2103.10504): a vision transformer with a convolutional decoder, as MONAI 1.3 has it (Apache-2.0)."""

import math

import torch
from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_patch, check_sides
from mambino.nn.dims import CONV
from mambino.nn.tokens import to_image, to_tokens
from mambino.nn.transformer import TransformerBlock
from mambino.nn.unetr_blocks import ResidualBlock, ResidualUp, double

TOKEN = 16
"""Side of the cube of voxels that becomes a token."""

LAYERS = 12
SKIPS = (3, 6, 9)
"""Blocks of the transformer, counted from 0, whose outputs the decoder sees."""


class UNETR(nn.Module):
    """A transformer over cubes of 16 voxels; its layers, raised to finer sides, are the skips of a decoder.

    A token's place is learnt, so that the network takes images of one size.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        patch: size of the images (voxels), multiples of 16; 96 along each axis, as in the paper, if empty.
        width: channels at full resolution.
        hidden: channels of the transformer, a multiple of `heads`.
        mlp: width of the layers that each token passes by itself.
        heads: attentions side by side.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        patch: tuple[int, ...] = (),
        width: int = 16,
        hidden: int = 768,
        mlp: int = 3072,
        heads: int = 12,
    ) -> None:
        super().__init__()
        self.patch = patch or (96,) * dim
        _check(dim, self.patch, hidden, heads)
        self.in_channels, self.divisor = in_channels, (TOKEN,) * dim
        self.transformer = VisionTransformer(dim, in_channels, self.patch, hidden, mlp, heads)
        self.first = ResidualBlock(dim, in_channels, width)
        # The earlier the layer, the finer its skip.
        self.rises = nn.ModuleList(_rise(dim, hidden, width * 2**i, 4 - i) for i in (1, 2, 3))
        widths = (hidden, width * 8, width * 4, width * 2, width)
        self.ups = nn.ModuleList(ResidualUp(dim, widths[i], widths[i + 1]) for i in range(4))
        self.head = CONV[dim](width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        check_patch(x, self.patch)
        *layers, last = self.transformer(x)
        skips = [self.first(x), *(rise(layer) for rise, layer in zip(self.rises, layers, strict=True))]
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            last = up(last, skip)
        logits: Tensor = self.head(last)
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)


class VisionTransformer(nn.Module):
    """Twelve transformer blocks over the tokens of an image."""

    def __init__(self, dim: int, in_channels: int, patch: tuple[int, ...], hidden: int, mlp: int, heads: int) -> None:
        super().__init__()
        self.embed = CONV[dim](in_channels, hidden, TOKEN, stride=TOKEN)
        self.positions = nn.Parameter(torch.empty(1, math.prod(side // TOKEN for side in patch), hidden))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, heads, mlp) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the layers that are skips, as images, and the last one normalised."""
        x = self.embed(x)
        space, tokens, found = x.shape[2:], to_tokens(x) + self.positions, []
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens)
            if layer in SKIPS:
                found.append(tokens)
        return [to_image(t, space) for t in (*found, self.norm(tokens))]


def _rise(dim: int, hidden: int, width: int, times: int) -> nn.Sequential:
    """Double the sides as many times, the first time without a block after it."""
    more = (nn.Sequential(double(dim, width, width), ResidualBlock(dim, width, width)) for _ in range(times - 1))
    return nn.Sequential(double(dim, hidden, width), nn.Sequential(*more))


def _check(dim: int, patch: tuple[int, ...], hidden: int, heads: int) -> None:
    if len(patch) != dim or any(side % TOKEN or side < 1 for side in patch):
        raise OptionError(f"unetr: patch needs {dim} numbers that are multiples of {TOKEN}, got {patch}")
    if hidden % heads:
        raise OptionError(f"unetr: hidden {hidden} is not a multiple of heads {heads}")
