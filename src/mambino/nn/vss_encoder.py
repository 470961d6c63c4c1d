"""The encoder that VMamba, VM-UNet and Swin-UMamba share: visual state-space blocks at ever coarser stages."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mambino.nn.drop_path import rising_rates
from mambino.nn.patches import ConvMerging, PatchMerging
from mambino.nn.ss2d import VSSBlock


class VSSEncoder(nn.Module):
    """Stages of VSS blocks, with a merging of neighbours between them; widths double.

    Args:
        dim: 2 or 3.
        width: channels of the first stage.
        depths: blocks of each stage, finest first.
        drop_path: share of samples that pass by the last block; rises from none at the first.
        merging: "patch" joins neighbours and leaves out what is odd, "padded" continues with zeros, "conv" is a
            strided convolution.
        options: of `VSSBlock`.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depths: Sequence[int],
        *,
        drop_path: float = 0.0,
        merging: str = "patch",
        **options: Any,
    ) -> None:
        super().__init__()
        rates = iter(rising_rates(drop_path, sum(depths)))
        self.widths = tuple(width * 2**i for i in range(len(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(VSSBlock(dim, w, drop_path=next(rates), **options) for _ in range(depth)))
            for w, depth in zip(self.widths, depths, strict=True)
        )
        self.merges = nn.ModuleList(
            ConvMerging(dim, w, 2 * w) if merging == "conv" else PatchMerging(dim, w, pad=merging == "padded")
            for w in self.widths[:-1]
        )

    def forward(self, x: Float[Tensor, "b *s c"], *, last: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Return what goes into each stage and what comes out of it, finest first; or all but the `last` one."""
        found = []
        for i, stage in enumerate(self.stages if last else self.stages[:-1]):
            entered = self.merges[i - 1](x) if i else x
            x = stage(entered)
            found.append((entered, x))
        return found

    def outputs(self, x: Float[Tensor, "b *s c"], *, last: bool = True) -> list[Tensor]:
        """Return what comes out of each stage, finest first; without the `last` one if that has no use."""
        return [y for _, y in self(x, last=last)]
