"""VM-UNet (arXiv 2402.02491), in 2D as published, and in 3D.

Follows JCruan519/VM-UNet (Apache-2.0), commit 43c495b.
"""

from typing import Any

from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_sides
from mambino.nn.dims import CONV
from mambino.nn.drop_path import rising_rates
from mambino.nn.init import truncated_normal
from mambino.nn.mixers import Mixer, Scan
from mambino.nn.patches import PatchEmbed, PatchExpand
from mambino.nn.ss2d import VSSBlock
from mambino.nn.vss_encoder import VSSEncoder

PATCH = 4


class VMUNet(nn.Module):
    """Visual state-space blocks in encoder and decoder, joined by sums.

    Skips are what goes into an encoder stage and are added before a decoder stage doubles the sides; the finest,
    the patch embedding, is not used: as in the original. In 3D scans run along three axes, both ways.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits; where one or three are meant, a single channel is repeated
            to three, as there.
        width: channels of the first stage, doubled at each further one.
        depths: blocks of each encoder stage, finest first.
        decoder_depths: blocks of each decoder stage, coarsest first.
        state_size: numbers of state a channel.
        drop_path: share of samples that pass by the last block of the encoder, and the first of the decoder.
        mixer: "scan" is SS2D; "conv" or "attention" of like width in its place; "none" leaves it out of every block.
        scan: "identity" takes the recurrence out of SS2D, and leaves its projections, convolution, norm and gate.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        decoder_depths: tuple[int, ...] = (2, 2, 2, 1),
        state_size: int = 16,
        drop_path: float = 0.2,
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        super().__init__()
        _check(width, depths, decoder_depths)
        block: dict[str, Any] = {"state_size": state_size, "mixer": mixer, "scan": scan}
        self.in_channels, self.divisor = in_channels, (PATCH * 2 ** (len(depths) - 1),) * dim
        self.embed = PatchEmbed(dim, 3 if in_channels == 1 else in_channels, width, PATCH)
        self.encoder = VSSEncoder(dim, width, depths, drop_path=drop_path, **block)
        widths = self.encoder.widths[::-1]
        rates = reversed(rising_rates(drop_path, sum(decoder_depths)))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, w, drop_path=next(rates), **block) for _ in range(depth)))
            for w, depth in zip(widths, decoder_depths, strict=True)
        )
        self.expands = nn.ModuleList(PatchExpand(dim, w, w // 2) for w in widths[:-1])
        self.final = PatchExpand(dim, width, width // 4, PATCH)
        self.head = CONV[dim](width // 4, out_channels, 1)
        self.apply(truncated_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        single = x.dim() > 1 and x.shape[1] == 1 and self.in_channels == 3
        check_sides(x, 1 if single else self.in_channels, self.divisor)
        stages = self.encoder(self.embed(x.repeat(1, 3, *(1,) * (x.dim() - 2)) if x.shape[1] == 1 else x))
        x = self.decoder[0](stages[-1][1])
        for expand, blocks, (skip, _) in zip(self.expands, list(self.decoder)[1:], stages[:0:-1], strict=True):
            x = blocks(expand(x + skip))
        logits: Tensor = self.head(self.final(x).movedim(-1, 1))
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits alone: the paper has no deep supervision."""
        return (self(x),)


def _check(width: int, depths: tuple[int, ...], decoder_depths: tuple[int, ...]) -> None:
    if width < PATCH or width % PATCH:
        raise OptionError(f"vm_unet: width must be a multiple of {PATCH}, got {width}")
    if len(depths) < 2 or len(decoder_depths) != len(depths) or min((*depths, *decoder_depths)) < 1:
        raise OptionError(
            f"vm_unet: depths and decoder_depths need a number of at least 1 for each stage, at least two stages, "
            f"got {depths} and {decoder_depths}"
        )
