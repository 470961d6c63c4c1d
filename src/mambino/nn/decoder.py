"""U-shaped decoder: from the coarsest features to the finest, with a head at every stage."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mambino.nn.conv import conv_blocks
from mambino.nn.dims import CONV, TRANSPOSED_CONV

Stage = Callable[[int, int, int, int, Sequence[int], Sequence[int]], nn.Module]
"""Makes the blocks of a stage of: dim, channels in and out, number of blocks, kernel, stride."""

Up = Callable[[int, int, int, Sequence[int]], nn.Module]
"""Makes what enlarges an image of: dim, channels in and out, stride."""


def transposed(dim: int, in_channels: int, out_channels: int, stride: Sequence[int]) -> nn.Module:
    """Return a transposed convolution whose kernels do not overlap."""
    return TRANSPOSED_CONV[dim](in_channels, out_channels, tuple(stride), tuple(stride))  # type: ignore[arg-type]


class Decoder(nn.Module):
    """Upsample, join the skip, convolve; at each stage, a head may give logits.

    Args:
        dim: 2 or 3.
        features: channels of the encoder's stages, finest first.
        kernels, strides: of the encoder's stages.
        convs: convolutions of each decoder stage, coarsest first.
        classes: channels of the logits.
        stage, up: make the blocks of a stage, and what enlarges the image before it.
        last_skip: whether the finest stage joins its skip.
    """

    def __init__(  # noqa: PLR0913 - networks differ in these, and in nothing else of a decoder
        self,
        dim: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs: Sequence[int],
        classes: int,
        *,
        stage: Stage = conv_blocks,
        up: Up = transposed,
        last_skip: bool = True,
    ) -> None:
        super().__init__()
        ups, stages, heads = [], [], []
        for level, count in zip(range(len(features) - 2, -1, -1), convs, strict=True):
            width, joins = features[level], last_skip or level > 0
            ups.append(up(dim, features[level + 1], width, strides[level + 1]))
            stages.append(stage(dim, width + joins * width, width, count, kernels[level], (1,) * dim))
            heads.append(CONV[dim](width, classes, 1))
        self.ups, self.stages, self.heads = nn.ModuleList(ups), nn.ModuleList(stages), nn.ModuleList(heads)
        self.last_skip = last_skip

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of every decoder stage, coarsest first; `skips` are the encoder's, finest first."""
        x, found = skips[-1], []
        for level, up, stage in zip(range(len(skips) - 2, -1, -1), self.ups, self.stages, strict=True):
            x = up(x)
            x = stage(torch.cat([x, skips[level]], dim=1) if self.last_skip or level > 0 else x)
            found.append(x)
        return found
