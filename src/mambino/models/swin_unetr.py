"""SwinUNETR (arXiv 2201.01266): a Swin transformer with a convolutional decoder, as MONAI 1.3 has it (Apache-2.0)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mambino.models.shapes import check_coarsest, check_sides
from mambino.nn.dims import CONV
from mambino.nn.patches import PatchMerging
from mambino.nn.swin import check_levels, swin_blocks
from mambino.nn.unetr_blocks import ResidualBlock, ResidualUp


class SwinUNETR(nn.Module):
    """A Swin transformer over cubes of 2 voxels; its stages, each through a residual block, are a decoder's skips.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        width: channels at full resolution and of the first stage; doubled at each further one.
        depths: blocks of each stage, finest first.
        heads: attentions side by side in each stage; the stage's width is a multiple of it.
        window: side of the windows of attention (tokens).
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 48,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
    ) -> None:
        super().__init__()
        self.encoder = SwinEncoder(
            dim=dim, in_channels=in_channels, out_channels=width, depths=depths, heads=heads, window=window
        )
        self.in_channels, self.divisor = in_channels, (2 ** (len(depths) + 1),) * dim
        # Of the image, then of each map of the encoder; but the last map but one is a skip as it is.
        widths = [width, *(width * 2**i for i in range(len(depths) + 1))]
        self.blocks = nn.ModuleList(
            ResidualBlock(dim, in_channels if i == 0 else widths[i], widths[i]) for i in range(len(depths))
        )
        self.coarsest = ResidualBlock(dim, widths[-1], widths[-1])
        self.ups = nn.ModuleList(ResidualUp(dim, widths[i + 1], widths[i]) for i in reversed(range(len(depths) + 1)))
        self.head = CONV[dim](width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        check_coarsest(x, self.divisor)
        *maps, last = self.encoder.scales(x)
        skips = [block(part) for block, part in zip(self.blocks, (x, *maps[:-1]), strict=True)] + maps[-1:]
        last = self.coarsest(last)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            last = up(last, skip)
        logits: Tensor = self.head(last)
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)


class SwinEncoder(nn.Module):
    """The Swin transformer of SwinUNETR: maps at a half of the sides, a quarter, and so on, rounded up.

    Args:
        dim: 2 or 3.
        in_channels: of images.
        out_channels: of the finest map; doubled at each further one.
        depths, heads, window: as of `SwinUNETR`.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
    ) -> None:
        super().__init__()
        check_levels("swin_unetr", out_channels, depths, heads, window)
        self.in_channels, self.divisor = in_channels, (2,) * dim
        self.embed = CONV[dim](in_channels, out_channels, 2, stride=2)
        self.stages = nn.ModuleList(
            _stage(dim, out_channels * 2**i, depth, heads[i], window) for i, depth in enumerate(depths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the finest map of an image."""
        return self.scales(x)[0]

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of an image, finest first, each voxel normalised over its channels."""
        check_sides(x, self.in_channels, self.divisor)
        x = self.embed(x).movedim(1, -1)
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(layer_norm(x, x.shape[-1:]).movedim(-1, 1) for x in maps)


def _stage(dim: int, width: int, depth: int, heads: int, window: int) -> nn.Sequential:
    """Return blocks, and the layer after them that halves the sides."""
    blocks = swin_blocks(dim, width, heads, window, (0.0,) * depth)
    return nn.Sequential(OrderedDict(blocks=blocks, merge=PatchMerging(dim, width, pad=True, repeat=True)))
