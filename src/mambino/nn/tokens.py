"""Images as sequences of tokens, and back, without copies where the channels of a voxel lie side by side."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mambino.nn.dims import CHANNELS_LAST


def channels_last(x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Return the image with the channels of each voxel side by side in memory."""
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim() - 2])


def to_tokens(x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l c"]:
    """Read an image row by row."""
    return x.movedim(1, -1).flatten(1, -2)


def to_image(tokens: Float[Tensor, "b l c"], space: Sequence[int]) -> Float[Tensor, "b c *s"]:
    """Lay tokens out as an image with sides `space`, row by row."""
    return tokens.reshape(tokens.shape[0], *space, tokens.shape[-1]).movedim(-1, 1)
