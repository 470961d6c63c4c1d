"""U-shaped decoder: from the coarsest features to the finest, with a head at every stage."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mambino.nn.conv import conv_blocks
from mambino.nn.dims import CONV, TRANSPOSED_CONV


class Decoder(nn.Module):
    """Upsample by transposed convolution, join the skip, convolve; at each stage, a head may give logits.

    Args:
        dim: 2 or 3.
        features: channels of the encoder's stages, finest first.
        kernels, strides: of the encoder's stages.
        convs: convolutions of each decoder stage, coarsest first.
        classes: channels of the logits.
    """

    def __init__(
        self,
        dim: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        ups, stages, heads = [], [], []
        for level, count in zip(range(len(features) - 2, -1, -1), convs, strict=True):
            stride, width = tuple(strides[level + 1]), features[level]
            ups.append(TRANSPOSED_CONV[dim](features[level + 1], width, stride, stride))  # type: ignore[arg-type]
            stages.append(conv_blocks(dim, 2 * width, width, count, kernels[level], (1,) * dim))
            heads.append(CONV[dim](width, classes, 1))
        self.ups, self.stages, self.heads = nn.ModuleList(ups), nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of every decoder stage, coarsest first; `skips` are the encoder's, finest first."""
        x, found = skips[-1], []
        for up, stage, skip in zip(self.ups, self.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
            found.append(x)
        return found
