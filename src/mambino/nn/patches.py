"""Between resolutions, for networks whose images have their channels last, [b *s c]."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambino.nn.dims import CONV

_MONAI = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class PatchEmbed(nn.Module):
    """One token of each patch of an image [b c *s]: a convolution as wide as its stride, then a normalisation."""

    def __init__(self, dim: int, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = CONV[dim](in_channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b *t c"]:
        result: Tensor = self.norm(self.proj(x).movedim(1, -1))
        return result


class OverlappingEmbed(nn.Module):
    """A token for each four voxels a side, by two strided convolutions with a normalisation each (VMamba, second)."""

    def __init__(self, dim: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = CONV[dim](in_channels, width // 2, 3, 2, 1)
        self.norm = nn.LayerNorm(width // 2)
        self.proj2 = CONV[dim](width // 2, width, 3, 2, 1)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b *t c"]:
        x = nn.functional.gelu(self.norm(self.proj(x).movedim(1, -1)))
        result: Tensor = self.norm2(self.proj2(x.movedim(-1, 1)).movedim(1, -1))
        return result


class PatchMerging(nn.Module):
    """Join 2^dim neighbours to one token of twice the width: side by side, normalised, projected.

    Args:
        dim: 2 or 3.
        width: channels in.
        pad: continue sides of odd length with zeros; else their last tokens are left out.
        repeat: in 3D, see two neighbours twice and two never, as MONAI's Swin transformer does; published weights
            are of this order.
    """

    def __init__(self, dim: int, width: int, *, pad: bool = False, repeat: bool = False) -> None:
        super().__init__()
        self.pad = pad
        # The first axis changes fastest.
        self.corners = _MONAI if repeat and dim == 3 else tuple(c[::-1] for c in product((0, 1), repeat=dim))
        self.norm = nn.LayerNorm(2**dim * width)
        self.reduction = nn.Linear(2**dim * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *t c"]:
        space = x.shape[1:-1]
        if self.pad:
            x = nn.functional.pad(x, (0, 0, *(n for side in reversed(space) for n in (0, side % 2))))
        else:
            x = x[(slice(None), *(slice(side - side % 2) for side in space))]
        parts = [x[(slice(None), *(slice(at, None, 2) for at in corner))] for corner in self.corners]
        result: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return result


class ConvMerging(nn.Module):
    """Halve the sides by a strided convolution, then normalise (VMamba, second generation)."""

    def __init__(self, dim: int, width: int, out_width: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv = CONV[dim](width, out_width, kernel, 2, kernel // 3)
        self.norm = nn.LayerNorm(out_width)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *t c"]:
        result: Tensor = self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1))
        return result


class PatchExpand(nn.Module):
    """Make factor^dim tokens of each one: projected, laid out as neighbours, normalised.

    Args:
        dim: 2 or 3.
        width, out_width: channels in and out.
        factor: by which sides grow.
    """

    def __init__(self, dim: int, width: int, out_width: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(width, factor**dim * out_width, bias=False)
        self.norm = nn.LayerNorm(out_width)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *t c"]:
        x = self.expand(x)
        batch, *space, _ = x.shape
        dim = len(space)
        x = x.view(batch, *space, *(self.factor,) * dim, -1)
        order = [axis for i in range(dim) for axis in (1 + i, 1 + dim + i)]
        x = x.permute(0, *order, -1).reshape(batch, *(self.factor * side for side in space), -1)
        result: Tensor = self.norm(x)
        return result
