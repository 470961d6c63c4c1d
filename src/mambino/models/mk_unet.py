"""MK-UNet (arXiv 2509.18493): depthwise convolutions of several kernels, and attention on the way up.

Follows SLDGroup/MK-UNet. In 2D, as published.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu, relu6

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.dims import BATCH_NORM, CONV, LINEAR, MAX_POOL

EXPAND = 2  # inner width of a block over the one that comes in


class MKUNet(nn.Module):
    """One block a stage down and up; what goes up is weighed by channel and place, and skips by what goes up.

    Args:
        dim: 2.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first, even. The paper has five sizes: 4, 8, 16, 24, 32 (tiny);
            8, 16, 32, 48, 80 (small); the default; and two and four times the default, but 512 in the last place.
        kernels: sizes of the depthwise convolutions of a block, odd.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = (16, 32, 64, 96, 160),
        kernels: tuple[int, ...] = (1, 3, 5),
    ) -> None:
        super().__init__()
        _check(features, kernels)
        self.in_channels, self.divisor = in_channels, (2 ** len(features),) * dim
        self.mode, self.pool = LINEAR[dim], MAX_POOL[dim](2)
        coarse = features[::-1]
        self.encoder = nn.ModuleList(
            MultiKernelBlock(dim, a, b, kernels) for a, b in zip((in_channels, *features[:-1]), features, strict=True)
        )
        self.channels = nn.ModuleList(
            ChannelWeights(dim, width, min(4 * 2**i, 16)) for i, width in reversed(list(enumerate(features)))
        )
        self.places = CONV[dim](2, 1, 7, padding=3, bias=False)
        self.decoder = nn.ModuleList(
            MultiKernelBlock(dim, a, b, kernels) for a, b in zip(coarse, (*coarse[1:], coarse[-1]), strict=True)
        )
        self.gates = nn.ModuleList(Gate(dim, width) for width in coarse[1:])
        self.apply(_initialise)
        # For what every block of the decoder gives but the coarsest.
        self.heads = nn.ModuleList(CONV[dim](width, out_channels, 1) for width in (*coarse[2:], coarse[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        logits: Tensor = self.heads[-1](self._features(x)[-1])
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits at the full, the halved, ... resolution; the published code uses none but the finest."""
        found = self._features(x)[1:]
        return tuple(head(f) for head, f in zip(self.heads, found, strict=True))[::-1]

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return what every block of the decoder gives, coarsest first."""
        check_sides(x, self.in_channels, self.divisor)
        stages, found = [], []
        for block in self.encoder:
            x = self.pool(block(x))
            stages.append(x)
        for i, (channels, block) in enumerate(zip(self.channels, self.decoder, strict=True)):
            x = relu(self._doubled(block(self._weighed(x * channels(x)))))
            found.append(x)
            if i < len(self.gates):
                x = x + self.gates[i](stages[-2 - i], x)
        return found

    def _weighed(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.places(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))

    def _doubled(self, x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0, mode=self.mode, align_corners=False)


class MultiKernelBlock(nn.Module):
    """Inverted residual: wider, the sum of depthwise convolutions of several kernels, narrower; and a way past."""

    def __init__(self, dim: int, in_channels: int, out_channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        inner = EXPAND * in_channels
        self.groups = math.gcd(inner, out_channels)
        self.widen = nn.Sequential(CONV[dim](in_channels, inner, 1, bias=False), BATCH_NORM[dim](inner))
        self.depthwise = nn.ModuleList(
            nn.Sequential(
                CONV[dim](inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False), BATCH_NORM[dim](inner)
            )
            for kernel in kernels
        )
        self.narrow = nn.Sequential(CONV[dim](inner, out_channels, 1, bias=False), BATCH_NORM[dim](out_channels))
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = CONV[dim](in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = relu6(self.widen(x))
        summed = torch.stack([relu6(conv(wide)) for conv in self.depthwise]).sum(0)
        shuffled = summed.view(len(x), self.groups, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        result: Tensor = self.skip(x) + self.narrow(shuffled)
        return result


class ChannelWeights(nn.Module):
    """A weight for each channel, made of its mean and its maximum by the same two layers (arXiv 1807.06521)."""

    def __init__(self, dim: int, width: int, ratio: int) -> None:
        super().__init__()
        inner = width // min(ratio, width)
        self.layers = nn.Sequential(
            CONV[dim](width, inner, 1, bias=False), nn.ReLU(), CONV[dim](inner, width, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        space = tuple(range(2, x.dim()))
        return torch.sigmoid(self.layers(x.mean(space, True)) + self.layers(x.amax(space, True)))


class Gate(nn.Module):
    """A weight for each place of a skip, made of it and of what goes up, by convolutions in groups."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.skip, self.up = (
            nn.Sequential(CONV[dim](width, inner, 3, padding=1, groups=inner), BATCH_NORM[dim](inner)) for _ in range(2)
        )
        self.weigh = nn.Sequential(CONV[dim](inner, 1, 1), BATCH_NORM[dim](1))

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.weigh(relu(self.skip(skip) + self.up(up))))


def _initialise(module: nn.Module) -> None:
    """Draw the weights of convolutions from a narrow normal distribution, with zero bias."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(features: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    if len(features) < 2 or any(width < 2 or width % 2 for width in features):
        raise OptionError(f"mk_unet: features needs two even numbers or more, got {features}")
    if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise OptionError(f"mk_unet: kernels needs one odd number or more, got {kernels}")
