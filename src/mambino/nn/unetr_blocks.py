"""Convolution blocks round a transformer or Mamba encoder: those of UNETR, SwinUNETR and Swin-UMamba.

They follow MONAI 1.3 (Apache-2.0). Their instance normalisation learns nothing, unlike nnU-Net's.
"""

import torch
from torch import Tensor, nn

from mambino.nn.dims import CONV, INSTANCE_NORM, TRANSPOSED_CONV


class ResidualBlock(nn.Module):
    """Two convolutions, each normalised, the first rectified; added to what came in, and rectified.

    What came in passes a convolution of one voxel where the channels change.
    """

    def __init__(self, dim: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = CONV[dim](in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = CONV[dim](out_channels, out_channels, 3, padding=1, bias=False)
        self.conv3 = CONV[dim](in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        self.norm = INSTANCE_NORM[dim](out_channels)
        self.activation = nn.LeakyReLU(1e-2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv1(x)))
        y = self.norm(self.conv2(y))
        if self.conv3 is not None:
            x = self.norm(self.conv3(x))
        result: Tensor = self.activation(y + x)
        return result


class ResidualUp(nn.Module):
    """Double the sides by transposed convolution, join the skip, and convolve."""

    def __init__(self, dim: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = double(dim, in_channels, out_channels)
        self.block = ResidualBlock(dim, 2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        result: Tensor = self.block(torch.cat([self.up(x), skip], 1))
        return result


def double(dim: int, in_channels: int, out_channels: int) -> nn.Module:
    """Return a transposed convolution that doubles the sides."""
    return TRANSPOSED_CONV[dim](in_channels, out_channels, 2, 2, bias=False)
