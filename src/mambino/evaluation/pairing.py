"""Which prediction belongs to which truth, and both masks of a case on one grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.errors import DataError
from mambino.imageio import SUFFIXES, read_labels
from mambino.imageio.pairing import listing, partners, stem

Codes = dict[str, int] | None

# How far voxels of the same index may lie apart (voxels) before the masks show different places.
_APART = 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """The two masks of a case."""

    case: str
    prediction: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class Structures:
    """What is scored, and how it is stored.

    Attributes:
        labels: every structure of these, regions as regions; their ignore label leaves voxels out.
        truth_codes: stored values to label numbers; None where they are the same.
        prediction_codes: the same for predictions, to be tried in this order.
    """

    labels: Labels
    truth_codes: Codes = None
    prediction_codes: tuple[Codes, ...] = (None,)


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Two masks of one case on one grid.

    Attributes:
        prediction: [*s] label numbers.
        truth: [*s] label numbers.
        grid: of the truth.
    """

    prediction: NDArray[Any]
    truth: NDArray[Any]
    grid: Grid


def pair_up(predictions: Path, truth: Path) -> tuple[tuple[Pair, ...], tuple[str, ...], tuple[str, ...]]:
    """Pair the masks of two folders by name; formats may differ, and endings such as `_mask`.

    Returns:
        The pairs, the names without a prediction, and the names without a truth.

    Raises:
        DataError: a folder is missing or holds no mask, two masks have one name, or no name is in both folders.
    """
    made: dict[str, Path] = {}
    for path in _masks(predictions):
        other = made.setdefault(stem(path), path)
        if other is not path:
            raise DataError(f"{predictions} holds two masks of {stem(path)}: {other.name}, {path.name}", "remove one")
    true = _masks(truth)
    found, problems = partners(made, true)
    for problem in problems:
        if problem.kind == "duplicate":
            raise DataError(problem.message, problem.remedy)
    if not found:
        raise DataError(
            f"no case has a mask in both folders: {len(made)} predictions such as {next(iter(made))}, "
            f"{len(true)} truths such as {stem(true[0])}",
            hint="masks are paired by their names without the suffix; rename one side",
        )
    missing = tuple(sorted(problem.case for problem in problems))
    extra = tuple(case for case in made if case not in found)
    return tuple(Pair(case, made[case], found[case]) for case in sorted(found)), missing, extra


def read_pair(pair: Pair, structures: Structures) -> Masks:
    """Read both masks of a case.

    Raises:
        DataError: they differ in shape or lie apart, or hold a number that is not declared.
        FileFormatError: one cannot be read.
    """
    made = _read_first(pair.prediction, structures.labels, structures.prediction_codes)
    true = read_labels(pair.truth, structures.labels, structures.truth_codes)
    if made.array.shape != true.array.shape:
        raise DataError(
            f"case {pair.case}: the prediction has {made.array.shape} voxels, the truth {true.array.shape}",
            hint="compare masks on the grid of the image; predict writes them there",
        )
    if made.grid.unit == true.grid.unit == "mm" and not made.grid.close_to(true.grid, _APART):
        raise DataError(
            f"case {pair.case}: prediction and truth lie in different places: {_place(made.grid)} and "
            f"{_place(true.grid)}",
            hint="resample the prediction to the truth, or mend its header if the voxels do correspond",
        )
    return Masks(made.array, true.array, true.grid)


def _masks(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="name the folder that holds the masks")
    found = listing(folder)
    if not found:
        raise DataError(f"{folder} holds no masks", hint=f"masks end in one of {', '.join(SUFFIXES)}")
    return found


def _read_first(path: Path, labels: Labels, codes: Sequence[Codes]) -> Segmentation:
    for choice in codes[:-1]:
        try:
            return read_labels(path, labels, choice)
        except DataError:
            continue
    return read_labels(path, labels, codes[-1])


def _place(grid: Grid) -> str:
    spacing, origin = grid.spacing, grid.affine[:-1, -1]
    return f"{'x'.join(f'{n:.4g}' for n in spacing)} mm at ({', '.join(f'{n:.4g}' for n in np.round(origin, 3))})"
