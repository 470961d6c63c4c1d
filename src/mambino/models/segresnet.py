"""SegResNet (arXiv 1810.11654, without the variational autoencoder), as MONAI 1.3 has it (Apache-2.0)."""

from torch import Tensor, nn

from mambino.models.shapes import check_sides
from mambino.nn.dims import CONV
from mambino.nn.norm import RectifiedGroupNorm
from mambino.nn.residual import GROUPS, ResConv, Up, check_stages
from mambino.nn.tokens import channels_last


class SegResNet(nn.Module):
    """A residual U-Net with group normalisation: blocks down and up, skips added.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        width: channels at full resolution, a multiple of 8; doubled at each further stage.
        blocks: residual blocks of each encoder stage, finest first.
        decoder_blocks: residual blocks of each decoder stage, coarsest first.
        upsample: "interpolate" is linear; "deconv" and "pixelshuffle" learn it.
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
    ) -> None:
        super().__init__()
        check_stages("segresnet", width, blocks, decoder_blocks, upsample)
        coarsest = len(blocks) - 1
        self.in_channels, self.divisor = in_channels, (2**coarsest,) * dim
        self.stem = CONV[dim](in_channels, width, 3, padding=1, bias=False)
        self.stages = nn.ModuleList(_stage(dim, width * 2**i, count, first=i == 0) for i, count in enumerate(blocks))
        self.ups = nn.ModuleList(Up(dim, width * 2 ** (coarsest - j), upsample) for j in range(coarsest))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ResConv(dim, width * 2 ** (coarsest - j - 1)) for _ in range(count)))
            for j, count in enumerate(decoder_blocks)
        )
        self.norm = RectifiedGroupNorm(GROUPS, width)
        self.head = CONV[dim](width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        check_sides(x, self.in_channels, self.divisor)
        x = self.stem(channels_last(x))
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


def _stage(dim: int, width: int, count: int, *, first: bool) -> nn.Sequential:
    """Halve the sides by a strided convolution (but in the first stage), then residual blocks."""
    down = nn.Identity() if first else CONV[dim](width // 2, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(down, *(ResConv(dim, width) for _ in range(count)))
