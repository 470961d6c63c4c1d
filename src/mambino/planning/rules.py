"""Rules on space: orientation, spacing, sizes and slices, one a function.

Each rule returns what it chose with its reason. The spacing rules are those of nnU-Net (Isensee et al.,
Nature Methods 18, 2021); docs/planning.md says where and why this package differs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mambino.core.fingerprint import Fingerprint
from mambino.planning.topology import topology

T = TypeVar("T")

ANISOTROPY = 3.0  # an axis is coarse when its spacing exceeds the others' by more than this
LEAST_VIEWS = 200  # of each image in the time given, below which a 2D data set is seen coarser
CORE_SECONDS = 2.5e-6  # of a width-16 U-Net, for a step on one pixel on one core; only its order matters
COARSE_VOXELS = {2: 256 * 256, 3: 128 * 128 * 128}  # of a median case, where time is short


@dataclass(frozen=True, slots=True)
class Chosen(Generic[T]):
    """A value and why it is what it is."""

    value: T
    why: str


def recorded_orientation(fingerprint: Fingerprint) -> Chosen[str | None]:
    """Turn volumes that know their place in the world to one orientation."""
    stored = sorted({case.orientation for case in fingerprint.cases} - {""})
    if fingerprint.orientation is None:
        return Chosen(None, "pictures without a place in the world are seen as they are stored")
    return Chosen(
        fingerprint.orientation,
        f"stored as {', '.join(stored)}; all are turned to one, so that the same anatomy gives the same mask",
    )


def target_spacing(fingerprint: Fingerprint) -> Chosen[tuple[float, ...]]:
    """Take the median; for one coarse axis with few voxels, the finest tenth of the cases along that axis.

    With the median of a coarse axis, half of the cases would gain slices that nobody measured, and the other
    half would lose some of the few they have.
    """
    spacings = np.array([case.spacing for case in fingerprint.cases])
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile(np.array([case.cropped for case in fingerprint.cases]), 50, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(target.size) if axis != worst]
    coarse = target[worst] > ANISOTROPY * target[others].max()
    if not (coarse and size[worst] * ANISOTROPY < size[others].min()):
        return Chosen(tuple(target.tolist()), f"median of {len(spacings)} cases")
    fine = float(np.percentile(spacings[:, worst], 10))
    floor = float(target[others].max())
    target[worst] = fine if fine >= floor else floor + 1e-5
    why = (
        f"median of {len(spacings)} cases; axis {worst} is more than {ANISOTROPY:g} times as coarse as the others and "
        f"has few voxels, so it takes the finest tenth of its spacings"
    )
    return Chosen(tuple(target.tolist()), why)


def median_shape(fingerprint: Fingerprint, spacing: Sequence[float]) -> tuple[float, ...]:
    """Return the median over all cases of their size on a grid of `spacing`, after cropping (voxels, may be half)."""
    shapes = [
        [round(old / new * n) for old, new, n in zip(case.spacing, spacing, case.cropped, strict=True)]
        for case in fingerprint.cases
    ]
    return tuple(np.median(np.array(shapes), axis=0).tolist())


def slice_axis(spacing: Sequence[float], shape: Sequence[float]) -> Chosen[int]:
    """Slice volumes along the axis with the largest spacing; along one that has a single voxel, if there is one."""
    flat = [axis for axis, size in enumerate(shape) if size <= 1]
    if flat:
        return Chosen(flat[0], "the volumes are one voxel thick along it")
    coarsest = int(np.argmax(spacing))
    return Chosen(coarsest, f"the coarsest axis ({spacing[coarsest]:g}): slices across it show most")


def dimensions(fingerprint: Fingerprint, shape: Sequence[float]) -> Chosen[tuple[int, ...]]:
    """Say which dimensions of network fit, the default first."""
    if len(fingerprint.cases[0].shape) == 2:
        return Chosen((2,), "the images have two axes")
    if min(shape) <= 1:
        return Chosen((2,), "the volumes are one voxel thick")
    return Chosen((3, 2), "the images are volumes: neighbouring slices tell of one another")


def affordable_spacing(
    spacing: Sequence[float], shape: Sequence[float], cases: int, core_seconds: float | None
) -> Chosen[tuple[float, ...]]:
    """Coarsen the grid when training is so short that images could be seen but a few times.

    Args:
        spacing: that a long training would use.
        shape: of a median case at that spacing (voxels).
        cases: of training.
        core_seconds: seconds of training times cores; None: no limit.

    Returns:
        The spacing whose finest axes are raised to one value, such that a patch of at most `COARSE_VOXELS` holds
        a median case; unchanged if cases are small already or there is time for `LEAST_VIEWS` of each.
    """
    spacing, voxels, most = tuple(spacing), math.prod(shape), COARSE_VOXELS[len(spacing)]
    if core_seconds is None or voxels <= 1.2 * most:
        return Chosen(spacing, "")
    views = core_seconds / (CORE_SECONDS * 3 ** (len(spacing) - 2) * voxels * cases)
    if views >= LEAST_VIEWS:
        return Chosen(spacing, "")
    coarse = _coarsened(np.array(spacing), np.array(shape), most)
    why = (
        f"in the time given the network could see each of {cases} cases about {views:.0f} times at full size, too few "
        f"to learn from; on the coarser grid it sees them {np.prod(coarse / spacing):.1f} times as often"
    )
    return Chosen(tuple(round(float(s), 4) for s in coarse), why)


def _coarsened(spacing: NDArray[np.float64], shape: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Raise the finest spacings to one value until the patch that holds a median case has at most `most` voxels."""
    floor, extent = float(spacing.min()), spacing * shape
    while True:
        floor *= 1.01
        coarse = np.maximum(spacing, floor)
        if topology(coarse.tolist(), (extent / coarse).tolist()).voxels <= most:
            return coarse
