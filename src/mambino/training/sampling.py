"""Where patches come from: a random case, a random place, read without reading the case.

Sample number j of batch number k depends on the seed, j and k alone, so that a run which goes on after a stop
sees the batches it would have seen, however many were prepared in advance and however many processes share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Generator, Tensor

from mambino.core import machine
from mambino.core.labels import Labels
from mambino.core.plan import Config
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
from mambino.training.waiting import reading

HELD_SHARE = 0.25
"""Prepared cases are kept in memory when all of them take at most this share of what is free."""


@runtime_checkable
class Readable(Protocol):
    """A prepared case: its size, a sample of the voxels of each label, and any part of it."""

    @property
    def id(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def locations(self) -> Mapping[int, NDArray[np.integer]]: ...
    def image_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]: ...
    def labels_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int16]: ...


@dataclass(frozen=True, slots=True, eq=False)
class HeldCase:
    """A prepared case in memory."""

    id: str
    shape: tuple[int, ...]
    locations: Mapping[int, NDArray[np.integer]]
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
        foreground: share of patches whose centre is a voxel of a structure.
        augmentation: what happens to them.
        seed: of everything random.
        slices: the patch is one slice of a case with one axis more.
        processes: that share each batch.
    """

    cases: Sequence[Readable]
    labels: Labels
    patch: tuple[int, ...]
    batch: int
    foreground: float
    augmentation: Augmentation
    seed: int
    slices: bool = False
    processes: Processes = ALONE

    def __call__(self, number: int) -> Batch:
        """Return this process's part of batch `number`; the same number gives the same batch."""
        mine = self.processes.share(range(number * self.batch, (number + 1) * self.batch))
        seeds = [mixed(self.seed, sample) for sample in mine]
        images, targets = zip(*[self._draw(Generator().manual_seed(seed)) for seed in seeds], strict=True)
        return Batch(torch.stack(images), learnable(self.labels, torch.stack(targets)))

    def _draw(self, generator: Generator) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
        case = self.cases[_below(len(self.cases), generator)]
        size = (1, *self.patch) if self.slices else self.patch
        start = place(case, size, self.foreground, generator)
        quarters = self.augmentation.quarters > 0 and below(self.augmentation.quarters, generator)
        matrix = None if quarters else spatial_matrix(self.augmentation.turn, self.augmentation.spacing, generator)
        margin = (0,) * len(self.patch) if matrix is None else margins(matrix, self.patch)
        wide = (0, *margin) if self.slices else margin
        image, labels = read(case, [s - m for s, m in zip(start, wide, strict=True)],
                             [s + 2 * m for s, m in zip(size, wide, strict=True)])  # fmt: skip
        if self.slices:
            image, labels = image[:, 0], labels[0]
        if matrix is not None:
            image, labels = warp(image, labels, matrix, self.patch)
        if quarters:
            image, labels = quarter_turn(image, labels, generator)
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
        foreground=config.recipe.foreground,
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


def read(case: Readable, start: Sequence[int], size: Sequence[int]) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
    """Read a part of a case; outside of the case the image is zero and nothing is learnt.

    Raises:
        DataError: the stored case cannot be read.
    """
    low = [min(max(a, 0), s) for a, s in zip(start, case.shape, strict=True)]
    high = [min(max(a + n, lo), s) for a, n, lo, s in zip(start, size, low, case.shape, strict=True)]
    image, labels = _stored(case, low, high)
    inside = tuple(slice(lo - a, hi - a) for lo, hi, a in zip(low, high, start, strict=True))
    voxels = torch.zeros(image.shape[0], *size)
    numbers = torch.full(tuple(size), IGNORED, dtype=torch.int16)
    voxels[(slice(None), *inside)] = torch.from_numpy(np.ascontiguousarray(image))
    numbers[inside] = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int16))
    return voxels, numbers


def held(cases: Sequence[Readable], channels: int, holders: int = 1) -> Sequence[Readable]:
    """Return the cases in memory where all of them, so many times, are small beside what is free, else as they are."""
    size = sum(prod(case.shape) for case in cases) * (4 * channels + 2) / 2**30
    if holders * size > HELD_SHARE * machine.memory():
        return cases
    return [_hold(case) for case in cases]


def mixed(seed: int, number: int) -> int:
    """Return a 63-bit seed that differs wildly between neighbours (splitmix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + number + 0x632BE59BD9B4E019) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return (value ^ (value >> 31)) >> 1


def _hold(case: Readable) -> HeldCase:
    image, labels = _stored(case, [0] * len(case.shape), case.shape)
    return HeldCase(case.id, tuple(case.shape), case.locations, np.asarray(image), np.asarray(labels))


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())


def _stored(case: Readable, low: Sequence[int], high: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Read the voxels between two corners; say which case is at fault where that fails."""
    try:
        with reading(case.id):
            return case.image_patch(low, high), case.labels_patch(low, high)
    except Error:
        raise
    except Exception as error:
        raise DataError(
            f"case {case.id}: its prepared voxels cannot be read: {error}",
            hint="prepare it again: mambino preprocess WORK",
        ) from error
