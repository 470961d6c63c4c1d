"""What mixes the tokens of a sequence or a grid: Mamba, and what may stand in its place to see what it brings."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from mambino.errors import OptionError
from mambino.nn.dims import CONV
from mambino.nn.mamba import Mamba

Mixer = Literal["scan", "conv", "attention", "none"]
Scan = Literal["selective", "identity"]

HEAD = 32
"""Channels of a head of attention, at least; fewer where the width has fewer."""


def make_mixer(mixer: Mixer, width: int, *, scan: Scan = "selective", norm: bool = False) -> nn.Module:
    """Return a module that mixes tokens [b l c], c being `width`.

    Args:
        mixer: "scan" is Mamba; "conv" and "attention" stand in its place; "none" lets tokens pass as they are.
        width: channels in and out.
        scan: "identity" takes the recurrence out of Mamba; it changes no other mixer.
        norm: normalise what Mamba's scan gives, before its gate; it changes no other mixer.

    Raises:
        OptionError: one of the names is not known.
    """
    check_names(mixer, scan)
    match mixer:
        case "scan":
            return Mamba(width, scan=scan, norm=norm)
        case "conv":
            return ConvMixer(width)
        case "attention":
            return Attention(width)
        case "none":
            return nn.Identity()


def check_names(mixer: str, scan: str) -> None:
    """Refuse names of mixers and scans that are not known.

    Raises:
        OptionError: gives the name.
    """
    if mixer not in get_args(Mixer):
        raise OptionError(f"there is no mixer {mixer!r}", hint="use scan, conv, attention or none")
    if scan not in get_args(Scan):
        raise OptionError(f"there is no scan {scan!r}", hint="use selective or identity")


class ConvMixer(nn.Module):
    """A short convolution of each channel by itself, to both sides, between two projections; as wide inside as Mamba.

    Args:
        width: channels in and out.
        kernel: reach of the convolution, odd (tokens).
        expand: inner width over `width`.
    """

    def __init__(self, width: int, *, kernel: int = 5, expand: int = 2) -> None:
        super().__init__()
        inner = expand * width
        self.in_proj = nn.Linear(width, inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel // 2)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        x = self.conv1d(self.in_proj(tokens).transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.out_proj(silu(x))
        return result


class GridConv(nn.Module):
    """A convolution of each channel by itself, over neighbours in all directions, between two projections.

    Args:
        dim: 2 or 3.
        width: channels in and out.
        kernel: reach of the convolution along each axis, odd (tokens).
        expand: inner width over `width`.
    """

    def __init__(self, dim: int, width: int, *, kernel: int = 5, expand: float = 2.0) -> None:
        super().__init__()
        inner = int(expand * width)
        self.in_proj = nn.Linear(width, inner, bias=False)
        self.conv = CONV[dim](inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        x = self.conv(self.in_proj(x).movedim(-1, 1)).movedim(1, -1)
        result: Tensor = self.out_proj(silu(x))
        return result


class Attention(nn.Module):
    """Self-attention of several heads, each token seeing all; work grows with the square of their number.

    Places are not encoded: what the tokens themselves know of theirs has to do.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(n for n in range(1, max(width // HEAD, 1) + 1) if width % n == 0)
        self.in_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b *l c"]) -> Float[Tensor, "b *l c"]:
        parts = self.in_proj(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1))  # [b l 3 heads channels]
        query, key, value = parts.transpose(1, 3).unbind(2)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        result: Tensor = self.out_proj(mixed)
        return result
