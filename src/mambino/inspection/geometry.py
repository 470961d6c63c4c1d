"""Findings about where voxels are: masks beside their images, odd spacings and sizes, orientation."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mambino.core.findings import Finding, Kind
from mambino.core.grid import Grid, orienting
from mambino.inspection.facts import CaseFacts

_SPACING_FACTOR = 2.0  # from the median: beyond it, resampling halves or doubles the resolution
_SIZE_FACTOR = 3.0  # from the median: beyond it, something was cropped or several things lie in one image
_SPREADS = 5.0  # times the usual deviation: a data set may vary widely by nature
_FEWEST = 4  # cases; a median of fewer says nothing
_SNAP = 0.5  # a mask shifted by less (voxels) names the same voxels as its image


def pairs(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find masks that do not lie on the voxels of their image, and channels that do not lie on one another."""
    for case in cases:
        yield from _channel_grids(case)
        yield from _mask_grid(case)


def dimensions(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find cases that are flat among volumes, or the other way round."""
    usual = usual_dim(cases)
    for case in cases:
        grid = image_grid(case)
        if grid and grid.dim != usual:
            yield Finding(
                severity="error",
                kind="mixed dimensions",
                case=case.case.id,
                message=f"the image has {grid.dim} axes, most others have {usual}",
                remedy=f"keep images with {usual} and with {grid.dim} axes in different data sets",
            )


def usual_dim(cases: Sequence[CaseFacts]) -> int:
    """Return the number of axes that most images have; 0 where none can be read."""
    dims = Counter(grid.dim for case in cases if (grid := image_grid(case)))
    return dims.most_common(1)[0][0] if dims else 0


def outliers(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find cases whose spacing or size is far from the median of the data set."""
    grids = {case.case.id: standing(grid) for case in cases if (grid := image_grid(case))}
    yield from _far(
        "spacing outlier",
        {name: grid.spacing for name, grid in grids.items() if grid.unit == "mm"},
        _SPACING_FACTOR,
        lambda values: f"a spacing of {_numbers(values)} mm",
        "look whether the header tells the truth; leave the case out if it does not",
    )
    yield from _far(
        "size outlier",
        {name: tuple(map(float, grid.shape)) for name, grid in grids.items()},
        _SIZE_FACTOR,
        lambda values: f"{' x '.join(f'{v:.0f}' for v in values)} voxels",
        "look at the image: is it cropped, or does it show something else?",
    )


def orientations(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Say so when images are stored in several orientations; networks see one all the same."""
    stored = Counter(grid.orientation for case in cases if (grid := image_grid(case)) and grid.dim == 3)
    if len(stored) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in stored.most_common())
        yield Finding(
            severity="note",
            kind="mixed orientation",
            case="",
            message=f"images are stored in {len(stored)} orientations: {listed}",
            remedy="nothing to do: every image is turned to one orientation, and its mask is turned back",
        )


def image_grid(case: CaseFacts) -> Grid | None:
    """Return the grid of the first channel that can be read."""
    return next((facts.grid for facts in case.images if facts.grid), None)


def standing(grid: Grid) -> Grid:
    """Return a grid with its axes in the order S, A, R, so that shapes of cases compare axis by axis."""
    return grid.transpose(orienting(grid, "RAS")[0]) if grid.dim == 3 else grid


def comparable(image: Grid, mask: Grid) -> bool:
    """Tell whether both grids say where they are, in the same unit and the same number of axes."""
    return image.dim == mask.dim and image.unit == mask.unit


def same_place(image: Grid, mask: Grid) -> bool:
    """Tell whether the voxels of a mask are those of its image, rounding in the headers aside."""
    if not comparable(image, mask):
        return image.shape == mask.shape
    return image.close_to(mask)


def nearly_same_place(image: Grid, mask: Grid) -> bool:
    """Tell whether each voxel of the mask lies nearest to the voxel of the image with its own index."""
    return comparable(image, mask) and image.close_to(mask, _SNAP)


def covered(image: Grid, mask: Grid) -> float:
    """Return the share of the image's box that lies inside the mask's; 0 where no world joins them."""
    if not comparable(image, mask) or image.unit == "pixel":
        return 0.0
    lattice = [np.linspace(0, n - 1, min(n, 33)) for n in image.shape]
    index = np.stack([axis.ravel() for axis in np.meshgrid(*lattice, indexing="ij")])
    found = between(image, mask) @ np.vstack([index, np.ones(index.shape[1])])
    inside = (found[:-1] > -0.5) & (found[:-1] < np.array(mask.shape)[:, None] - 0.5)
    return float(inside.all(axis=0).mean())


def between(image: Grid, mask: Grid) -> NDArray[np.float64]:
    """Return the matrix from a voxel index of the image to one of the mask."""
    return np.linalg.solve(mask.affine, image.affine).astype(np.float64)


def _mask_grid(case: CaseFacts) -> Iterator[Finding]:
    image, mask = image_grid(case), case.mask.grid if case.mask else None
    if not image or not mask or same_place(image, mask):
        return
    if image.shape != mask.shape:
        yield Finding(
            severity="error",
            kind="mask shape",
            case=case.case.id,
            message=f"the image has {image.shape} voxels, its mask {mask.shape}",
            remedy="export the mask on the voxels of its image; `--repair` resamples it where both cover one place",
        )
        return
    yield Finding(
        severity="error",
        kind="mask affine",
        case=case.case.id,
        message=f"image and mask have {image.shape} voxels in different places: {difference(image, mask)}",
        remedy="find out which header is right; `--repair` gives the mask the grid of its image where that is safe",
    )


def _channel_grids(case: CaseFacts) -> Iterator[Finding]:
    grids = [(facts.path.name, facts.grid) for facts in case.images if facts.grid]
    for name, grid in grids[1:]:
        first_name, first = grids[0]
        if same_place(first, grid):
            continue
        apart = difference(first, grid) if first.shape == grid.shape else f"{first.shape} and {grid.shape} voxels"
        yield Finding(
            severity="error",
            kind="channel grids",
            case=case.case.id,
            message=f"the channels {first_name} and {name} lie on different grids: {apart}",
            remedy="register the channels and resample them to one grid before training",
        )


def difference(one: Grid, other: Grid) -> str:
    """Say with both values how two grids of equal shape differ: by spacing, by direction, or by place."""
    if not np.allclose(one.spacing, other.spacing, rtol=1e-3):
        return f"spacing {_numbers(one.spacing)} and {_numbers(other.spacing)} {one.unit}"
    if one.orientation != other.orientation:
        return f"orientation {one.orientation} and {other.orientation}"
    if not np.allclose(one.affine[:-1, :-1], other.affine[:-1, :-1], atol=1e-3 * min(one.spacing)):
        cosine = np.sum(one.affine[:-1, :-1] * other.affine[:-1, :-1], axis=0) / np.square(one.spacing)
        return f"axes {math.degrees(math.acos(float(np.clip(cosine.min(), -1, 1)))):.2g} degrees apart"
    return f"first voxel at {_numbers(one.affine[:-1, -1])} and {_numbers(other.affine[:-1, -1])} {one.unit}"


def _far(
    kind: Kind,
    values: dict[str, tuple[float, ...]],
    factor: float,
    say: Callable[[Sequence[float]], str],
    remedy: str,
) -> Iterator[Finding]:
    """Find entries that differ from the median by more than `factor`, and by more than the data set varies."""
    sides = Counter(map(len, values.values()))
    if not sides or sides.total() < _FEWEST:
        return
    values = {name: entry for name, entry in values.items() if len(entry) == sides.most_common(1)[0][0]}
    logs: NDArray[np.float64] = np.log(np.array(list(values.values())))
    middle = np.asarray(np.median(logs, axis=0), dtype=np.float64)
    deviation = 1.4826 * np.median(np.abs(logs - middle), axis=0)
    limit = np.maximum(math.log(factor), _SPREADS * deviation)
    for (name, entry), log in zip(values.items(), logs, strict=True):
        if (np.abs(log - middle) > limit).any():
            yield Finding(
                severity="warning",
                kind=kind,
                case=name,
                message=f"the image has {say(entry)}, the median of the data set is {say(np.exp(middle).tolist())}",
                remedy=remedy,
            )


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
