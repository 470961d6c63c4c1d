"""From scores to a report: summary, definitions, the cases worth a look, and the table as CSV."""

import csv
import io
from collections.abc import Sequence
from importlib.metadata import version

from mambino.core.options import EvaluateOptions
from mambino.core.provenance import versions
from mambino.core.records import fields_of
from mambino.core.report import Expected, Model, Report, Score
from mambino.evaluation.statistics import by_case, summarise

_FEW = 50  # cases below which an interval of the mean is only approximate

_SURFACES = {
    "voxel": "The surface of a mask is its voxels that touch, by a face, a voxel outside it; each counts the same "
    "(as in MONAI).",
    "surfel": "The surface of a mask passes between voxel centres; each piece counts by its area, or by its length in "
    "2D (as in DeepMind's surface-distance).",
}
_EXPECTED = (
    "What the model's own probabilities expected of a case before its truth was known; below, what nine in ten cases "
    "like those it was calibrated on reach. Do not trust: it expected more of nine in ten of those cases."
)
_OTHER = {"voxel": "surfel", "surfel": "voxel"}


def assemble(
    scores: tuple[Score, ...],
    labels: Sequence[str],
    options: EvaluateOptions,
    *,
    dataset: str = "",
    model: Model | None = None,
    expected: tuple[Expected, ...] = (),
) -> Report:
    """Sum up the scores of all cases."""
    units = sorted({score.unit for score in scores})
    unit = " or ".join(units)
    return Report(
        dataset=dataset,
        model=model,
        surface=options.surface,
        tolerance=options.tolerance,
        unit=unit,
        scores=scores,
        summary=summarise(scores, labels),
        notes=_notes(len({score.case for score in scores}), units),
        expected=expected,
        definitions=definitions(options, unit) | ({"Expected Dice": _EXPECTED} if expected else {}),
        versions={**versions(), "scipy": version("scipy")},
    )


def definitions(options: EvaluateOptions, unit: str) -> dict[str, str]:
    """Say in a sentence each what the numbers of a report are."""
    unit = plural(unit)
    return {
        "Dice": "2 TP / (2 TP + FP + FN), by voxels of one structure in one case. Means are over cases, not over "
        "the voxels of all cases pooled.",
        "IoU": "TP / (TP + FP + FN), by voxels: Dice / (2 - Dice).",
        "Sensitivity": "TP / (TP + FN): how much of the truth was found.",
        "Precision": "TP / (TP + FP): how much of the prediction is true.",
        "Specificity": "TN / (TN + FP): how much of the rest of the image was left alone; it grows with the image.",
        "Surface": f"{_SURFACES[options.surface]} The other published definition, {_OTHER[options.surface]}, differs "
        "from it by 10 to 20 % on distances: compare only like with like.",
        "HD95": f"95th percentile of the distances from each surface to the other ({unit}); the larger of both "
        "directions.",
        "NSD": f"Normalised surface distance: the share of both surfaces that lies within {options.tolerance:g} {unit} "
        "of the other.",
        "Empty masks": "Where prediction and truth both lack a structure it is not applicable: counted apart, and in "
        "no mean. Where one of them lacks it, Dice, IoU and NSD are 0 and HD95 is infinite; means of HD95 are over "
        "finite values, and a second figure puts the diagonal of the image in place of infinity.",
        "Missing predictions": "A case with a truth and no prediction is listed, and is in no mean.",
        "Interval": "95 % interval of the mean over cases, by Student's t.",
        "All labels": "The mean over the structures of a case, then over cases.",
    }


def plural(unit: str) -> str:
    """Return a unit of distance as it follows a number."""
    return unit.replace("pixel", "pixels")


def examples(report: Report) -> list[tuple[str, str]]:
    """Return the best, the median and the worst case by Dice, each with its rank; a case is shown once."""
    means = by_case(report.scores, "dice")
    order = sorted(means, key=lambda case: (-means[case], case)) or list(report.cases)
    ranks = ("best", "median", "worst") if len(order) > 2 else ("best", "worst") if len(order) > 1 else ("only",)
    places = (0, (len(order) - 1) // 2, -1) if len(order) > 2 else (0, -1)
    return [(rank, order[place]) for rank, place in zip(ranks, places, strict=False)]


def csv_text(report: Report) -> str:
    """Return one line a case and label; what is not applicable is empty, an infinite distance is "inf"."""
    names = list(fields_of(Score))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    for score in report.scores:
        values = {name: getattr(score, name) for name in names}
        if score.found in {"missed", "invented"}:
            values["hd95"] = "inf"
        table.writerow([_cell(values[name]) for name in names])
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _notes(cases: int, units: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if "pixel" in units:
        which = "Images here have" if len(units) == 1 else "Some images have"
        notes.append(f"{which} no spacing: their distances are in pixels, which cannot be compared between images.")
    if 1 < cases < _FEW:
        notes.append(f"Intervals are known to hold from about {_FEW} cases; with {cases} they are approximate.")
    return tuple(notes)
