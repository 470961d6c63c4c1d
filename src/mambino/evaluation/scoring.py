"""All numbers of one case. What a worker process imports: keep it small."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.options import EvaluateOptions
from mambino.core.report import Found, Score
from mambino.evaluation.pairing import Masks, Pair, Structures, read_pair
from mambino.metrics import overlap
from mambino.metrics.surface import percentile_distance, share_within, surface_distances

Mask = NDArray[np.bool_]


def score_pair(pair: Pair, structures: Structures, options: EvaluateOptions) -> tuple[Score, ...]:
    """Read both masks of a case and score each structure."""
    masks = read_pair(pair, structures)
    labels = structures.labels
    return tuple(
        score(pair.case, name, masks, numbers, labels.ignore, options) for name, numbers in labels.names.items()
    )


def select(masks: Masks, numbers: tuple[int, ...], ignore: int | None) -> tuple[Mask, Mask, Mask | None]:
    """Return where the prediction and the truth have a structure, and which voxels count (None: all)."""
    made, true = _where(masks.prediction, numbers), _where(masks.truth, numbers)
    if ignore is None:
        return made, true, None
    valid = masks.truth != ignore
    return made & valid, true & valid, valid


def score(
    case: str, label: str, masks: Masks, numbers: tuple[int, ...], ignore: int | None, options: EvaluateOptions
) -> Score:
    """Score one structure of one case."""
    grid = masks.grid
    made, true, valid = select(masks, numbers, ignore)
    counts = overlap.counts(made, true, valid)
    size, size_unit = _voxel(grid)
    distances = surface_distances(made, true, grid.spacing, definition=options.surface)
    hd95 = None if distances is None else percentile_distance(distances, 95)
    diagonal = float(np.linalg.norm(np.multiply(grid.shape, grid.spacing)))
    return Score(
        case=case,
        label=label,
        found=_found(counts),
        dice=overlap.dice(counts),
        iou=overlap.iou(counts),
        sensitivity=overlap.sensitivity(counts),
        precision=overlap.precision(counts),
        specificity=None if distances is None else overlap.specificity(counts),
        hd95=hd95 if hd95 is not None and np.isfinite(hd95) else None,
        hd95_diagonal=None if hd95 is None else min(hd95, diagonal),
        nsd=None if distances is None else share_within(distances, options.tolerance),
        truth_size=counts.true * size,
        predicted_size=counts.predicted * size,
        unit=grid.unit,
        size_unit=size_unit,
    )


def _where(array: NDArray[np.integer], numbers: tuple[int, ...]) -> Mask:
    return array == numbers[0] if len(numbers) == 1 else np.isin(array, numbers)


def _found(counts: overlap.Counts) -> Found:
    if counts.true:
        return "both" if counts.predicted else "missed"
    return "invented" if counts.predicted else "neither"


def _voxel(grid: Grid) -> tuple[float, Literal["ml", "mm²", "pixels"]]:
    """Return the size of a voxel and its unit."""
    if grid.unit == "pixel":
        return 1.0, "pixels"
    size = float(np.prod(grid.spacing))
    return (size / 1000, "ml") if grid.dim == 3 else (size, "mm²")
