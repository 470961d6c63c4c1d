"""Where the body is in a volume, so that windows need not be laid over the air and the table round it."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambino.core.image import Image
from mambino.core.plan import Config, Normalise
from mambino.core.scratch import SLAB
from mambino.errors import OptionError

Crop = Literal["none", "body"]
Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First voxel, and voxels along each axis."""

STEP = 4.0
"""Distance of the voxels that are looked at (mm)."""
THIN = 16.0
"""What is thinner is no part of the body: a table, its cover, tubes (mm)."""
MARGIN = 20.0
"""Added to the box on each side, more than the thin ends of a body that are lost with the table (mm)."""
PIECE = 0.1
"""Of the volume of the largest piece: smaller ones are no part of the body. Two legs are two pieces."""
AIR = -300.0
"""Between air and tissue in CT (HU)."""
BRIGHT = 95.0
"""Percentile of the voxels above which all count as equally bright, so that vessels and hot spots say nothing."""
BINS = 256


def check_crop(crop: Crop, config: Config) -> None:
    """Refuse to look for a body in pictures, where anything may be the background.

    Raises:
        OptionError: the images of the configuration have two axes.
    """
    if crop == "body" and config.dim == 2 and config.slice_axis is None:
        raise OptionError("--crop body is for volumes, the bundle takes pictures", hint="leave --crop out")


def body_box(image: Image, scales: Sequence[Normalise]) -> Box:
    """Find the box round the body in a volume, with a margin.

    The whole image where no body is found, or where no spacing says how large things are.

    Looks at some voxels only, about `STEP` apart and no more than `SLAB` of them. Tissue is what is above `AIR` in CT
    and above half of Otsu's threshold in other channels, in any channel. What is thin is removed; of what is left, all
    large pieces are the body.

    Args:
        image: [c, z, y, x], with finite voxels.
        scales: how each channel is normalised, which tells CT from the rest.
    """
    shape, spacing = image.grid.shape, image.grid.spacing
    if image.grid.unit == "pixel":
        return (0,) * len(shape), shape
    steps = _steps(shape, spacing)
    apart = tuple(step * size for step, size in zip(steps, spacing, strict=True))
    strided = tuple(slice(None, None, step) for step in steps)
    tissue = np.zeros(tuple(-(-n // step) for n, step in zip(shape, steps, strict=True)), bool)
    for channel, how in zip(image.array, scales, strict=True):
        voxels = channel[strided].astype(np.float32)
        tissue |= voxels > (AIR if how.scheme == "ct" else _threshold(voxels))
    body = _large(_thick(tissue, apart))
    if not body.any():
        return (0,) * len(shape), shape
    start, end = [], []
    for axis, (n, step, size) in enumerate(zip(shape, steps, spacing, strict=True)):
        found = np.flatnonzero(body.any(tuple(other for other in range(body.ndim) if other != axis)))
        # Between two voxels that are looked at the body may go on.
        around = step - 1 + round(MARGIN / size)
        start.append(max(0, int(found[0]) * step - around))
        end.append(min(n, int(found[-1]) * step + 1 + around))
    return tuple(start), tuple(high - low for low, high in zip(start, end, strict=True))


def _steps(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Return after how many voxels along each axis the next one is looked at."""
    distance = STEP
    while True:
        steps = tuple(max(1, min(n, int(distance / size))) for n, size in zip(shape, spacing, strict=True))
        if prod(-(-n // step) for n, step in zip(shape, steps, strict=True)) <= SLAB:
            return steps
        distance *= 1.25


def _threshold(voxels: NDArray[np.float32]) -> float:
    """Return half of Otsu's threshold above the darkest voxels; infinite where all voxels are equal.

    Half, since tissue has many shades and its darkest must not be taken for air.
    """
    low, high = (float(value) for value in np.percentile(voxels, (1, BRIGHT)))
    if high <= low:
        return np.inf
    counts, edges = np.histogram(np.clip(voxels, low, high), BINS, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * middles)[:-1]
    total, above = float((counts * middles).sum()), counts.sum() - below
    between = below * above * np.square(sums / np.maximum(below, 1) - (total - sums) / np.maximum(above, 1))
    return (float(edges[1:-1][between.argmax()]) - low) / 2 + low


def _thick(tissue: NDArray[np.bool_], apart: tuple[float, ...]) -> NDArray[np.bool_]:
    """Remove what is thinner than `THIN`; beyond the image everything goes on."""
    reach = [int(THIN / 2 / size) for size in apart]
    places = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1)
    ball = np.square(places * apart).sum(-1) <= (THIN / 2) ** 2
    kept: NDArray[np.bool_] = ndimage.binary_dilation(ndimage.binary_erosion(tissue, ball, border_value=1), ball)
    return kept & tissue


def _large(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest connected piece, and those that are not much smaller."""
    numbers, count = ndimage.label(body)
    if not count:
        return body
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= PIECE * sizes.max())[numbers] & body
    return large
