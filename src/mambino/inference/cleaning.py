"""What is removed from a mask, and filled in it, when a user asks for it: pieces and holes of structures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambino.core.grid import Grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.errors import OptionError

EVERY = "all"
MILLILITRE = 1000.0
"""In cubic mm."""


def check_cleaning(options: PredictOptions, labels: Labels) -> None:
    """Refuse options that name no structure of these labels.

    Raises:
        OptionError: names the option, the name and the names that there are.
    """
    for flag in ("largest", "fill", "smallest"):
        given: tuple[str, ...] = getattr(options, flag)
        for name in (text.partition("=")[0] for text in given):
            if name != EVERY and name not in labels.names:
                raise OptionError(
                    f"--{flag} {name}: the bundle has no structure of this name; it has {', '.join(labels.names)}",
                    hint=f"name one of these, or {EVERY}",
                )
    for text in options.smallest:
        _volume(text)


def cleaned(segmentation: Segmentation, options: PredictOptions) -> Segmentation:
    """Return a mask without pieces below the smallest size, then with the largest piece alone, then without holes.

    Sizes are in ml for volumes, in square mm for slices, in pixels where an image has no spacing. Voxels are of one
    piece where they share a corner at least. What is removed becomes background; what is filled was background, and is
    given to the structure round it. Each structure is looked at within its own box.

    A region is made of all its numbers, and regions are cleaned in their order, the outer ones first. What is removed
    from one leaves the regions inside it too, and stays in those round it; what is filled was outside of it.

    Args:
        segmentation: of plain labels or of regions.
        options: `smallest`, `largest` and `fill` are used; they fit the labels (`check_cleaning`).
    """
    labels, array = segmentation.labels, segmentation.array
    least = {name: _volume(text) for text in options.smallest for name in _named(text.partition("=")[0], labels)}
    largest, fill = (_all_named(given, labels) for given in (options.largest, options.fill))
    if not least and not largest and not fill:
        return segmentation
    size = voxel_size(segmentation.grid)
    array = np.array(array)
    paint = dict(zip(labels.names, labels.paint or (), strict=False))
    wanted = {name: group for name, group in labels.names.items() if name in {*least, *largest, *fill}}
    boxes = [] if labels.has_regions else ndimage.find_objects(array)
    for name, group in wanted.items():
        box = _box(array, group) if labels.has_regions else next(iter(boxes[group[0] - 1 : group[0]]), None)
        if box is None:
            continue
        part = array[box]
        if name in least or name in largest:
            surplus = _surplus(np.isin(part, group), least.get(name, 0.0) / size, alone=name in largest)
            part[surplus] = _without(labels, name, array.dtype)[part[surplus]]
        if name in fill:
            inside = np.isin(part, group)
            holes = ndimage.binary_fill_holes(inside) & ~inside
            part[holes if labels.has_regions else holes & (part == 0)] = paint.get(name, group[0])
    return Segmentation(array, segmentation.grid, labels)


def voxel_size(grid: Grid) -> float:
    """Return the size of a voxel: in ml for volumes, in square mm for slices, 1 where the image has no spacing."""
    return abs(float(np.linalg.det(grid.affine[:-1, :-1]))) / (MILLILITRE if grid.dim == 3 and grid.unit == "mm" else 1)


def _box(array: NDArray[np.generic], group: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return the smallest box round all voxels of a region, as it is by now; None where there is none."""
    found = ndimage.find_objects(np.isin(array, group).view(np.uint8), 1)
    box: tuple[slice, ...] | None = found[0] if found else None
    return box


def _without(labels: Labels, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """Return what each number becomes where it leaves a structure: that of the last region that it is still in."""
    table = np.arange(max(labels.numbers) + 1).astype(kind)
    inner = set(labels.names[name])
    for number in inner:
        left = [
            paint
            for group, paint in zip(labels.names.values(), labels.paint or (), strict=False)
            if number in group and not set(group) <= inner
        ]
        table[number] = left[-1] if left else 0
    return table


def _surplus(inside: NDArray[np.bool_], least: float, *, alone: bool) -> NDArray[np.bool_]:
    """Return the voxels of pieces with fewer than `least` voxels; and of all but the largest, if it stands `alone`."""
    pieces, count = ndimage.label(inside, np.ones((3,) * inside.ndim))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= least
    if alone and count:
        keep &= np.arange(count + 1) == sizes.argmax()
    keep[0] = True
    surplus: NDArray[np.bool_] = ~keep[pieces]
    return surplus


def _volume(text: str) -> float:
    """Return the size of "liver=1.5".

    Raises:
        OptionError: it is not written like that.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise OptionError(f"--smallest {text} is no name with a volume", hint="write --smallest liver=1.5")
    return value


def _named(name: str, labels: Labels) -> tuple[str, ...]:
    return tuple(labels.names) if name == EVERY else (name,)


def _all_named(given: Sequence[str], labels: Labels) -> frozenset[str]:
    return frozenset(name for text in given for name in _named(text, labels))
