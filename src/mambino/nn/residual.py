"""Residual blocks with group normalisation, and what stands between them: SegResNet's, which LightM-UNet took over."""

from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.nn.conv import PixelShuffle
from mambino.nn.dims import CONV, LINEAR, TRANSPOSED_CONV
from mambino.nn.norm import RectifiedGroupNorm

GROUPS = 8


class ResConv(nn.Module):
    """Two convolutions, each after a rectified normalisation, and a residual connection (MONAI's ResBlock)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (RectifiedGroupNorm(GROUPS, width) for _ in range(2))
        self.conv1 = CONV[dim](width, width, 3, padding=1, bias=False)
        self.conv2 = CONV[dim](width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x))
        result: Tensor = self.conv2(self.norm2(y)) + x
        return result


class Up(nn.Module):
    """Halve the channels, double the sides."""

    def __init__(self, dim: int, in_channels: int, mode: str) -> None:
        super().__init__()
        width = in_channels // 2
        self.reduce = CONV[dim](in_channels, width, 1, bias=False)
        self.upsample: nn.Module = nn.Upsample(scale_factor=2, mode=LINEAR[dim], align_corners=False)
        if mode == "deconv":
            self.upsample = TRANSPOSED_CONV[dim](width, width, 2, 2)
        if mode == "pixelshuffle":
            self.upsample = PixelShuffle(dim, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.upsample(self.reduce(x))
        return result


def check_stages(
    name: str, width: int, blocks: tuple[int, ...], decoder_blocks: tuple[int, ...], upsample: str
) -> None:
    """Refuse options of a network of such blocks that do not fit.

    Raises:
        OptionError: names the network, the option and its value.
    """
    if width % GROUPS or width < 1:
        raise OptionError(
            f"{name}: width {width} is not a multiple of {GROUPS}, the groups of its normalisation",
            hint=f"use width {max(round(width / GROUPS), 1) * GROUPS}",
        )
    if len(decoder_blocks) != len(blocks) - 1:
        raise OptionError(
            f"{name}: {len(blocks)} encoder stages need one decoder stage less, got {len(decoder_blocks)}"
        )
    if min((*blocks, *decoder_blocks), default=0) < 1:
        raise OptionError(f"{name}: every stage needs at least one block, got {(*blocks, *decoder_blocks)}")
    if upsample not in {"interpolate", "deconv", "pixelshuffle"}:
        raise OptionError(f"{name}: upsample {upsample!r} is not known", hint="use interpolate, deconv or pixelshuffle")
