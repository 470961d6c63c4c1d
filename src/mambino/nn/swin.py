"""Swin Transformer blocks: attention inside windows that are shifted in every second block (arXiv 2103.14030).

Images are [b *s c] here, channels last, and everything works on two or three spatial axes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.nn.drop_path import DropPath
from mambino.nn.transformer import MLP, SelfAttention

BLOCKED = -100.0
"""Added to the score of two tokens that share a window but are no neighbours; the originals' number."""


class WindowAttention(nn.Module):
    """Attention among the tokens of each window, with a learnt bias for every relative position.

    Args:
        dim: 2 or 3.
        width: channels in and out.
        heads: attentions side by side.
        window: side of a window (tokens).
    """

    index: Tensor

    def __init__(self, dim: int, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, bias=True)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** dim, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", _relative_positions(dim, window), persistent=False)

    def forward(self, windows: Float[Tensor, "b w l c"], mask: Float[Tensor, "w l l"] | None) -> Tensor:
        """Mix the tokens of each window; `mask` is added to their scores."""
        # Windows of fewer tokens take the first rows and columns of the index, wherever their tokens lie: MONAI's way.
        tokens = windows.shape[2]
        bias = self.table[self.index[:tokens, :tokens]].permute(2, 0, 1)
        if mask is not None:
            return self.attention(windows, bias + mask[:, None])  # type: ignore[no-any-return]
        # Four axes, which torch's quick attention asks for.
        return self.attention(windows.flatten(0, 1), bias[None]).unflatten(0, windows.shape[:2])  # type: ignore[no-any-return]


class SwinBlock(nn.Module):
    """Attention inside windows, then two layers a token, each after a normalisation and added to what came in.

    Where the image is no larger than a window along an axis, the window is as large as the image there, and is not
    shifted.

    Args:
        dim: 2 or 3.
        width: channels in and out.
        heads: attentions side by side.
        window: side of a window (tokens).
        shifted: whether windows begin half a window further on, those at the end going on at the beginning.
        drop_path: share of images that go without a branch in training.
    """

    def __init__(self, dim: int, width: int, heads: int, window: int, *, shifted: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(dim, width, heads, window)
        self.mlp = MLP(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        result: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return result

    def _attend(self, x: Tensor) -> Tensor:
        space = x.shape[1:-1]
        window = tuple(min(self.window, side) for side in space)
        shift = tuple(self.window // 2 if self.shifted and side > self.window else 0 for side in space)
        x = _padded(x, window)
        whole, axes = x.shape[1:-1], tuple(range(1, x.dim() - 1))
        if not any(shift):
            x = _joined(self.attention(_windows(x, window), None), whole, window)
        else:
            x = torch.roll(x, tuple(-s for s in shift), axes)
            x = self.attention(_windows(x, window), _mask(whole, window, shift, x))
            x = torch.roll(_joined(x, whole, window), shift, axes)
        return x[(slice(None), *(slice(side) for side in space))]


def swin_blocks(
    dim: int, width: int, heads: int, window: int, rates: Sequence[float], *, shift: bool = True
) -> nn.Sequential:
    """Return a block for each share in `rates` of images that go without it, every second one with shifted windows."""
    return nn.Sequential(
        *(
            SwinBlock(dim, width, heads, window, shifted=shift and i % 2 == 1, drop_path=rate)
            for i, rate in enumerate(rates)
        )
    )


def check_levels(name: str, width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> None:
    """Refuse options of a network of such blocks, its width doubled at each level, that do not fit.

    Raises:
        OptionError: names the network, the option and its value.
    """
    if len(depths) != len(heads) or min(depths, default=0) < 1:
        raise OptionError(f"{name}: depths needs a number of at least 1 for each of heads {heads}, got {depths}")
    for level, count in enumerate(heads):
        if count < 1 or width < 1 or width * 2**level % count:
            raise OptionError(f"{name}: {width * 2**level} channels of level {level} cannot be shared by {count} heads")
    if window < 1:
        raise OptionError(f"{name}: window needs at least 1 token, got {window}")


def _relative_positions(dim: int, window: int) -> Tensor:
    """Return, for each two tokens of a window, the row of the table that their difference has."""
    places = torch.cartesian_prod(*(torch.arange(window),) * dim)
    difference = places[:, None] - places[None] + window - 1
    steps = torch.tensor([(2 * window - 1) ** (dim - 1 - axis) for axis in range(dim)])
    return (difference * steps).sum(-1)


def _padded(x: Tensor, window: Sequence[int]) -> Tensor:
    """Append zeros until windows fill the image."""
    missing = [-side % w for side, w in zip(x.shape[1:-1], window, strict=True)]
    return nn.functional.pad(x, (0, 0, *(n for m in reversed(missing) for n in (0, m)))) if any(missing) else x


def _windows(x: Float[Tensor, "b *s c"], window: Sequence[int]) -> Float[Tensor, "b w l c"]:
    """Cut an image into windows, row by row."""
    batch, *space, channels = x.shape
    x = x.reshape(batch, *(n for side, w in zip(space, window, strict=True) for n in (side // w, w)), channels)
    x = x.permute(0, *range(1, x.dim() - 1, 2), *range(2, x.dim() - 1, 2), -1)
    return x.reshape(batch, -1, math.prod(window), channels)


def _joined(windows: Float[Tensor, "b w l c"], space: Sequence[int], window: Sequence[int]) -> Float[Tensor, "b *s c"]:
    """Undo `_windows`."""
    dim, (batch, _, _, channels) = len(space), windows.shape
    counts = [side // w for side, w in zip(space, window, strict=True)]
    x = windows.reshape(batch, *counts, *window, channels)
    x = x.permute(0, *(axis for i in range(1, dim + 1) for axis in (i, i + dim)), -1)
    return x.reshape(batch, *space, channels)


def _mask(space: Sequence[int], window: Sequence[int], shift: Sequence[int], like: Tensor) -> Float[Tensor, "w l l"]:
    """Block, in shifted windows, the tokens that came from the other end of the image."""
    regions = torch.zeros(*space, dtype=torch.int32, device=like.device)
    for axis, (side, w, s) in enumerate(zip(space, window, shift, strict=True)):
        places = torch.arange(side, device=like.device)
        part = (places >= side - w).int() + (places >= side - s).int() if s else torch.zeros_like(places)
        regions = 3 * regions + part.reshape(-1, *(1,) * (len(space) - 1 - axis))
    tokens = _windows(regions[None, ..., None], window)[0, ..., 0]
    return (tokens[:, :, None] != tokens[:, None]).to(like.dtype) * BLOCKED
