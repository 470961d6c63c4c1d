"""Room for large arrays: in memory, or in mapped files that the system may take out of memory at any time."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mambino.core.records import unwritable

Room = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]
"""Makes an array of a shape and type; what it holds first is not known."""

SLAB = 2**22
"""Voxels that are worked on at once where a whole array may not fit into memory."""


def in_memory(shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
    """Make an array as numpy does."""
    return np.empty(shape, kind)


@contextmanager
def on_disk(folder: Path) -> Iterator[Room]:
    """Lend room in mapped files of a folder that lose their names at once, so that nothing is left, whatever happens.

    Where the system keeps the name of a mapped file (Windows), it goes at the end, if nothing holds the array any more.

    Raises:
        FileFormatError: (by the room) the disk is full. Space is taken before it is needed, since a mapped file that
            meets a full disk kills the program.
    """
    left: list[Path] = []

    def room(shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
        size = prod(shape) * np.dtype(kind).itemsize
        if not size:
            return np.empty(shape, kind)
        handle, name = tempfile.mkstemp(prefix=".scratch-", dir=folder)
        try:
            with os.fdopen(handle, "r+b") as file:
                _take(file.fileno(), size)
                return np.memmap(file, kind, "r+", 0, shape)
        except OSError as error:
            raise unwritable(Path(name), error) from None
        finally:
            try:
                Path(name).unlink()
            except OSError:
                left.append(Path(name))

    try:
        yield room
    finally:
        for path in left:
            with contextlib.suppress(OSError):
                path.unlink()


def _take(file: int, size: int) -> None:
    """Reserve the space of a file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):
        os.write(file, zeros[: size - start])


def slabs(shape: tuple[int, ...], voxels: int = SLAB) -> Iterator[slice]:
    """Yield consecutive parts of the first axis of so many voxels each, at least one row."""
    rows = max(1, voxels // max(1, prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def copied(array: NDArray[Any], kind: DTypeLike, room: Room) -> NDArray[Any]:
    """Copy an array into room in its own order of axes, some rows of its first spatial axis at a time.

    Args:
        array: [c, *s] in any memory layout.
        kind: type of the copy.
        room: where it goes.
    """
    out = room(array.shape, kind)
    for channel, voxels in zip(out, array, strict=True):
        for rows in slabs(voxels.shape):
            channel[rows] = voxels[rows]
    return out
