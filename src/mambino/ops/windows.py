"""Sliding windows: where they lie, how they are weighted, and the loop that blends what a network says of each.

Works on numpy and torch arrays alike. Windows are visited in order of their start along axis 0, and
scores exist only for the rows that a window still to come may touch.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from math import ceil, prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

from mambino.errors import OptionError, ShapeError

Array = Any
"""A numpy array or a torch tensor."""
Span = tuple[tuple[int, int], ...]
"""First and last (exclusive) voxel along each of some axes."""

BLOCK = 32 * 2**20
"""Finished scores are given away in slabs of about so many bytes, one row at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Finished scores of some consecutive rows along axis 0.

    Attributes:
        start: the first of these rows in the whole array.
        scores: [k, rows, *rest] float32.
    """

    start: int
    scores: Array


def positions(
    shape: Sequence[int], patch: Sequence[int], overlap: float | Sequence[float] = 0.5
) -> list[tuple[int, ...]]:
    """Return where windows of `patch` voxels start so that they cover `shape`, in order of axis 0 first.

    As in nnU-Net: steps are at most patch * (1 - overlap) and spread evenly, so that the last window
    ends with the array. Where the array is smaller than the patch, one window starts at 0.

    Raises:
        OptionError: an overlap is not in [0, 1).
    """
    return list(product(*_starts(shape, patch, overlap)))


def gaussian(patch: Sequence[int]) -> NDArray[np.float32]:
    """Return the weights [*patch] of a window's voxels: a Gaussian of sigma patch / 8 round the centre.

    The maximum is 1 and the smallest weight is above 0 (exp(-8) for each axis), as in nnU-Net.
    """
    weights = np.ones((), np.float64)
    for size in patch:
        weights = weights[..., None] * _bell(size)
    return weights.astype(np.float32)


def blend(
    forward: Callable[[Array], Array],
    array: Array,
    patch: Sequence[int],
    overlap: float | Sequence[float] = 0.5,
    *,
    batch: int = 1,
    within: Span | None = None,
) -> Iterator[Slab]:
    """Apply `forward` to windows over an array and yield their weighted mean, slab by slab.

    Where the array is smaller than the patch, zeros are put on both sides and their scores cut off.
    Over a part of the array, the scores are those that they are over all of it: every window that touches the part is
    made, in the same order.

    Args:
        forward: [n c *patch] -> [n k *patch], n at most `batch`.
        array: [c *s].
        patch: voxels of a window, one entry an axis of `s`.
        overlap: of neighbouring windows, as a share of the patch; one number, or one an axis.
        batch: windows that `forward` gets at once.
        within: the part of all axes but the first that scores are wanted of; all if None.

    Yields:
        Slabs in order; together they have exactly the rows of the array.

    Raises:
        OptionError: an overlap is not in [0, 1).
        ShapeError: array and patch differ in their number of axes, or `forward` changes the size of a window.
    """
    if array.ndim != len(patch) + 1:
        raise ShapeError(f"a patch of {tuple(patch)} needs an array of {len(patch) + 1} axes, got {tuple(array.shape)}")
    inside = tuple(array.shape[1:])
    array, before = _padded(array, patch)
    starts = _starts(array.shape[1:], patch, overlap)
    sums = [_total(*axis) for axis in zip(array.shape[1:], patch, starts, strict=True)]
    crop = [(b + low, b + high) for b, (low, high) in zip(before[1:], within or _all(inside[1:]), strict=True)]
    for axis, (low, high) in enumerate(crop, start=1):
        starts[axis] = [start for start in starts[axis] if start < high and start + patch[axis] > low]
        first, last = starts[axis][0], starts[axis][-1] + patch[axis]
        array = array[(slice(None),) * (axis + 1) + (slice(first, last),)]
        starts[axis] = [start - first for start in starts[axis]]
        sums[axis] = sums[axis][first:last]
        crop[axis - 1] = (low - first, high - first)
    for start, scores in _rows(forward, array, patch, starts, sums, batch):
        low, high = max(start, before[0]), min(start + scores.shape[1], before[0] + inside[0])
        rows = (slice(None), slice(low - start, high - start), *(slice(*span) for span in crop))
        yield Slab(low - before[0], scores[rows])


def _all(shape: Sequence[int]) -> Span:
    return tuple((0, size) for size in shape)


def _rows(
    forward: Callable[[Array], Array],
    array: Array,
    patch: Sequence[int],
    starts: list[list[int]],
    sums: list[NDArray[np.float32]],
    batch: int,
) -> Iterator[tuple[int, Array]]:
    """Yield finished rows of the padded array with the index of the first; `sums` are of weights along each axis.

    Sums of as many rows as a window has are all that is held: a row that is finished leaves its place to the row that
    lies one window further on.
    """
    xp, where = array_namespace(array), device(array)
    weights = xp.asarray(gaussian(patch), device=where)
    first_sum, *other_sums = sums
    rest = xp.asarray(_outer(other_sums), device=where)
    held: Array = None
    for start, following in pairwise([*starts[0], array.shape[1]]):
        places = product(*starts[1:])
        while corners := tuple(islice(places, batch)):
            windows = [_window(patch, (start, *corner)) for corner in corners]
            scores = xp.astype(forward(xp.stack([array[w] for w in windows])), xp.float32, copy=False)
            if tuple(scores.shape[2:]) != tuple(patch):
                raise ShapeError(f"a window of {tuple(patch)} voxels came back with {tuple(scores.shape[2:])}")
            if held is None:
                held = xp.zeros((scores.shape[1], patch[0], *array.shape[2:]), dtype=xp.float32, device=where)
            for window, (low, high) in product(range(len(windows)), _stretches(start, start + patch[0], patch[0])):
                rows, place = slice(low - start, high - start), slice(low % patch[0], (high - 1) % patch[0] + 1)
                _add(held[(slice(None), place, *windows[window][2:])], scores[window, :, rows], weights[rows])
        most = max(1, BLOCK // (4 * held.shape[0] * prod(held.shape[2:])))
        for low, high in _stretches(start, following, patch[0], most):
            along = xp.asarray(first_sum[low:high], device=where)
            along = xp.reshape(along, (-1,) + (1,) * (len(patch) - 1))
            finished = held[:, low % patch[0] : (high - 1) % patch[0] + 1]
            yield low, finished / (along * rest)
            finished[...] = 0


def _stretches(start: int, stop: int, size: int, most: int = sys.maxsize) -> Iterator[tuple[int, int]]:
    """Cut rows into stretches of at most `most` rows that lie together where row r lies at place r % size."""
    while start < stop:
        end = min(stop, start + most, (start // size + 1) * size)
        yield start, end
        start = end


def _add(total: Array, values: Array, weights: Array) -> None:
    """Add weighted values [k *s] where they belong, in torch without an array for the products."""
    if is_torch_array(total):
        total.addcmul_(values, weights)
    else:
        total += values * weights


def _window(patch: Sequence[int], start: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None), *(slice(first, first + size) for first, size in zip(start, patch, strict=True)))


def _starts(shape: Sequence[int], patch: Sequence[int], overlap: float | Sequence[float]) -> list[list[int]]:
    shares = (overlap,) * len(patch) if isinstance(overlap, int | float) else overlap
    if not all(0 <= share < 1 for share in shares):
        raise OptionError(f"windows overlap by a share from 0 to below 1, got {overlap}")
    return [_line(*axis) for axis in zip(shape, patch, shares, strict=True)]


def _line(size: int, patch: int, overlap: float) -> list[int]:
    """Return the starts along one axis."""
    room = max(size - patch, 0)
    # A step below one voxel would visit the same place twice.
    steps = ceil(room / max(patch * (1 - overlap), 1))
    return [round(room / steps * i) for i in range(steps + 1)] if steps else [0]


def _bell(size: int) -> NDArray[np.float64]:
    return np.exp(-0.5 * ((np.arange(size) - size // 2) / (size / 8)) ** 2)


def _total(size: int, patch: int, starts: list[int]) -> NDArray[np.float32]:
    """Return the sum of the weights of all windows along one axis.

    Windows lie on a grid and their weights are a product over the axes, and so is the sum of both.
    """
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += _bell(patch)
    return total.astype(np.float32)


def _outer(sums: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    result = np.ones((), np.float32)
    for axis in sums:
        result = result[..., None] * axis
    return result


def _padded(array: Array, patch: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    """Centre the array in zeros where it is smaller than the patch; return it and how many lie before it."""
    missing = [max(p - s, 0) for s, p in zip(array.shape[1:], patch, strict=True)]
    before = tuple(m // 2 for m in missing)
    if not any(missing):
        return array, before
    xp = array_namespace(array)
    shape = (array.shape[0], *(s + m for s, m in zip(array.shape[1:], missing, strict=True)))
    wide = xp.zeros(shape, dtype=array.dtype, device=device(array))
    wide[(slice(None), *(slice(b, b + s) for b, s in zip(before, array.shape[1:], strict=True)))] = array
    return wide, before
