"""LightM-UNet (arXiv 2403.05246): as released, as it was when the paper's figures were made, and as its text has it.

The first two follow MrBlankness/LightM-UNet (Apache-2.0), commits 6b72e27 and b484335.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.conv import SeparableConv
from mambino.nn.dims import CONV, MAX_POOL
from mambino.nn.mamba import Mamba
from mambino.nn.mixers import Mixer, Scan, check_names, make_mixer
from mambino.nn.norm import RectifiedGroupNorm
from mambino.nn.residual import GROUPS, ResConv, Up, check_stages
from mambino.nn.tokens import channels_last, to_image, to_tokens
from mambino.ops.layer_norm import layer_norm
from mambino.ops.linear import linear

PROMISED = {2: 20, 3: 26}
"""Largest even widths with no more parameters than the paper states, 1.09 M and 1.87 M, by number of axes."""


class LightMUNet(nn.Module):
    """LightM-UNet as released after 29 March 2024: separable convolutions round a Mamba encoder.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        width: channels at full resolution, a multiple of 8; doubled at each further stage.
        blocks: residual Mamba blocks of each encoder stage, finest first.
        decoder_blocks: residual blocks of each decoder stage, coarsest first.
        upsample: "interpolate" is linear; "deconv" and "pixelshuffle" learn it.
        dropout: share of channels dropped after the stem in training.
        mixer: "scan" is Mamba; "conv" or "attention" of like width in its place; "none" leaves an RVM layer its
            normalisation and projection alone.
        scan: "identity" takes the recurrence out of Mamba, and leaves its projections, convolution and gate.
        adjustment: whether the residual of an RVM layer has a learnable scale.
        residual: whether an RVM layer has a residual.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        blocks: tuple[int, ...] = (1, 2, 2, 4),
        decoder_blocks: tuple[int, ...] = (1, 1, 1),
        upsample: str = "interpolate",
        dropout: float = 0.0,
        mixer: Mixer = "scan",
        scan: Scan = "selective",
        adjustment: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        check_stages("lightm_unet", width, blocks, decoder_blocks, upsample)
        layer = Layer(mixer, scan, adjustment=adjustment, residual=residual)
        self.in_channels, self.divisor = in_channels, (2 ** (len(blocks) - 1),) * dim
        self.stem = self._stem(dim, in_channels, width)
        self.dropout = nn.Dropout(dropout)
        self.stages = nn.ModuleList(
            _stage(dim, width * 2**i, count, layer, first=i == 0) for i, count in enumerate(blocks)
        )
        coarsest = len(blocks) - 1
        self.ups = nn.ModuleList(Up(dim, width * 2 ** (coarsest - j), upsample) for j in range(len(decoder_blocks)))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(self._block(dim, width * 2 ** (coarsest - j - 1)) for _ in range(count)))
            for j, count in enumerate(decoder_blocks)
        )
        self.norm = RectifiedGroupNorm(GROUPS, width)
        self.head = self._head(dim, width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        x = self.dropout(self.stem(channels_last(x)))
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        for up, blocks, skip in zip(self.ups, self.decoder, reversed(skips[:-1]), strict=True):
            x = blocks(up(x) + skip)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)

    @staticmethod
    def _stem(dim: int, in_channels: int, width: int) -> nn.Module:
        return SeparableConv(dim, in_channels, width)

    @staticmethod
    def _block(dim: int, width: int) -> nn.Module:
        return ResUp(dim, width)

    @staticmethod
    def _head(dim: int, width: int, classes: int) -> nn.Module:
        return SeparableConv(dim, width, classes, kernel=1, bias=True)


class LightMUNetLegacy(LightMUNet):
    """LightM-UNet before 29 March 2024, which the paper counts: plain convolutions in stem, decoder and head."""

    @staticmethod
    def _stem(dim: int, in_channels: int, width: int) -> nn.Module:
        return CONV[dim](in_channels, width, 3, padding=1, bias=False)

    @staticmethod
    def _block(dim: int, width: int) -> nn.Module:
        return ResConv(dim, width)

    @staticmethod
    def _head(dim: int, width: int, classes: int) -> nn.Module:
        return CONV[dim](width, classes, 1)


class LightMUNetPaper(nn.Module):
    """LightM-UNet as the text of the paper describes it, which is no code that was released, in the size it promises.

    Encoder blocks are RVM layers, of which the last doubles the channels, and pooling; then RVM layers at the bottom;
    decoder blocks add what their encoder block gave, convolve with a scaled residual, rectify and double the sides.

    What the text leaves open is chosen so: the module reads the image row by row in one direction, as the released
    code does, so its convolution is along the sequence and causal; inner width is twice `width`; the adjustment factor
    is one number; every "DWConv" is a depthwise convolution of 3 voxels, then a pointwise one; pooling takes the
    maximum; a pointwise convolution halves the channels before they are enlarged; skips are what encoder blocks give
    after pooling, so the finest is of half the resolution.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        width: channels at full resolution, even; doubled by each encoder block. 0 is the largest with no more
            parameters than the paper states: 20 in 2D (1.03 M of 1.09 M), 26 in 3D (1.71 M of 1.87 M).
        blocks: RVM layers of each encoder block, finest first, and last those of the bottom.
        mixer, scan, adjustment, residual: as of `LightMUNet`.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 0,
        blocks: tuple[int, ...] = (1, 2, 2, 4),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
        adjustment: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        _check_described(width, blocks)
        layer = Layer(mixer, scan, adjustment=adjustment, residual=residual, described=True)
        widths = [(width or PROMISED[dim]) * 2**i for i in range(len(blocks))]
        self.in_channels, self.divisor = in_channels, (2 ** (len(blocks) - 1),) * dim
        self.stem = SeparableConv(dim, in_channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*_layers(wide, count, layer, 2 * wide), MAX_POOL[dim](2))
            for wide, count in zip(widths[:-1], blocks[:-1], strict=True)
        )
        self.bottom = nn.Sequential(*_layers(widths[-1], blocks[-1], layer, widths[-1]))
        self.decoder = nn.ModuleList(ScaledUp(dim, wide) for wide in widths[:0:-1])
        self.head = SeparableConv(dim, widths[0], out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        x = self.stem(channels_last(x))
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        x = self.bottom(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x + skip)
        logits: Tensor = self.head(x)
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)


@dataclass(frozen=True, slots=True)
class Layer:
    """What an RVM layer is made of; the defaults are the published one.

    Attributes:
        mixer, scan: of `nn.mixers.make_mixer`.
        adjustment: whether the residual has a learnable scale.
        residual: whether there is a residual.
        described: whether it is the one of the paper's text: normalised once more behind the scan, and with other
            weights before the projection than before the mixer.
    """

    mixer: Mixer = "scan"
    scan: Scan = "selective"
    adjustment: bool = True
    residual: bool = True
    described: bool = False

    def __post_init__(self) -> None:
        check_names(self.mixer, self.scan)
        if not self.mixes and not self.residual:
            raise OptionError(
                f"mixer {self.mixer!r} leaves nothing but the residual, and residual is {self.residual}",
                hint="choose one of these",
            )

    @property
    def mixes(self) -> bool:
        """Whether there is a mixer."""
        return self.mixer != "none"

    @property
    def adjusts(self) -> bool:
        """Whether there is a scale to learn: a residual beside a mixer."""
        return self.mixes and self.residual and self.adjustment


PUBLISHED = Layer()


class RVM(nn.Module):
    """Residual vision Mamba layer: the image read row by row as one sequence.

    One normalisation serves twice, before Mamba and after the scaled residual, as in the original; the layer that the
    paper describes has two.
    """

    def __init__(self, in_channels: int, out_channels: int, layer: Layer = PUBLISHED) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mamba, self.norm2 = None, None
        if layer.mixes:
            self.mamba = make_mixer(layer.mixer, in_channels, scan=layer.scan, norm=layer.described)
            self.norm2 = nn.LayerNorm(in_channels) if layer.described else None
        self.proj = nn.Linear(in_channels, out_channels)
        self.skip_scale = nn.Parameter(torch.ones(1)) if layer.adjusts else None
        self.residual = layer.residual

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        y = self.mamba(tokens, self._around) if isinstance(self.mamba, Mamba) else self._around(self.mamba, tokens)
        return to_image(y, x.shape[2:])

    def _around(self, mix: Callable[[Tensor], Tensor] | None, tokens: Tensor, out: Tensor | None = None) -> Tensor:
        """Do all that is done to tokens, each by itself, before and after they are mixed."""
        norm, mixed, add = self.norm if self.norm2 is None else self.norm2, tokens, None
        if mix is not None:
            mixed, add = mix(layer_norm(tokens, self.norm)), tokens if self.residual else None
        normal = layer_norm(mixed, norm, add=add, scale=self.skip_scale)
        return linear(normal, self.proj.weight, self.proj.bias, out=out)


class ResMamba(nn.Module):
    """Two normalised, rectified RVM layers and a residual connection."""

    def __init__(self, width: int, layer: Layer = PUBLISHED) -> None:
        super().__init__()
        self.norm1, self.norm2 = (RectifiedGroupNorm(GROUPS, width) for _ in range(2))
        self.mix1, self.mix2 = RVM(width, width, layer), RVM(width, width, layer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix1(self.norm1(x))
        y = self.mix2(self.norm2(y))
        result: Tensor = y + x
        return result


class ResUp(nn.Module):
    """Decoder block: separable convolution between two normalisations, residual with a learnt scale."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (RectifiedGroupNorm(GROUPS, width) for _ in range(2))
        self.conv = SeparableConv(dim, width, width)
        self.skip_scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm2(torch.addcmul(self.conv(self.norm1(x)), x, self.skip_scale))
        return result


class ScaledUp(nn.Module):
    """Decoder block of the paper's text: separable convolution, residual with a learnt scale, rectifier; then twice
    the sides and half the channels."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv = SeparableConv(dim, width, width)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.up = Up(dim, width, "interpolate")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up(relu(torch.addcmul(self.conv(x), x, self.skip_scale)))
        return result


def _layers(width: int, count: int, layer: Layer, out_width: int) -> list[RVM]:
    """Return `count` RVM layers; the last changes the channels."""
    return [*(RVM(width, width, layer) for _ in range(count - 1)), RVM(width, out_width, layer)]


def _check_described(width: int, blocks: tuple[int, ...]) -> None:
    if width < 0 or width % 2:
        raise OptionError(
            f"lightm_unet_paper: width must be even, or 0 for the size that the paper promises, got {width}"
        )
    if len(blocks) < 2 or min(blocks) < 1:
        raise OptionError(
            f"lightm_unet_paper: blocks needs at least 1 for each encoder block and for the bottom, got {blocks}"
        )


def _stage(dim: int, width: int, count: int, layer: Layer, *, first: bool) -> nn.Sequential:
    """Halve the sides (but in the first stage), then residual Mamba blocks."""
    down = nn.Identity() if first else nn.Sequential(RVM(width // 2, width, layer), MAX_POOL[dim](2))
    return nn.Sequential(down, *(ResMamba(width, layer) for _ in range(count)))
