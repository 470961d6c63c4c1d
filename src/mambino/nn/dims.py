"""Layers by the number of spatial axes, so that a network is written once for 2D and 3D."""

import torch
from torch import nn

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
AVG_POOL: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR: dict[int, str] = {2: "bilinear", 3: "trilinear"}
CHANNELS_LAST: dict[int, torch.memory_format] = {2: torch.channels_last, 3: torch.channels_last_3d}
