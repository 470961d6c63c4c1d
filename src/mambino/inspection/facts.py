"""What one file holds, measured once: everything that findings are computed from."""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambino.core.dataset import Case, Dataset
from mambino.core.grid import Grid, orienting
from mambino.core.image import Image
from mambino.core.options import Progress, silent
from mambino.errors import DataError, Error
from mambino.imageio import read_image
from mambino.inspection.processes import spread

Code = tuple[float, ...]
"""What one voxel of a mask holds: a single value, or the channels of a colour."""

Job = tuple[Path, int | None]
"""A file, and how many channels it should have if it is an image; None says that it is a mask."""

_GREY = 12  # JPEG's colour conversion moves the channels of a grey pixel apart by a few levels
_SAMPLE = (1 << 16) - 1
_MOST_CODES = 4096  # a mask with more different values is an image


@dataclass(frozen=True, slots=True, eq=False)
class FileFacts:
    """Measurements of one file.

    Attributes:
        path: the file.
        error: why it cannot be read; everything below is empty then.
        hint: what to do about that.
        warned: what the reader warned of.
        grid: where its voxels are.
        channels: how many it holds.
        dtype: of the voxels, as numpy names it.
        not_finite: how many voxels are NaN or infinite.
        ranges: smallest and largest finite value of each channel.
        digest: of the voxels, turned to RAS; equal for equal images, however they are stored.
        codes: for masks: each value or colour with its number of voxels, the most frequent
            `_MOST_CODES` of them.
    """

    path: Path
    error: str = ""
    hint: str = ""
    warned: tuple[str, ...] = ()
    grid: Grid | None = None
    channels: int = 0
    dtype: str = ""
    not_finite: int = 0
    ranges: tuple[tuple[float, float], ...] = ()
    digest: str = ""
    codes: dict[Code, int] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether there is anything to compare."""
        return not self.error


@dataclass(frozen=True, slots=True, eq=False)
class CaseFacts:
    """Measurements of all files of one case.

    Attributes:
        case: the case.
        images: one entry an image file.
        mask: the mask, where there is one.
        training: whether it is learnt from, and not a test case.
    """

    case: Case
    images: tuple[FileFacts, ...]
    mask: FileFacts | None
    training: bool

    @property
    def readable(self) -> bool:
        """Whether every file of the case can be read."""
        return all(facts.readable for facts in self.files)

    @property
    def files(self) -> tuple[FileFacts, ...]:
        """The facts of every file."""
        return (*self.images, self.mask) if self.mask else self.images

    @property
    def channels(self) -> int:
        """Number of channels over all image files."""
        return sum(facts.channels for facts in self.images)

    @property
    def digest(self) -> str:
        """Of the voxels of all channels; empty where nothing can be compared."""
        if not all(facts.readable for facts in self.images):
            return ""
        return "-".join(facts.digest for facts in self.images)

    @property
    def constant(self) -> tuple[int, ...]:
        """Channels that hold one value everywhere."""
        ranges = [pair for facts in self.images for pair in facts.ranges]
        return tuple(i for i, (low, high) in enumerate(ranges) if low == high)


def examine(dataset: Dataset, workers: int = 0, progress: Progress = silent) -> tuple[CaseFacts, ...]:
    """Measure every file of a data set, in parallel where there is enough to read."""
    cases = [(case, True) for case in dataset.training] + [(case, False) for case in dataset.test]
    jobs = [job for case, _ in cases for job in _jobs(case, dataset)]
    facts = _watched(spread(_measure, jobs, [path for path, _ in jobs], workers), len(jobs), progress)
    return tuple(
        CaseFacts(case, tuple(next(facts) for _ in case.images), next(facts) if case.label else None, training=training)
        for case, training in cases
    )


def measure(path: Path, channels: int | None) -> FileFacts:
    """Read one file and say what is in it; a file that cannot be read is a fact too.

    Args:
        path: the file.
        channels: how many an image should have; None for a mask.
    """
    mask = channels is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = _read(path, channels)
        except Error as error:
            return FileFacts(path, error=str(error), hint=error.hint)
    array = image.array
    return FileFacts(
        path,
        warned=tuple(dict.fromkeys(str(warning.message).removeprefix(f"{path}: ") for warning in caught)),
        grid=image.grid,
        channels=image.channels,
        dtype=str(array.dtype),
        not_finite=_not_finite(array),
        ranges=_ranges(array),
        digest="" if mask else digest(image),
        codes=count_codes(array) if mask else {},
    )


def _jobs(case: Case, dataset: Dataset) -> list[Job]:
    each = 1 if len(case.images) > 1 else len(dataset.channels)
    return [*((path, each) for path in case.images), *([(case.label, None)] if case.label else [])]


def _watched(facts: Iterator[FileFacts], total: int, progress: Progress) -> Iterator[FileFacts]:
    for done, measured in enumerate(facts, 1):
        progress(done, total, measured.path.name)
        yield measured


def _measure(job: Job) -> FileFacts:
    return measure(*job)


def _read(path: Path, channels: int | None) -> Image:
    """Read an image; another number of channels than declared is a finding, and no reason to stop."""
    try:
        return read_image(path, channels=channels)
    except DataError:
        return read_image(path)


def digest(image: Image) -> str:
    """Return a hash of the voxels that does not depend on the type or the axes they are stored in."""
    array = image.array
    if image.grid.dim == 3:
        order, flips = orienting(image.grid, "RAS")
        array = array.transpose(0, *(axis + 1 for axis in order))
        array = np.flip(array, tuple(axis + 1 for axis in flips))
    seen = hashlib.blake2b(str(array.shape).encode(), digest_size=16)
    for channel in array:
        seen.update(np.ascontiguousarray(channel, dtype="<f4").data)
    return seen.hexdigest()


def count_codes(array: NDArray[np.generic]) -> dict[Code, int]:
    """Count the values of a mask [c, *s], or its colours; a grey picture stored as RGB counts as grey.

    Voxels that are not finite are left out.
    """
    array = flatten_grey(array)
    if len(array) > 1:
        return _count_colours(array)
    values, counts = _unique(array[0])
    order = np.argsort(-counts, kind="stable")[:_MOST_CODES]
    return {(float(values[i]),): int(counts[i]) for i in sorted(order)}


def flatten_grey(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Drop what is no colour from a mask [c, *s]: an alpha channel, and channels that repeat the first."""
    if len(array) not in {2, 3, 4}:
        return array
    colours = array[:3] if len(array) > 2 else array[:1]
    if len(colours) == 1 or array.dtype != np.uint8:
        return colours
    spread = colours.max(axis=0).astype(np.int16) - colours.min(axis=0)
    return colours[:1] if spread.max() <= _GREY else colours


def _count_colours(array: NDArray[np.generic]) -> dict[Code, int]:
    """Count colours packed into one number each, which sorts many times faster than rows do."""
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > _SAMPLE:
        values, counts = np.unique(array.reshape(len(array), -1), axis=1, return_counts=True)
    else:
        packed, counts = np.unique(np.ravel_multi_index(tuple(array), (_SAMPLE + 1,) * len(array)), return_counts=True)
        values = np.stack(np.unravel_index(packed, (_SAMPLE + 1,) * len(array)))
    order = np.argsort(-counts, kind="stable")[:_MOST_CODES]
    return {tuple(values[:, i].astype(float).tolist()): int(counts[i]) for i in sorted(order)}


def _unique(values: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Count distinct finite values; whole numbers in a small range are counted without sorting."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return np.empty(0), np.empty(0, dtype=np.intp)
    low, high = float(values.min()), float(values.max())
    if high - low < 1 << 16 and (values.dtype.kind != "f" or bool((values == np.rint(values)).all())):
        counts = np.bincount(values.ravel().astype(np.int64) - int(low))
        found = np.flatnonzero(counts)
        return found.astype(np.float64) + low, counts[found]
    distinct, counts = np.unique(values, return_counts=True)
    return distinct.astype(np.float64), counts


def _ranges(array: NDArray[np.generic]) -> tuple[tuple[float, float], ...]:
    pairs = []
    for channel in array:
        low, high = float(channel.min()), float(channel.max())
        if not np.isfinite([low, high]).all():
            finite = channel[np.isfinite(channel)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        pairs.append((low, high))
    return tuple(pairs)


def _not_finite(array: NDArray[np.generic]) -> int:
    return int(array.size - np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0
