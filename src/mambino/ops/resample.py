"""Resize voxels, labels and class scores between grids that cover the same box.

Works on numpy and torch arrays alike, in float32. Results equal those of nnU-Net v2's default
resampling (skimage's `resize`, that is a spline with edges repeated and no anti-aliasing, clipped to
the range of the input), by the matrix products of `splines`.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, to_device
from numpy.typing import NDArray
from scipy import ndimage

from mambino.core.scratch import Room, in_memory
from mambino.core.threads import shared
from mambino.errors import OptionError, ShapeError
from mambino.ops.splines import Array, Matrix, Part, resize_axes, resize_first, resize_plane, spline, whole
from mambino.ops.windows import Slab, Span

BRICK = 64 * 2**20
"""Scores at output size are made in bricks of about so many bytes."""

LARGE = 2**26
"""Voxels of an image above which it is resized part by part."""

_PART = 2**24  # voxels of such a part
_LABEL_ROWS = 32  # output voxels along axis 0 that labels are resized for at once
_LEVEL = 1e-5  # interpolated indicators closer than this are tied: float32 sums of a few terms


def resize(
    array: Array,
    shape: Sequence[int],
    *,
    order: int = 3,
    separate_axis: int | None = None,
    separate_order: int = 0,
    room: Room = in_memory,
) -> Array:
    """Resize the voxels of [c, *s] to [c, *shape] by splines of `order`.

    Args:
        array: voxels; computed in and returned as float32.
        shape: voxels wanted along each spatial axis.
        order: 0 nearest, 1 linear, 3 cubic.
        separate_axis: spatial axis to treat by itself, after the others, with `separate_order`.
        separate_order: of that axis.
        room: for the result of a numpy array. One of more than `LARGE` voxels is made in parts of its first axis, so
            that nothing else of its size is in memory; unless another axis is separate.

    Returns:
        float32, clipped to the range of each channel, or of each slice where an axis is separate. The
        array itself where nothing changes.

    Raises:
        ShapeError: `shape` has another number of axes, or an axis without voxels.
        OptionError: an order is not between 0 and 5.
    """
    matrices = _matrices(array.shape[1:], shape, order, separate_axis, separate_order)
    xp = array_namespace(array)
    array = xp.astype(array, xp.float32, copy=False)
    if all(matrix is None for matrix in matrices):
        return array
    wide = (array.shape[0], *shape)
    out = room(wide, np.float32) if is_numpy_array(array) else xp.empty(wide, dtype=xp.float32, device=device(array))
    for number in range(array.shape[0]):
        if separate_axis in {None, 0} and max(prod(array.shape[1:]), prod(shape)) > LARGE:
            _by_parts(array[number], matrices, out[number], slices=separate_axis == 0)
        elif separate_axis is None:
            out[number] = _clipped(array[number], matrices)
        else:
            out[number] = _slicewise(array[number], matrices, separate_axis)
    return out


def resize_labels(array: Array, shape: Sequence[int], *, order: int = 1, separate_axis: int | None = None) -> Array:
    """Resize label numbers [*s] to [*shape]: each label by itself, then the largest share wins.

    Where two labels have equal shares, the label of the nearest voxel wins if it is one of them, else
    the smallest number. No number appears that was not there.

    Args:
        array: numbers of 0 and above.
        shape: voxels wanted along each axis.
        order: of the spline that each label's indicator is resized by; 0 takes the nearest voxel.
        separate_axis: axis to treat by itself, after the others; always by the nearest voxel.

    Raises:
        ShapeError: `shape` has another number of axes, or an axis without voxels.
        OptionError: an order is not between 0 and 5.
    """
    matrices = _matrices(array.shape, shape, order, separate_axis, 0)
    if all(matrix is None for matrix in matrices):
        return array
    xp, place = array_namespace(array), device(array)
    labels = np.asarray(to_device(array, "cpu"))
    if separate_axis is not None:
        plane = list(matrices)
        plane[separate_axis] = None
        labels = _vote(labels, plane, order)
        matrices = [matrix if axis == separate_axis else None for axis, matrix in enumerate(matrices)]
    return xp.asarray(_vote(labels, matrices, order if separate_axis is None else 0), device=place)


def resize_scores(
    slabs: Iterable[Slab],
    source: Sequence[int],
    shape: Sequence[int],
    *,
    order: int = 1,
    separate_axis: int | None = None,
    separate_order: int = 0,
    part: Span | None = None,
) -> Iterator[Slab]:
    """Resize class scores from a grid of `source` voxels to `shape`, brick by brick along axis 0.

    The scores of all classes exist at the size of `shape` for one brick at a time.

    Args:
        slabs: scores [k, rows, *rest] in order, together [k, *source]; for a part, as far as `inputs_of` says.
        source: voxels of the grid that the slabs come from.
        shape: voxels wanted along each axis.
        order: 0 or 1; higher orders would overshoot and reach over brick borders.
        separate_axis, separate_order: as in `resize`.
        part: what is wanted of all axes of `shape` but the first; all of them if None.

    Yields:
        Consecutive slabs that together are [k, *shape], or the part of it, float32.

    Raises:
        ShapeError: the slabs leave a gap, end early or do not fit `source`.
        OptionError: an order is neither 0 nor 1.
    """
    if not {order, separate_order} <= {0, 1}:
        raise OptionError(f"scores are resized by order 0 or 1, got {order} and {separate_order}")
    matrices = _matrices(source, shape, order, separate_axis, separate_order)
    plane = [whole(matrix) for matrix in matrices[1:]]
    if part is not None:
        needed = _inputs(matrices, part)
        plane = [Part(matrix, low, span) for matrix, (low, _), span in zip(matrices[1:], needed, part, strict=True)]
        source = (source[0], *(high - low for low, high in needed))
        shape = (shape[0], *(high - low for low, high in part))
    if all(matrix is None for matrix in matrices):
        yield from _cut(_consecutive(slabs, source))
        return
    pending, done = None, 0
    for slab in _consecutive(slabs, source):
        pending = slab if pending is None else _joined(pending, slab)
        while (rows := _ready(pending, done, source[0], shape, matrices[0])) > done:
            yield Slab(done, _brick(pending, done, rows, matrices[0], plane))
            pending, done = _without(pending, rows, matrices[0]), rows


def inputs_of(
    source: Sequence[int],
    shape: Sequence[int],
    part: Span,
    *,
    order: int = 1,
    separate_axis: int | None = None,
    separate_order: int = 0,
) -> Span:
    """Return which voxels of all axes of `source` but the first a part of `shape` is made of; see `resize_scores`."""
    return _inputs(_matrices(source, shape, order, separate_axis, separate_order), part)


def _inputs(matrices: Sequence[Matrix | None], part: Span) -> Span:
    return tuple(_needed(matrix, span) for matrix, span in zip(matrices[1:], part, strict=True))


def _matrices(
    source: Sequence[int], shape: Sequence[int], order: int, separate_axis: int | None, separate_order: int
) -> list[Matrix | None]:
    if len(source) != len(shape) or min(shape) < 1:
        raise ShapeError(f"an array of {tuple(source)} voxels cannot be resized to {tuple(shape)}")
    for value in (order, separate_order):
        if value not in range(6):
            raise OptionError(f"a spline has an order between 0 and 5, got {value}")
    orders = [separate_order if axis == separate_axis else order for axis in range(len(shape))]
    return [
        None if old == new else spline(int(old), int(new), order)
        for old, new, order in zip(source, shape, orders, strict=True)
    ]


def _clipped(array: Array, matrices: Sequence[Matrix | None]) -> Array:
    """Resize [*s] and clip to its range."""
    xp = array_namespace(array)
    return xp.clip(resize_axes(array, [whole(matrix) for matrix in matrices]), xp.min(array), xp.max(array))


def _by_parts(array: Array, matrices: Sequence[Matrix | None], out: Array, *, slices: bool) -> None:
    """Resize [*s] into `out` some rows at a time, clipped to the range of all of it, or of each of its `slices`."""
    xp, plane = array_namespace(array), [whole(matrix) for matrix in matrices[1:]]
    low, high = (None, None) if slices else (xp.min(array), xp.max(array))
    rows = max(1, _PART // max(1, prod(out.shape[1:])))
    for first in range(0, out.shape[0], rows):
        wanted = (first, min(first + rows, out.shape[0]))
        start, stop = _needed(matrices[0], wanted)
        part = Part(matrices[0], start, wanted)
        if slices:
            found = resize_first(_planes(array[start:stop], plane), part)
        else:
            found = xp.clip(resize_axes(array[start:stop], [part, *plane]), low, high)
        out[wanted[0] : wanted[1]] = found


def _planes(array: Array, plane: Sequence[Part]) -> Array:
    """Resize each slice of [*s], clipped to its range."""
    if not any(part.matrix for part in plane):
        return array
    xp, over = array_namespace(array), tuple(range(1, array.ndim))
    low, high = xp.min(array, axis=over, keepdims=True), xp.max(array, axis=over, keepdims=True)
    return xp.clip(resize_plane(array, plane), low, high)


def _slicewise(array: Array, matrices: Sequence[Matrix | None], apart: int) -> Array:
    """Resize the slices of [*s] across one axis, each clipped to its range, then that axis."""
    xp = array_namespace(array)
    array = xp.moveaxis(array, apart, 0)
    array = _planes(array, [whole(matrix) for axis, matrix in enumerate(matrices) if axis != apart])
    return xp.moveaxis(resize_first(array, whole(matrices[apart])), 0, apart)


def _vote(labels: NDArray[np.integer], matrices: Sequence[Matrix | None], order: int) -> NDArray[np.integer]:
    """Resize labels some rows of axis 0 at a time, so that scores exist for these rows only."""
    if order == 0:
        for matrix in matrices:
            labels = np.moveaxis(resize_first(labels, whole(matrix)), 0, -1)
        return np.ascontiguousarray(labels)
    shape = tuple(n if m is None else m.size[1] for n, m in zip(labels.shape, matrices, strict=True))
    if all(matrix is None for matrix in matrices):
        return labels
    out = np.empty(shape, labels.dtype)
    for low in range(0, shape[0], _LABEL_ROWS):
        high = min(low + _LABEL_ROWS, shape[0])
        out[low:high] = _voted_rows(labels, matrices, order, (low, high), shape[1:])
    return out


def _voted_rows(
    labels: NDArray[np.integer],
    matrices: Sequence[Matrix | None],
    order: int,
    rows: tuple[int, int],
    rest: tuple[int, ...],
) -> NDArray[np.integer]:
    start, stop = _needed(matrices[0], rows)
    inputs = labels[start:stop]
    nearest = _nearest(inputs, matrices, rows, start)
    if not inputs.any():
        return nearest
    shape = (rows[1] - rows[0], *rest)
    total, best, own = (np.zeros(shape, np.float32) for _ in range(3))
    winner = np.zeros(shape, labels.dtype)
    for number, box in enumerate(ndimage.find_objects(inputs), start=1):
        parts = _touched(box, matrices, rows, start) if box else ()
        if not parts:
            continue
        first, *others = (part.rows for part in parts)
        place = (slice(first[0] - rows[0], first[1] - rows[0]), *(slice(*other) for other in others))
        share = resize_axes((inputs[box] == number).astype(np.float32), parts)
        total[place] += share
        share = share if order == 1 else share.clip(0, 1)
        better = share > best[place] + _LEVEL
        winner[place][better] = number
        np.maximum(best[place], share, out=best[place])
        np.copyto(own[place], share, where=nearest[place] == number)
    background = np.clip(1 - total, 0, 1)
    np.copyto(own, background, where=nearest == 0)
    winner[background >= best - _LEVEL] = 0
    np.maximum(best, background, out=best)
    np.copyto(winner, nearest, where=own >= best - _LEVEL)
    return winner


def _touched(
    box: tuple[slice, ...], matrices: Sequence[Matrix | None], rows: tuple[int, int], start: int
) -> tuple[Part, ...]:
    """Say which outputs the inputs in a box reach; nothing where they fall between the samples."""
    parts = []
    for axis, (matrix, inputs) in enumerate(zip(matrices, box, strict=True)):
        inside = (inputs.start + start, inputs.stop + start) if axis == 0 else (inputs.start, inputs.stop)
        if matrix is None:
            parts.append(Part(None, inside[0], inside))
            continue
        low, high = rows if axis == 0 else (0, matrix.size[1])
        reached = np.flatnonzero((matrix.first[low:high] < inside[1]) & (matrix.last[low:high] > inside[0]))
        if not reached.size:
            return ()
        parts.append(Part(matrix, inside[0], (low + int(reached[0]), low + int(reached[-1]) + 1)))
    return tuple(parts)


def _nearest(
    part: NDArray[np.integer], matrices: Sequence[Matrix | None], rows: tuple[int, int], start: int
) -> NDArray[np.integer]:
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            index = spline(*matrix.size, 0).first
            part = part.take(index[slice(*rows)] - start if axis == 0 else index, axis)
    return part


def _needed(matrix: Matrix | None, rows: tuple[int, int]) -> tuple[int, int]:
    """Which inputs of axis 0 the output `rows` depend on."""
    if matrix is None:
        return rows
    return int(matrix.first[slice(*rows)].min()), int(matrix.last[slice(*rows)].max())


def _consecutive(slabs: Iterable[Slab], source: Sequence[int]) -> Iterator[Slab]:
    end = 0
    for slab in slabs:
        shape = tuple(slab.scores.shape)
        if slab.start != end or shape[2:] != tuple(source[1:]) or end + shape[1] > source[0]:
            raise ShapeError(f"scores of {shape} from row {slab.start} do not go on at row {end} of {tuple(source)}")
        end += shape[1]
        yield slab
    if end != source[0]:
        raise ShapeError(f"scores end at row {end} of {source[0]}")


def _cut(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """Cut slabs into bricks, without a copy where they are float32."""
    for slab in slabs:
        xp = array_namespace(slab.scores)
        scores = xp.astype(slab.scores, xp.float32, copy=False)
        rows = max(1, BRICK // (4 * scores.shape[0] * prod(scores.shape[2:])))
        for low in range(0, scores.shape[1], rows):
            yield Slab(slab.start + low, scores[:, low : low + rows])


def _joined(pending: Slab, slab: Slab) -> Slab:
    if not pending.scores.shape[1]:
        return slab
    xp = array_namespace(slab.scores)
    return Slab(pending.start, xp.concat([pending.scores, slab.scores], axis=1))


def _ready(pending: Slab, done: int, source: int, shape: Sequence[int], matrix: Matrix | None) -> int:
    """How far the output can go with what is pending: to a whole brick, or to the end; else `done`."""
    end = pending.start + pending.scores.shape[1]
    possible = end if matrix is None else int(np.searchsorted(matrix.last, end, side="right"))
    brick: int = max(1, BRICK // (4 * pending.scores.shape[0] * prod(shape[1:])))
    if possible - done >= brick:
        return done + brick
    return possible if end == source else done


def _brick(pending: Slab, low: int, high: int, first: Matrix | None, plane: Sequence[Part]) -> Array:
    start, stop = _needed(first, (low, high))
    scores = pending.scores[:, start - pending.start : stop - pending.start]
    xp = array_namespace(scores)
    scores = xp.astype(scores, xp.float32, copy=False)
    parts = [Part(first, start, (low, high)), *plane]
    shape = [part.rows[1] - part.rows[0] if part.matrix else n for n, part in zip(scores.shape[2:], plane, strict=True)]
    out = xp.empty((scores.shape[0], high - low, *shape), dtype=xp.float32, device=device(scores))

    def resize_class(number: int) -> None:
        out[number] = resize_axes(scores[number], parts)

    if is_numpy_array(scores):
        shared(resize_class, range(scores.shape[0]))
    else:
        for number in range(scores.shape[0]):
            resize_class(number)
    return out


def _without(pending: Slab, done: int, matrix: Matrix | None) -> Slab:
    """Drop the rows that no output from `done` on depends on."""
    end = pending.start + pending.scores.shape[1]
    keep = done if matrix is None else int(matrix.first[done]) if done < matrix.size[1] else end
    return Slab(keep, pending.scores[:, keep - pending.start :])
