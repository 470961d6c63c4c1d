"""Attention U-Net (arXiv 1804.03999): what goes up weighs the places of each skip.

Follows monai.networks.nets.AttentionUnet (MONAI 1.6), in 2D and 3D from one definition.
"""

import torch
from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.dims import BATCH_NORM, CONV, INSTANCE_NORM, TRANSPOSED_CONV


class AttentionUNet(nn.Module):
    """Two convolutions a stage, halved by the first of them; skips weighed by a gate for each place.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first.
    """

    def __init__(
        self, *, dim: int, in_channels: int, out_channels: int, features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        if len(features) < 2 or min(features) < 2:
            raise OptionError(f"attention_unet: features needs two numbers of 2 or more, got {features}")
        self.in_channels, self.divisor = in_channels, (2 ** (len(features) - 1),) * dim
        self.stem = _block(dim, in_channels, features[0], stride=1)
        self.level = Level(dim, features)
        self.head = CONV[dim](features[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        logits: Tensor = self.head(self.level(self.stem(x)))
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper's deep supervision is not in the code that this follows."""
        return (self(x),)


class Level(nn.Module):
    """A stage with all that is coarser: down and up again, joined with what came in."""

    def __init__(self, dim: int, features: tuple[int, ...]) -> None:
        super().__init__()
        width, wide, *coarser = features
        self.gate = Gate(dim, width)
        self.up = nn.Sequential(
            TRANSPOSED_CONV[dim](wide, width, 3, stride=2, padding=1, output_padding=1),
            BATCH_NORM[dim](width),
            nn.ReLU(),
        )
        # MONAI's defaults, which no other layer of it has.
        self.merge = nn.Sequential(CONV[dim](2 * width, width, 3, padding=1), INSTANCE_NORM[dim](width), nn.PReLU())
        down = _block(dim, width, wide, stride=2)
        self.lower = nn.Sequential(down, Level(dim, (wide, *coarser))) if coarser else down

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(self.lower(x))
        result: Tensor = self.merge(torch.cat([self.gate(up, x), up], 1))
        return result


class Gate(nn.Module):
    """A weight for each place of x, made of x and of what goes up."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.of_up, self.of_x = (nn.Sequential(CONV[dim](width, inner, 1), BATCH_NORM[dim](inner)) for _ in range(2))
        self.weigh = nn.Sequential(CONV[dim](inner, 1, 1), BATCH_NORM[dim](1), nn.Sigmoid())

    def forward(self, up: Tensor, x: Tensor) -> Tensor:
        result: Tensor = x * self.weigh((self.of_up(up) + self.of_x(x)).relu())
        return result


def _block(dim: int, in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, step in ((in_channels, stride), (out_channels, 1)):
        layers += [
            CONV[dim](width, out_channels, 3, stride=step, padding=1), BATCH_NORM[dim](out_channels), nn.ReLU()
        ]  # fmt: skip
    return nn.Sequential(*layers)
