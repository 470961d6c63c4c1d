"""Resizing one axis after another: a spline is linear in its input and separable, so each axis is one banded matrix.

The matrices are learnt from scipy's zoom, borders and rounding included, and applied by matrix products
to numpy and torch arrays alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray
from scipy import ndimage

Array = Any
"""A numpy array or a torch tensor."""

_ROWS = 32  # outputs a block of a matrix: little lies outside its band
_REACH = 64  # an impulse is below 1e-9 at 16 voxels, so impulses 64 apart do not meet
_GROUP = 2**20  # voxels of consecutive slices that are resized at once, to stay in the cache
_NEGLIGIBLE = 1e-9  # smaller weights run down to denormal floats, which slow products tenfold
# Larger products are shared among the threads of OpenBLAS, which wait for one another: no faster on idle
# cores, and 100 s instead of 3 s on busy ones. Small ones also give the same bits on any number of cores.
_PRODUCT = 4 * 65536


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The part of a matrix for some consecutive outputs: [rows, columns] weights and where they start."""

    row: int
    column: int
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """How one axis is resized.

    Attributes:
        size: voxels before and after.
        nearest: input voxel of each output voxel, for order 0; else None.
        first, last: the inputs that each output depends on, `last` exclusive.
        blocks: the weights, in order of their rows.
    """

    size: tuple[int, int]
    nearest: NDArray[np.int64] | None
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the work on one axis.

    Attributes:
        matrix: None leaves the axis as it is.
        start: first input that the array holds; inputs that it does not hold are zero.
        rows: first and last (exclusive) output wanted.
    """

    matrix: Matrix | None
    start: int
    rows: tuple[int, int]


@lru_cache(maxsize=128)
def spline(old: int, new: int, order: int) -> Matrix:
    """Zoom impulses to learn the weights: the result is scipy's own, borders and rounding included."""
    outputs = np.arange(new)
    if order == 0:
        nearest = ndimage.zoom(np.arange(old, dtype=np.float64), new / old, order=0, mode="nearest", grid_mode=True)
        nearest = nearest.astype(np.int64)
        return Matrix((old, new), nearest, nearest, nearest + 1, ())
    combs = np.zeros((_REACH, old))
    combs[np.arange(old) % _REACH, np.arange(old)] = 1
    answers = np.stack([ndimage.zoom(comb, new / old, order=order, mode="nearest", grid_mode=True) for comb in combs])
    centre = np.rint((outputs + 0.5) * (old / new) - 0.5).astype(np.int64)
    start = np.clip(centre - _REACH // 2, 0, max(old - _REACH, 0))
    columns = start[:, None] + np.arange(min(old, _REACH))
    weights = answers[columns % _REACH, outputs[:, None]]
    weights[np.abs(weights) < _NEGLIGIBLE] = 0
    used = weights != 0
    first = start + used.argmax(1)
    last = start + used.shape[1] - used[:, ::-1].argmax(1)
    blocks = tuple(_block(row, columns[row : row + _ROWS], weights[row : row + _ROWS]) for row in range(0, new, _ROWS))
    return Matrix((old, new), None, first, last, blocks)


def _block(row: int, columns: NDArray[np.int64], weights: NDArray[np.float64]) -> Block:
    rows, used = weights.nonzero()
    inputs = columns[rows, used]
    dense = np.zeros((len(weights), inputs.max() + 1 - inputs.min()), np.float32)
    dense[rows, inputs - inputs.min()] = weights[rows, used]
    return Block(row, int(inputs.min()), dense)


def whole(matrix: Matrix | None) -> Part:
    """Return the work of resizing a whole axis."""
    return Part(matrix, 0, (0, matrix.size[1] if matrix else 0))


def resize_axes(array: Array, parts: Sequence[Part]) -> Array:
    """Resize every axis of [*s]; a first axis that shrinks goes first."""
    first, *plane = parts
    shrinks = first.matrix is not None and first.rows[1] - first.rows[0] < array.shape[0]
    array = resize_first(array, first) if shrinks else array
    array = resize_plane(array, plane)
    return array if shrinks else resize_first(array, first)


def resize_plane(array: Array, parts: Sequence[Part]) -> Array:
    """Resize all axes but the first, some slices at a time."""
    if not any(part.matrix for part in parts):
        return array
    xp = array_namespace(array)
    shape = [part.rows[1] - part.rows[0] if part.matrix else n for n, part in zip(array.shape[1:], parts, strict=True)]
    out = xp.empty((array.shape[0], *shape), dtype=xp.float32, device=device(array))
    group = max(1, _GROUP // max(1, prod(array.shape[1:])))
    for start in range(0, array.shape[0], group):
        slices = array[start : start + group]
        for part in reversed(parts):
            slices = _turned(slices, part)
        out[start : start + group] = xp.moveaxis(slices, -1, 0)
    return out


def _turned(array: Array, part: Part) -> Array:
    """Resize the last axis and make it the first, so that doing so for each axis restores their order."""
    xp = array_namespace(array)
    if part.matrix is None or part.matrix.nearest is not None:
        return resize_first(xp.moveaxis(array, -1, 0), part)
    flat = xp.reshape(array, (-1, array.shape[-1])).T
    return xp.reshape(_product(flat, part), (-1, *array.shape[:-1]))


def resize_first(array: Array, part: Part) -> Array:
    """Resize the first axis."""
    if part.matrix is None:
        return array
    xp = array_namespace(array)
    if part.matrix.nearest is not None:
        index = xp.asarray(part.matrix.nearest[slice(*part.rows)] - part.start, device=device(array))
        return xp.take(array, index, axis=0)
    return xp.reshape(_product(xp.reshape(array, (array.shape[0], -1)), part), (-1, *array.shape[1:]))


def _product(flat: Array, part: Part) -> Array:
    """Multiply the banded matrix with [n, m] inputs, block by block."""
    xp, place = array_namespace(flat), device(flat)
    (low, high), start, stop = part.rows, part.start, part.start + flat.shape[0]
    out = xp.empty((high - low, flat.shape[1]), dtype=xp.float32, device=place)
    for block in part.matrix.blocks if part.matrix else ():
        top, bottom = max(block.row, low), min(block.row + len(block.weights), high)
        if top >= bottom:
            continue
        left = max(block.column, start)
        right = max(left, min(block.column + block.weights.shape[1], stop))
        weights = block.weights[top - block.row : bottom - block.row, left - block.column : right - block.column]
        _multiply(weights, flat[left - start : right - start], out[top - low : bottom - low])
    return out


def _multiply(weights: NDArray[np.float32], inputs: Array, out: Array) -> None:
    """Write weights [r, n] @ inputs [n, m] to `out`; numpy arrays in products too small for several threads."""
    if not is_numpy_array(inputs):
        xp = array_namespace(inputs)
        out[...] = xp.asarray(weights, device=device(inputs)) @ inputs
        return
    (count, columns), side = inputs.shape, max(1, _PRODUCT // max(1, weights.size))
    even = columns // side * side
    tiles = inputs[:, :even].reshape(count, -1, side).transpose(1, 0, 2)
    np.matmul(weights, tiles, out=out[:, :even].reshape(len(out), -1, side).transpose(1, 0, 2))
    np.matmul(weights, inputs[:, even:], out=out[:, even:])
