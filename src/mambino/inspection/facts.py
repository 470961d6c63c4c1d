"""What one file holds, measured once: everything that findings are computed from."""

import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambino.core.dataset import Case
from mambino.core.grid import Grid, orienting
from mambino.core.image import Image
from mambino.errors import Error
from mambino.imageio import read_image

Code = tuple[float, ...]
"""What one voxel of a mask holds: a single value, or the channels of a colour."""

_GREY = 12  # JPEG's colour conversion moves the channels of a grey pixel apart by a few levels
_MOST_CODES = 4096  # a mask with more different values is an image


@dataclass(frozen=True, slots=True, eq=False)
class FileFacts:
    """Measurements of one file.

    Attributes:
        path: the file.
        error: why it cannot be read; everything below is empty then.
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


def measure(path: Path, mask: bool) -> FileFacts:
    """Read one file and say what is in it; a file that cannot be read is a fact too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = read_image(path)
        except Error as error:
            return FileFacts(path, error=str(error))
    array, low_high = image.array, _ranges(image.array)
    return FileFacts(
        path,
        warned=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
        grid=image.grid,
        channels=image.channels,
        dtype=str(array.dtype),
        not_finite=_not_finite(array),
        ranges=low_high,
        digest="" if mask else digest(image),
        codes=count_codes(array) if mask else {},
    )


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
    values, counts = np.unique(array.reshape(len(array), -1), axis=1, return_counts=True)
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
        return found + low, counts[found]
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
