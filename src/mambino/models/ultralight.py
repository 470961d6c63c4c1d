"""UltraLight VM-UNet (arXiv 2403.20035): stages of a convolution or a shared Mamba each, and skips with attention.

Follows wurenkai/UltraLight-VM-UNet, (MIT), commit 05e1000. In 2D, as published.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.dims import CONV, LINEAR, MAX_POOL
from mambino.nn.init import truncated_normal
from mambino.nn.mixers import Mixer, Scan, check_names, make_mixer
from mambino.nn.tokens import to_image, to_tokens

PARTS = 4
SHARED = 3  # stages of the encoder, and of the decoder, that have a Mamba; they are the coarsest


class UltraLightVMUNet(nn.Module):
    """A U-Net of one layer a stage: plain convolutions where it is fine, parallel vision Mamba where it is coarse.

    Args:
        dim: 2.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first, multiples of 4; the last three stages have a Mamba.
        mixer: "scan" is Mamba; "conv" or "attention" of like width in its place; "none" leaves its layer the
            normalisation and the projection alone.
        scan: "identity" takes the recurrence out of Mamba, and leaves its projections, convolution and gate.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = (8, 16, 24, 32, 48, 64),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        check_names(mixer, scan)
        if len(features) <= SHARED or any(width < PARTS or width % PARTS for width in features):
            raise OptionError(
                f"ultralight_vm_unet: features needs {SHARED + 1} multiples of {PARTS} or more, got {features}"
            )
        stages = len(features)
        self.in_channels, self.divisor = in_channels, (2 ** (stages - 1),) * dim
        self.mode = LINEAR[dim]
        self.pool = MAX_POOL[dim](2)
        self.encoder = nn.ModuleList(
            ParallelMamba(a, b, mixer, scan) if i >= stages - SHARED else CONV[dim](a, b, 3, padding=1)
            for i, (a, b) in enumerate(zip((in_channels, *features[:-1]), features, strict=True))
        )
        self.encoder_norms = nn.ModuleList(nn.GroupNorm(PARTS, width) for width in features[:-1])
        self.bridge = Bridge(dim, features[:-1])
        self.decoder = nn.ModuleList(
            ParallelMamba(a, b, mixer, scan) if i < SHARED else CONV[dim](a, b, 3, padding=1)
            for i, (a, b) in enumerate(zip(features[:0:-1], features[-2::-1], strict=True))
        )
        self.decoder_norms = nn.ModuleList(nn.GroupNorm(PARTS, width) for width in features[-2::-1])
        self.head = CONV[dim](features[0], out_channels, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        skips = []
        for layer, norm in zip(self.encoder, self.encoder_norms, strict=False):
            x = gelu(self.pool(norm(layer(x))))
            skips.append(x)
        x = gelu(self.encoder[-1](x))
        for i, (layer, norm, skip) in enumerate(
            zip(self.decoder, self.decoder_norms, reversed(self.bridge(skips)), strict=True)
        ):
            x = norm(layer(x))
            x = gelu(self._doubled(x) if i else x) + skip
        return self._doubled(self.head(x))

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)

    def _doubled(self, x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0, mode=self.mode, align_corners=True)


class ParallelMamba(nn.Module):
    """Four parts of the channels, read row by row by one Mamba whose weights they share.

    The parts go through it as one batch. One normalisation serves twice, as in the original.
    """

    def __init__(self, in_channels: int, out_channels: int, mixer: Mixer, scan: Scan) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mixer: nn.Module | None = None
        if mixer != "none":
            self.mixer = make_mixer(mixer, in_channels // PARTS, scan=scan)
            self.skip_scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(to_tokens(x))
        if self.mixer is not None:
            parts = tokens.unflatten(-1, (PARTS, -1)).movedim(-2, 1).flatten(0, 1)
            mixed = torch.addcmul(self.mixer(parts), parts, self.skip_scale)
            tokens = mixed.view(-1, PARTS, *parts.shape[1:]).movedim(1, -2).flatten(-2)
        return to_image(self.proj(self.norm(tokens)), x.shape[2:])


class Bridge(nn.Module):
    """Attention over places, then over the channels of all stages together, in every skip, as in MALUNet."""

    def __init__(self, dim: int, features: Sequence[int]) -> None:
        super().__init__()
        self.place = CONV[dim](2, 1, 7, padding=9, dilation=3)
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.channels = nn.ModuleList(nn.Linear(sum(features), width) for width in features)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        placed = [x * torch.sigmoid(self.place(torch.cat([x.mean(1, True), x.amax(1, True)], 1))) for x in skips]
        sums = [x + y for x, y in zip(skips, placed, strict=True)]
        means = torch.cat([x.flatten(2).mean(2) for x in sums], 1)
        mixed = self.mix(means[:, None])[:, 0]
        weights = [torch.sigmoid(layer(mixed)) for layer in self.channels]
        return [
            x * weight.view(*weight.shape, *(1,) * (x.dim() - 2)) + y
            for x, y, weight in zip(sums, placed, weights, strict=True)
        ]


def _initialise(module: nn.Module) -> None:
    """Draw weights as the original does: Mamba's projections and steps too lose what they began with."""
    truncated_normal(module)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        shared = 1 if isinstance(module, nn.Conv1d) else module.groups
        nn.init.normal_(
            module.weight, std=math.sqrt(2 * shared / (math.prod(module.kernel_size) * module.out_channels))
        )
        if module.bias is not None and not isinstance(module, nn.Conv1d):
            nn.init.zeros_(module.bias)
