"""From an image to what a network sees, and from a network's scores back to the grid of the image.

`prepare` turns, crops, normalises and resamples, in this order (nnU-Net's); `restore` undoes it from
the last to the first: resample the scores, take a label for each voxel, put the box back, turn back.
A box round the body is cut out after normalising, so that what is left has the intensities it has without.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from array_api_compat import device, to_device
from numpy.typing import NDArray
from scipy import ndimage

from mambino.core.grid import Grid, check_same_place, orienting
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.core.plan import Config
from mambino.core.scratch import Room, copied, in_memory, slabs
from mambino.errors import DataError, ShapeError
from mambino.ops.resample import inputs_of, resize, resize_labels, resize_scores
from mambino.ops.windows import Slab, Span
from mambino.preprocessing.body import Box, Crop, body_box
from mambino.preprocessing.intensity import extremes, normalise
from mambino.preprocessing.reduction import largest, painted, reduce_scores, sigmoid, smallest_type, softmax

Run = Callable[[Span | None], Iterable[Slab]]
"""Gives logits of consecutive rows, over a span of all other axes of the prepared grid; of all where it is None."""

ANISOTROPIC = 3.0
"""A grid whose coarsest spacing exceeds its finest by more than this has an axis apart (nnU-Net)."""

MOST_VOXELS = 2**33
"""Of a prepared image, 2048 along each axis; more is a wrong spacing."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image as a network sees it, and what leads back from there.

    Attributes:
        array: [c, *s] float32, contiguous. For slices of a volume [c, slices, y, x].
        image: the grid of the image as it was given.
        turned: after turning to the recorded orientation and moving the slice axis to the front.
        cropped: after cutting away the border of zeros, and what is not in the box round the body.
        grid: after resampling; that of `array`.
        order: how the axes of the image were transposed.
        flips: which of the transposed axes were then read backwards.
        start: first voxel of the box in `turned`.
    """

    array: NDArray[np.float32]
    image: Grid
    turned: Grid
    cropped: Grid
    grid: Grid
    order: tuple[int, ...]
    flips: tuple[int, ...]
    start: tuple[int, ...]


def prepare(image: Image, config: Config, room: Room = in_memory, crop: Crop = "none") -> Prepared:
    """Turn, crop, normalise and resample an image.

    Args:
        image: is not changed.
        config: how.
        room: for arrays of the size of the image; beside them, parts of `scratch.SLAB` voxels are in memory.
        crop: "body" leaves only the box round the body in a volume.

    Raises:
        DataError: the image has another number of channels or axes than the configuration, voxels
            that are not finite, or intensities outside the range of the scheme.
    """
    _check_fits(image, config)
    order, flips = _turning(image.grid, config)
    turned = image.grid.transpose(order)
    for axis in flips:
        turned = turned.flip(axis)
    seen = _turn(image.array, (0, *(axis + 1 for axis in order)), tuple(axis + 1 for axis in flips))
    array = _float32(seen, room)
    _check_finite(array, image.array)
    start, shape = _box(array) if config.crop else ((0,) * turned.dim, turned.shape)
    array = _normalised(_part(array, start, shape), config, room)
    if crop == "body":
        inner, shape = _inside(_turned_box(body_box(image, config.normalise), image.grid, order, flips), (start, shape))
        array = _part(array, inner, shape)
        start = tuple(a + b for a, b in zip(start, inner, strict=True))
    cropped = turned.crop(start, shape)
    grid = cropped.resample(_new_shape(cropped, config))
    how = config.resample
    array = resize(
        array,
        grid.shape,
        order=how.image_order,
        separate_axis=_separate_axis(cropped, config, back=False),
        separate_order=how.separate_order,
        room=room,
    )
    array = array if array.flags.c_contiguous else copied(array, np.float32, room)
    return Prepared(array, image.grid, turned, cropped, grid, order, flips, start)


def prepare_labels(segmentation: Segmentation, prepared: Prepared, config: Config) -> NDArray[np.int16]:
    """Bring the labels of an image to its prepared grid.

    Returns:
        [*s] int16, the spatial shape of `prepared.array`.

    Raises:
        DataError: the labels do not lie on the voxels of the image.
    """
    check_same_place(prepared.image, segmentation.grid)
    labels = _turn(segmentation.array, prepared.order, prepared.flips).astype(np.int16)
    labels = resize_labels(
        np.ascontiguousarray(_part(labels, prepared.start, prepared.cropped.shape)),
        prepared.grid.shape,
        order=config.resample.label_order,
        separate_axis=_separate_axis(prepared.cropped, config, back=False),
    )
    return np.ascontiguousarray(labels, np.int16)


def restore(
    run: Run,
    prepared: Prepared,
    labels: Labels,
    config: Config,
    *,
    parts: Sequence[Span] = (),
    room: Room = in_memory,
) -> Segmentation:
    """Turn class scores into labels on the grid of the image.

    Scores are resampled and reduced to labels brick by brick, so that the scores of all classes never
    exist at the size of the image.

    Args:
        run: gives the logits [k, rows, *rest] of consecutive rows of the prepared grid, over a span of its other axes.
        prepared: what `prepare` made of the image.
        labels: what the classes mean. Each voxel gets the class of the largest logit; regions are
            painted in order wherever their logit is above 0, a probability above one half.
        config: of the network that the logits come from.
        parts: spans of all axes but the first of `prepared.cropped` that are made one after the other; together they
            cover it. All at once if there are none.
        room: for arrays of the size of the image.

    Raises:
        ShapeError: the slabs do not make up the prepared grid, or their number of classes is not that of `labels`.
    """
    box = room(prepared.cropped.shape, smallest_type(labels))
    spans: Sequence[Span | None] = parts or [None]
    for part in spans:
        for slab in _image_scores(run, prepared, labels, config, part):
            place = (slice(slab.start, slab.start + slab.scores.shape[1]), *(slice(*span) for span in part or ()))
            if isinstance(slab.scores, np.ndarray):
                reduce_scores(slab.scores, labels, box[place])
            else:
                numbers = painted(slab.scores, labels) if labels.has_regions else largest(slab.scores, labels)
                box[place] = np.asarray(to_device(numbers, "cpu"))
    return Segmentation(_unturn(_uncrop(box, prepared, room), prepared, room), prepared.image, labels)


def restore_scores(
    run: Run,
    prepared: Prepared,
    labels: Labels,
    config: Config,
    *,
    parts: Sequence[Span] = (),
    room: Room = in_memory,
) -> NDArray[np.float32]:
    """Turn logits into class probabilities [k, *s] on the grid of the image.

    Softmax over classes, or a sigmoid for each region. Outside the box that was cropped to, background
    is certain. All classes exist at the size of the image at once, in `room`; `parts` are as for `restore`.

    Raises:
        ShapeError: as for `restore`.
    """
    out = room((labels.out_channels, *prepared.image.shape), np.float32)
    out[...] = 0
    out[0] = not labels.has_regions
    # A view: what is written to it lies where the image has it.
    turned = _turn(out, (0, *(axis + 1 for axis in prepared.order)), tuple(axis + 1 for axis in prepared.flips))
    box = _part(turned, prepared.start, prepared.cropped.shape)
    spans: Sequence[Span | None] = parts or [None]
    for part in spans:
        for slab in _image_scores(run, prepared, labels, config, part):
            scores = np.asarray(to_device(slab.scores, "cpu"))
            rows = slice(slab.start, slab.start + scores.shape[1])
            place = (slice(None), rows, *(slice(*span) for span in part or ()))
            box[place] = sigmoid(scores) if labels.has_regions else softmax(scores)
    return out


def data_side(config: Config) -> str:
    """Return a digest of all in a configuration that prepared cases depend on."""
    how = (config.normalise, config.resample)
    seen: tuple[object, ...] = (config.dim, config.spacing, config.orientation, config.slice_axis, config.crop, *how)
    seen = (*seen, config.axes) if config.axes else seen  # what was prepared before there were axes stays good
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _check_fits(image: Image, config: Config) -> None:
    if image.channels != len(config.normalise):
        raise DataError(
            f"the image has {image.channels} {_plural(image.channels)}, the network takes {len(config.normalise)}"
            + {(3, 1): ": RGB given to a grey network", (1, 3): ": grey given to an RGB network"}.get(
                (image.channels, len(config.normalise)), ""
            ),
            hint="give images with the channels of the training data, in its order",
        )
    axes = config.dim if config.slice_axis is None else 3
    if image.grid.dim != axes:
        raise DataError(
            f"the image has {image.grid.dim} axes {image.grid.shape}, the configuration takes images with {axes}",
            hint="choose a configuration that was planned for such images",
        )


def _plural(channels: int) -> str:
    return "channel" if channels == 1 else "channels"


def _float32(array: NDArray[np.generic], room: Room = in_memory) -> NDArray[np.float32]:
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array  # type: ignore[return-value]
    with np.errstate(over="ignore"):  # what float32 cannot hold is found as not finite
        return copied(array, np.float32, room)


def _check_finite(array: NDArray[np.float32], given: NDArray[np.generic]) -> None:
    if given.dtype.kind in "biu":
        return
    count = sum(_infinite(channel[rows]) for channel in array for rows in slabs(channel.shape))
    if count:
        channel, *place = (int(i) for i in np.argwhere(~np.isfinite(_float32(given)))[0])
        raise DataError(
            f"the image is not finite in {count} of {array.size} voxels, "
            f"the first in channel {channel} at {tuple(place)}",
            hint="mend a copy: mambino check DATA --repair -o COPY",
        )


def _infinite(array: NDArray[np.float32]) -> int:
    return array.size - int(np.isfinite(array).sum())


def _turning(grid: Grid, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    order: tuple[int, ...] = tuple(range(grid.dim))
    flips: tuple[int, ...] = ()
    if config.orientation is not None and grid.dim == 3:
        order, flips = orienting(grid, config.orientation)
    front = config.axes
    if config.slice_axis is not None:
        front = (config.slice_axis, *(axis for axis in range(grid.dim) if axis != config.slice_axis))
    if not front:
        return order, flips
    return tuple(order[axis] for axis in front), tuple(sorted(front.index(axis) for axis in flips))


def _turn(array: NDArray[Any], order: tuple[int, ...], flips: tuple[int, ...]) -> NDArray[Any]:
    return np.flip(array.transpose(order), flips)


def _unturn(array: NDArray[Any], prepared: Prepared, room: Room) -> NDArray[Any]:
    back = np.flip(array, prepared.flips).transpose(np.argsort(prepared.order))
    return back if back.flags.c_contiguous else copied(back[None], back.dtype, room)[0]


def _box(array: NDArray[np.float32]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the smallest box round every voxel that is not zero in all channels; all of it where there is none."""
    used = [np.zeros(size, bool) for size in array.shape[1:]]
    for rows in slabs(array.shape[1:]):
        filled = (array[:, rows] != 0).any(0)
        for axis, found in enumerate(used):
            here = filled.any(tuple(a for a in range(filled.ndim) if a != axis))
            found[rows if axis == 0 else slice(None)] |= here
    places = [np.flatnonzero(found) for found in used]
    if not places[0].size:
        return (0,) * len(used), array.shape[1:]
    return tuple(int(p[0]) for p in places), tuple(int(p[-1]) + 1 - int(p[0]) for p in places)


def _turned_box(box: Box, grid: Grid, order: tuple[int, ...], flips: tuple[int, ...]) -> Box:
    """Return where a box of the image lies after turning."""
    start, shape = box
    back = [size - first - count for size, first, count in zip(grid.shape, start, shape, strict=True)]
    firsts = tuple(back[axis] if place in flips else start[axis] for place, axis in enumerate(order))
    return firsts, tuple(shape[axis] for axis in order)


def _inside(box: Box, outer: Box) -> Box:
    """Return the part of a box that another one holds, counted from there; all of the other where they do not meet."""
    low = tuple(max(a, b) for a, b in zip(box[0], outer[0], strict=True))
    high = tuple(min(a + n, b + m) for a, n, b, m in zip(*box, *outer, strict=True))
    if any(h <= a for a, h in zip(low, high, strict=True)):
        return (0,) * len(low), outer[1]
    return tuple(a - b for a, b in zip(low, outer[0], strict=True)), tuple(
        h - a for a, h in zip(low, high, strict=True)
    )


def _part(array: NDArray[Any], start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[Any]:
    box: tuple[Any, ...] = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    part: NDArray[Any] = array[(..., *box)]
    return part


def _uncrop(box: NDArray[np.unsignedinteger], prepared: Prepared, room: Room) -> NDArray[np.unsignedinteger]:
    if box.shape == prepared.turned.shape:
        return box
    whole: NDArray[np.unsignedinteger] = room(prepared.turned.shape, box.dtype)
    whole[...] = 0
    _part(whole, prepared.start, box.shape)[...] = box
    return whole


def _normalised(array: NDArray[np.float32], config: Config, room: Room) -> NDArray[np.float32]:
    inside = None
    if any(how.inside for how in config.normalise):
        # Zeros inside the body belong to it, so holes are filled (nnU-Net).
        inside = ndimage.binary_fill_holes((array != 0).any(0))
    scaled: NDArray[np.float32] = room(array.shape, np.float32)
    span = extremes([array[channel] for channel, how in enumerate(config.normalise) if how.scheme == "range"])
    for channel, how in enumerate(config.normalise):
        normalise(array[channel], how, inside, scaled[channel], span)
    return scaled


def _target(cropped: Grid, config: Config) -> tuple[float, ...]:
    return config.spacing if config.slice_axis is None else (cropped.spacing[0], *config.spacing)


def _new_shape(cropped: Grid, config: Config) -> tuple[int, ...]:
    # Spacings are sums of squares of an affine: six decimals, so that 12.5 voxels round alike everywhere.
    target = _target(cropped, config)
    shape = tuple(
        max(1, round(round(old, 6) / round(new, 6) * n))
        for old, new, n in zip(cropped.spacing, target, cropped.shape, strict=True)
    )
    if prod(shape) > MOST_VOXELS:
        raise DataError(
            f"{cropped.shape} voxels of spacing {cropped.spacing} become {shape} at the spacing {target} of the plan",
            "correct the spacing of the image, or of the plan",
        )
    return shape


def _separate_axis(cropped: Grid, config: Config, *, back: bool) -> int | None:
    """Which axis is resampled by itself: the coarsest of the grid we come from, else of the one we go to."""
    if cropped.dim < 3 or config.resample.separate_axis == "no":
        return None
    here, there = cropped.spacing, _target(cropped, config)
    for spacing in (there, here) if back else (here, there):
        rounded = [round(value, 6) for value in spacing]
        coarsest = max(rounded)
        if config.resample.separate_axis == "yes" or coarsest / min(rounded) > ANISOTROPIC:
            return rounded.index(coarsest) if rounded.count(coarsest) == 1 else None
    return None


def _image_scores(
    run: Run, prepared: Prepared, labels: Labels, config: Config, part: Span | None = None
) -> Iterator[Slab]:
    axis = _separate_axis(prepared.cropped, config, back=True)
    how: dict[str, Any] = {
        "order": min(config.resample.label_order, 1),
        "separate_axis": axis,
        "separate_order": min(config.resample.separate_order, 1),
    }
    source, shape = prepared.grid.shape, prepared.cropped.shape
    needed = inputs_of(source, shape, part, **how) if part else None
    return resize_scores(_checked(run(needed), labels), source, shape, part=part, **how)


def _checked(slabs: Iterable[Slab], labels: Labels) -> Iterator[Slab]:
    for slab in slabs:
        if slab.scores.shape[0] != labels.out_channels:
            raise ShapeError(f"there are scores of {slab.scores.shape[0]} classes, but labels of {labels.out_channels}")
        # On the processor numpy multiplies small matrices faster than torch; a GPU keeps its own arrays.
        yield Slab(slab.start, np.asarray(slab.scores)) if str(device(slab.scores)) == "cpu" else slab
