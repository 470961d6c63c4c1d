"""Where patches come from: a random case, a random place, read without reading the case.

Sample number j of batch number k depends on the seed, j and k alone, so that a run which goes on after a stop
sees the batches it would have seen, however many were prepared in advance and however many processes share them.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Generator, Tensor

from mambino.core import machine
from mambino.core.labels import Labels
from mambino.core.plan import Config
from mambino.core.recipe import Recipe
from mambino.errors import DataError, Error
from mambino.training.augmentation import (
    Augmentation,
    change_intensities,
    margins,
    mirror,
    quarter_turn,
    spatial_matrix,
    warp,
)
from mambino.training.intensity import below
from mambino.training.loss import learnable
from mambino.training.processes import ALONE, Processes
from mambino.training.terms import IGNORED
from mambino.training.waiting import reading, watched

_OUTSIDE = {"ignored": IGNORED, "background": 0}
HELD_SHARE = 0.25
"""Prepared cases are kept in memory when all of them take at most this share of what is free."""


class Voxels(Protocol):
    """Indices of voxels [n d], in memory or on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, which: Any, /) -> NDArray[np.integer]: ...


@runtime_checkable
class Readable(Protocol):
    """A prepared case: its size, a sample of the voxels of each label, and any part of it."""

    @property
    def id(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def locations(self) -> Mapping[int, Voxels]: ...
    def image_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]: ...
    def labels_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int16]: ...


@dataclass(frozen=True, slots=True, eq=False)
class HeldCase:
    """A prepared case in memory."""

    id: str
    shape: tuple[int, ...]
    locations: Mapping[int, Voxels]
    image: NDArray[np.float32]
    labels: NDArray[np.int16]

    def image_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        """Return the voxels [c *s] from `start` to before `stop`."""
        return self.image[(slice(None), *map(slice, start, stop))]

    def labels_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int16]:
        """Return the label numbers [*s] from `start` to before `stop`."""
        return self.labels[tuple(map(slice, start, stop))]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step learns from: patches, and the label number of each voxel (`IGNORED`: not learnt)."""

    images: Float[Tensor, "b c *s"]
    target: Int[Tensor, "b *s"]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """A source of batches.

    Attributes:
        cases: to draw from, each as likely as the others.
        labels: of the data set.
        patch: size in voxels.
        batch: patches in a batch, of all processes together.
        recipe: which patches are centred on a structure, in which order cases come, and what is outside of them.
        augmentation: what happens to them.
        seed: of everything random.
        slices: the patch is one slice of a case with one axis more.
        processes: that share each batch.
    """

    cases: Sequence[Readable]
    labels: Labels
    patch: tuple[int, ...]
    batch: int
    recipe: Recipe
    augmentation: Augmentation
    seed: int
    slices: bool = False
    processes: Processes = ALONE

    def __call__(self, number: int) -> Batch:
        """Return this process's part of batch `number`; the same number gives the same batch."""
        mine = self.processes.share(range(number * self.batch, (number + 1) * self.batch))
        images, targets = zip(*[self._draw(sample) for sample in mine], strict=True)
        return Batch(torch.stack(images), learnable(self.labels, torch.stack(targets)))

    def share(self, sample: int) -> float:
        """Return the probability that a sample is centred on a structure; `sample` counts from the start of the run.

        Where the last ones of a step are, as in nnU-Net, what counts is the place in all that the step learns from,
        whichever process has the sample and whichever of the added batches it is in.
        """
        share = self.recipe.foreground
        if self.recipe.centred == "random":
            return share
        size = self.batch * self.recipe.accumulate
        return float(sample % size >= round(size * (1 - share)))

    def _draw(self, sample: int) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
        generator = Generator().manual_seed(mixed(self.seed, sample))
        if self.recipe.order == "passes":
            case, row = in_turn(self.cases, sample, self.seed, slices=self.slices)
        else:
            case, row = self.cases[_below(len(self.cases), generator)], None
        try:
            return self._patch_of(case, row, self.share(sample), generator)
        except Exception as error:
            error.add_note(f"while a patch of case {case.id} was made")
            raise

    def _patch_of(
        self, case: Readable, row: int | None, share: float, generator: Generator
    ) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
        size, outside = (1, *self.patch) if self.slices else self.patch, _OUTSIDE[self.recipe.outside]
        with reading(f"case {case.id}"):
            start = place(case, size, share, generator)
        start = start if row is None else (row, *start[1:])
        quarters = self.augmentation.quarters > 0 and below(self.augmentation.quarters, generator)
        matrix = None if quarters else spatial_matrix(self.augmentation.turn, self.augmentation.spacing, generator)
        margin = (0,) * len(self.patch) if matrix is None else margins(matrix, self.patch)
        wide = (0, *margin) if self.slices else margin
        image, labels = read(case, [s - m for s, m in zip(start, wide, strict=True)],
                             [s + 2 * m for s, m in zip(size, wide, strict=True)], outside)  # fmt: skip
        if self.slices:
            image, labels = image[:, 0], labels[0]
        turn, flipped = self.augmentation.turn, False
        if turn is not None and turn.fixed is not None:  # flipped after it, some would be turned the other way
            (image, labels), flipped = mirror(image, labels, self.augmentation, generator), True
        if turn is not None and matrix is not None:
            image, labels = warp(image, labels, matrix, self.patch, nearest=turn.nearest)
        if quarters:
            image, labels = quarter_turn(image, labels, generator)
        if not flipped:
            image, labels = mirror(image, labels, self.augmentation, generator)
        return change_intensities(image, self.augmentation, generator), labels


def patches(
    cases: Sequence[Readable],
    config: Config,
    labels: Labels,
    how: Augmentation,
    seed: int,
    *,
    all_: Processes = ALONE,
) -> Patches:
    """Return the source of batches that a configuration asks for."""
    return Patches(
        cases=cases,
        labels=labels,
        patch=config.patch,
        batch=config.batch,
        recipe=config.recipe,
        augmentation=how,
        seed=seed,
        slices=config.slice_axis is not None,
        processes=all_,
    )


def place(case: Readable, size: Sequence[int], foreground: float, generator: Generator) -> tuple[int, ...]:
    """Draw where a patch of `size` voxels starts.

    With probability `foreground` its centre is a voxel of a structure (each structure of the case is
    equally likely), moved only as far as the patch would otherwise leave the case. Where a case is
    smaller than the patch, it lies in the middle (the start is negative).
    """
    # Halves round down, as where windows are padded to predict.
    first = [min(0, -((p - s) // 2)) for s, p in zip(case.shape, size, strict=True)]
    last = [max(f, s - p) for f, s, p in zip(first, case.shape, size, strict=True)]
    present = [number for number, voxels in sorted(case.locations.items()) if number > 0 and len(voxels)]
    if below(foreground, generator) and present:
        voxels = case.locations[present[_below(len(present), generator)]]
        centre = voxels[_below(len(voxels), generator)]
        wanted = [int(c) - p // 2 for c, p in zip(centre, size, strict=True)]
        return tuple(min(max(w, f), t) for w, f, t in zip(wanted, first, last, strict=True))
    return tuple(f + _below(t - f + 1, generator) for f, t in zip(first, last, strict=True))


def in_turn(cases: Sequence[Readable], sample: int, seed: int, *, slices: bool) -> tuple[Readable, int | None]:
    """Return the case, and the slice where these are seen, that a sample is of where each comes once in each pass."""
    ends = _ends(tuple(case.shape[0] if slices else 1 for case in cases))
    lap, position = divmod(sample, ends[-1])
    number = _shuffled(ends[-1], mixed(seed, -1 - lap))[position]
    chosen = bisect_right(ends, number)
    return cases[chosen], number - (ends[chosen - 1] if chosen else 0) if slices else None


def read(
    case: Readable, start: Sequence[int], size: Sequence[int], outside: int = IGNORED
) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
    """Read a part of a case; outside of the case the image is zero and the label number is `outside`.

    Raises:
        DataError: the stored case cannot be read.
    """
    low = [min(max(a, 0), s) for a, s in zip(start, case.shape, strict=True)]
    high = [min(max(a + n, lo), s) for a, n, lo, s in zip(start, size, low, case.shape, strict=True)]
    image, labels = stored(case, low, high)
    inside = tuple(slice(lo - a, hi - a) for lo, hi, a in zip(low, high, start, strict=True))
    voxels = torch.zeros(image.shape[0], *size)
    numbers = torch.full(tuple(size), outside, dtype=torch.int16)
    voxels[(slice(None), *inside)] = torch.from_numpy(np.ascontiguousarray(image))
    numbers[inside] = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int16))
    return voxels, numbers


def held(cases: Sequence[Readable], channels: int, holders: int = 1) -> Sequence[Readable]:
    """Return the cases in memory where all of them, so many times, are small beside what is free, else as they are."""
    size = sum(prod(case.shape) * (4 * channels + 2) + _size_of_locations(case) for case in cases) / 2**30
    if holders * size > HELD_SHARE * machine.memory():
        return cases
    with watched():
        return [_hold(case) for case in cases]


def mixed(seed: int, number: int) -> int:
    """Return a 63-bit seed that differs wildly between neighbours (splitmix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + number + 0x632BE59BD9B4E019) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return (value ^ (value >> 31)) >> 1


@lru_cache(maxsize=1)
def _ends(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(accumulate(lengths))


@lru_cache(maxsize=2)  # batches at the end of one pass and at the start of the next are prepared at once
def _shuffled(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=Generator().manual_seed(seed)).tolist())


def _hold(case: Readable) -> HeldCase:
    image, labels = stored(case, [0] * len(case.shape), case.shape)
    locations = {number: voxels[:] for number, voxels in case.locations.items()}
    return HeldCase(case.id, tuple(case.shape), locations, np.asarray(image), np.asarray(labels))


def _size_of_locations(case: Readable) -> int:
    return sum(len(voxels) * len(case.shape) * 4 for voxels in case.locations.values())


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())


def stored(case: Readable, low: Sequence[int], high: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Read the voxels [c *s] and label numbers [*s] between two corners.

    Raises:
        DataError: they cannot be read; names the case.
    """
    try:
        with reading(f"case {case.id}"):
            return case.image_patch(low, high), case.labels_patch(low, high)
    except Error:
        raise
    except Exception as error:
        raise DataError(
            f"case {case.id}: its prepared voxels cannot be read: {error}",
            hint="prepare it again: mambino preprocess WORK",
        ) from error
