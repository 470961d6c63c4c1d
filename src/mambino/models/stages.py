"""What networks of stages share: their sizes, filled in and checked, and the way down the encoder and up again."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_coarsest, check_sides
from mambino.nn.decoder import Decoder
from mambino.nn.init import he_normal

Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Stages:
    """Channels, kernels and strides of the stages of an encoder, finest first."""

    dim: int
    features: tuple[int, ...]
    kernels: Sizes
    strides: Sizes

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of an image shrink by from the first stage to the last."""
        return tuple(math.prod(along) for along in zip(*self.strides, strict=True))


class UShaped(nn.Module):
    """An encoder of stages, whose features a decoder with a head at every stage joins on its way up.

    Args:
        in_channels: of images.
        divisor: what each side of an image must be a multiple of.
        encoder: stages, finest first.
        decoder: of their features.
        bottom: what the coarsest features go through before the decoder; nothing if None.
    """

    def __init__(
        self,
        in_channels: int,
        divisor: tuple[int, ...],
        encoder: Iterable[nn.Module],
        decoder: Decoder,
        bottom: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.divisor = in_channels, divisor
        self.encoder, self.decoder, self.bottom = nn.ModuleList(encoder), decoder, bottom or nn.Identity()
        self.apply(he_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        logits: Tensor = self.decoder.heads[-1](self._features(x)[-1])
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every decoder stage, finest first."""
        found = self._features(x)
        return tuple(head(f) for head, f in zip(self.decoder.heads, found, strict=True))[::-1]

    def _features(self, x: Tensor) -> list[Tensor]:
        check_sides(x, self.in_channels, self.divisor)
        check_coarsest(x, self.divisor)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips[-1] = self.bottom(x)
        found: list[Tensor] = self.decoder(skips)
        return found


def make_stages(network: str, dim: int, features: tuple[int, ...], kernels: Sizes, strides: Sizes) -> Stages:
    """Fill in kernels of 3 and strides of 2 after the first stage where none are given.

    Raises:
        OptionError: the numbers of stages or axes differ, or a kernel is even.
    """
    count = len(features)
    if count < 2:
        raise OptionError(f"{network}: features needs at least 2 stages, got {count}")
    kernels = kernels or ((3,) * dim,) * count
    strides = strides or ((1,) * dim,) + ((2,) * dim,) * (count - 1)
    for name, value in (("kernels", kernels), ("strides", strides)):
        if len(value) != count or any(len(v) != dim for v in value):
            raise OptionError(f"{network}: {name} needs {dim} numbers for each of {count} stages, got {value}")
    even = [k for kernel in kernels for k in kernel if k % 2 == 0]
    if even:
        raise OptionError(f"{network}: kernels must be odd, got {even[0]}")
    return Stages(dim, features, kernels, strides)


def counted(network: str, name: str, given: tuple[int, ...], default: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many blocks each stage has: what is given, or if that is empty, the default.

    Raises:
        OptionError: the number of stages differs, or a stage has no block.
    """
    if given and (len(given) != len(default) or min(given) < 1):
        raise OptionError(f"{network}: {name} needs {len(default)} numbers of at least 1, got {given}")
    return given or default


def assembled(stem: nn.Module, rows: Sequence[nn.Module], layers: Sequence[nn.Module | None]) -> list[nn.Module]:
    """Return stages of named parts: the blocks, before the first of them the stem, behind each its layer if any."""
    parts = [{"blocks": row, "layer": layer} for row, layer in zip(rows, layers, strict=True)]
    parts[0] = {"stem": stem, **parts[0]}
    return [nn.Sequential(OrderedDict((k, v) for k, v in part.items() if v is not None)) for part in parts]
