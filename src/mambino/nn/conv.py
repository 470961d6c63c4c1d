"""Convolution blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mambino.nn.dims import AVG_POOL, CONV, INSTANCE_NORM
from mambino.ops.linear import linear


class ConvBlock(nn.Module):
    """Convolution, instance normalisation, leaky rectifier: the unit that nnU-Net is made of.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of the convolution.
        kernel: its size along each axis, odd.
        stride: along each axis.
        bias: of the convolution.
        rectify: whether the rectifier is there.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool = True,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        self.conv = padded_conv(dim, in_channels, out_channels, kernel, stride, bias=bias)
        self.norm = INSTANCE_NORM[dim](out_channels, eps=1e-5, affine=True)
        self.activation = nn.LeakyReLU(1e-2, inplace=True) if rectify else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.norm(self.conv(x)))
        return result


def conv_blocks(
    dim: int, in_channels: int, out_channels: int, count: int, kernel: Sequence[int], stride: Sequence[int]
) -> nn.Sequential:
    """Return `count` blocks in a row; the first one changes the channels and takes the stride."""
    first = ConvBlock(dim, in_channels, out_channels, kernel, stride)
    rest = [ConvBlock(dim, out_channels, out_channels, kernel, (1,) * dim) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


def padded_conv(
    dim: int, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution with an odd kernel that keeps sides where its stride is 1."""
    padding = tuple(k // 2 for k in kernel)
    return CONV[dim](in_channels, out_channels, tuple(kernel), tuple(stride), padding, bias=bias)  # type: ignore[arg-type]


class ResidualBlock(nn.Module):
    """Two convolution blocks and a way past them, the unit of nnU-Net's residual encoder (ResNet-D, arXiv 1812.01187).

    The way past them averages where they stride, and projects where they change the channels.
    """

    def __init__(
        self, dim: int, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one, stride = (1,) * dim, tuple(stride)
        self.conv1 = ConvBlock(dim, in_channels, out_channels, kernel, stride)
        self.conv2 = ConvBlock(dim, out_channels, out_channels, kernel, one, rectify=False)
        pool: nn.Module = nn.Identity()
        project: nn.Module = nn.Identity()
        if stride != one:
            pool = AVG_POOL[dim](stride, stride)  # type: ignore[arg-type]
        if in_channels != out_channels:
            project = ConvBlock(dim, in_channels, out_channels, one, one, bias=False, rectify=False)
        self.skip = nn.Sequential(pool, project)
        self.activation = nn.LeakyReLU(1e-2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.conv2(self.conv1(x)) + self.skip(x))
        return result


def residual_blocks(
    dim: int, in_channels: int, out_channels: int, count: int, kernel: Sequence[int], stride: Sequence[int]
) -> nn.Sequential:
    """Return `count` residual blocks in a row; the first one changes the channels and takes the stride."""
    first = ResidualBlock(dim, in_channels, out_channels, kernel, stride)
    rest = [ResidualBlock(dim, out_channels, out_channels, kernel, (1,) * dim) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


class SeparableConv(nn.Module):
    """Depthwise convolution, then a pointwise one; no normalisation, no activation between them."""

    def __init__(self, dim: int, in_channels: int, out_channels: int, *, kernel: int = 3, bias: bool = False) -> None:
        super().__init__()
        self.depthwise = CONV[dim](in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=bias)
        self.pointwise = CONV[dim](in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise.kernel_size[0] > 1:
            return pointwise(self.depthwise(x), self.pointwise)
        scale, shift = self.depthwise.weight.flatten(), self.depthwise.bias  # a convolution of one voxel
        weight, bias = self.pointwise.weight.flatten(1), self.pointwise.bias
        if shift is not None:
            moved = weight @ shift
            bias = moved if bias is None else bias + moved
        return linear(x.movedim(1, -1), weight * scale, bias).movedim(-1, 1)


def pointwise(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Convolve by a kernel of one voxel: a matrix product, where the channels of a voxel lie side by side."""
    return linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


class PixelShuffle(nn.Module):
    """Upsampling by two: a convolution makes 2^dim channels for each, laid out as neighbours, then smoothed.

    The last step, a mean over 2^dim neighbours, removes the checkerboard (arXiv 1806.02658; MONAI's
    SubpixelUpsample, which this follows).
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.dim = dim
        self.conv = CONV[dim](channels, channels * 2**dim, 3, padding=1)
        _repeat_kernels(self.conv.weight, 2**dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        batch, channels, *space = y.shape
        y = y.reshape(batch, channels // 2**self.dim, *(2,) * self.dim, *space)
        order = [axis for i in range(self.dim) for axis in (2 + self.dim + i, 2 + i)]
        y = y.permute(0, 1, *order).reshape(batch, -1, *(2 * s for s in space))
        padded = nn.functional.pad(y, (1, 0) * self.dim)
        pool = nn.functional.avg_pool2d if self.dim == 2 else nn.functional.avg_pool3d
        return pool(padded, 2, stride=1)


@torch.no_grad()
def _repeat_kernels(weight: Tensor, times: int) -> None:
    """Draw one kernel for all neighbours of a voxel, so that upsampling starts as nearest neighbour."""
    kernel = nn.init.kaiming_normal_(weight.new_zeros(weight.shape[0] // times, *weight.shape[1:]))
    weight.copy_(kernel.repeat_interleave(times, dim=0))
