"""What is mended in a finished mask: stray pieces, small pieces, holes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.errors import OptionError

ALL = "all"
"""Stands for every structure, unless one has that name."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is mended in which structures.

    Attributes:
        largest: structures of which the largest piece stays.
        smallest: by structure, the size below which a piece goes (mm^d; pixels where an image has no spacing).
        fill: structures whose holes are filled.
    """

    largest: frozenset[str]
    smallest: dict[str, float]
    fill: frozenset[str]


def rules(options: PredictOptions, labels: Labels) -> Rules:
    """Read what the options say of structures.

    Raises:
        OptionError: a name that no structure has, or a size that is no positive number.
    """
    sizes: dict[str, float] = {}
    for word in options.min_size:
        name, equals, text = word.rpartition("=")
        size = _number(text)
        if not equals or not (isfinite(size) and size > 0):
            raise OptionError(
                f"--min-size takes LABEL=SIZE with a size above 0, got {word!r}",
                hint="as in --min-size liver=500, in mm³ (mm² or pixels of a picture)",
            )
        sizes.update(dict.fromkeys(_names((name,), labels, "--min-size"), size))
    return Rules(
        largest=frozenset(_names(options.largest, labels, "--largest")),
        smallest=sizes,
        fill=frozenset(_names(options.fill, labels, "--fill")),
    )


def mended(segmentation: Segmentation, how: Rules) -> Segmentation:
    """Return a mask whose structures are in order, each by itself, in the order of the labels.

    Pieces hang together by faces, edges and corners, as in nnU-Net's post-processing; of two that are equally large
    the first in memory stays, and what goes becomes background. Then holes are filled: background that no path
    across faces joins to the border of the image without crossing the structure. Other structures in a hole stay.
    A region is one structure, whatever numbers it is made of; its holes get the number that is painted for it.

    This needs the whole mask, since a piece may reach from end to end: 6 bytes for each voxel of the smallest box
    round a structure, and a copy of the mask.
    """
    labels = segmentation.labels
    if not (how.largest or how.smallest or how.fill):
        return segmentation
    array = segmentation.array.copy()
    spacing = segmentation.grid.spacing
    for (name, numbers), paint in zip(labels.names.items(), _paint(labels), strict=True):
        if name not in how.largest | how.smallest.keys() | how.fill:
            continue
        box = _box_of(array, numbers)
        if box is None:
            continue
        part = array[box]
        least = how.smallest.get(name, 0.0) / prod(spacing)
        inside = np.isin(part, numbers)
        if name in how.largest or least:
            kept = pieces(inside, largest=name in how.largest, least=least)
            part[inside & ~kept] = 0
            inside = kept
        if name in how.fill:
            part[holes(inside) & (part == 0)] = paint
    return replace(segmentation, array=array)


def pieces(mask: NDArray[np.bool_], *, largest: bool, least: float = 0.0) -> NDArray[np.bool_]:
    """Return the pieces [*s] of a mask [*s] that stay.

    Args:
        mask: of one structure.
        largest: only the largest stays, if it is large enough.
        least: size that a piece needs (voxels).
    """
    numbered, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    sizes[0] = 0
    stay = (sizes > 0) & (sizes >= least * (1 - 1e-9))  # a size in mm³ is no exact number of voxels
    if largest:
        stay &= np.arange(count + 1) == sizes.argmax()
    kept: NDArray[np.bool_] = stay[numbered]
    return kept


def holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what of a mask's [*s] surroundings is shut in by it."""
    return ndimage.binary_fill_holes(mask) & ~mask  # type: ignore[no-any-return]


def _box_of(array: NDArray[np.integer], numbers: Sequence[int]) -> tuple[slice, ...] | None:
    """Find the smallest box round the voxels with these numbers; None where there are none."""
    used = [np.zeros(size, bool) for size in array.shape]
    for row, plane in enumerate(array):
        found = np.isin(plane, numbers)
        used[0][row] = found.any()
        for axis in range(1, array.ndim):
            used[axis] |= found.any(tuple(a for a in range(array.ndim - 1) if a != axis - 1))
    places = [np.flatnonzero(axis) for axis in used]
    return tuple(slice(int(p[0]), int(p[-1]) + 1) for p in places) if places[0].size else None


def _paint(labels: Labels) -> tuple[int, ...]:
    """Return the number that is written for each structure."""
    return (labels.has_regions and labels.paint) or tuple(group[0] for group in labels.names.values())


def _names(given: Sequence[str], labels: Labels, flag: str) -> tuple[str, ...]:
    if ALL in given and ALL not in labels.names:
        return tuple(labels.names)
    unknown = [name for name in given if name not in labels.names]
    if unknown:
        raise OptionError(
            f"{flag} names {unknown[0]!r}, which is no label of the bundle; it has {', '.join(labels.names)}",
            hint=f"choose some of these, or {ALL!r} for every one",
        )
    return tuple(given)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
