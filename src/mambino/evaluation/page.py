"""The report as one self-contained page: no other file, no network."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from mambino.core.provenance import NOT_FOR_CLINICAL_USE
from mambino.core.records import from_json
from mambino.core.report import Report
from mambino.errors import FileFormatError
from mambino.evaluation.charts import Line, Row, curves, strips
from mambino.evaluation.overlay import Overlay, colours
from mambino.evaluation.report import plural
from mambino.evaluation.statistics import ALL

_NAMES = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95"}
_COLUMNS = (
    ("dice", "Dice"),
    ("nsd", "NSD"),
    ("hd95", "HD95"),
    ("iou", "IoU"),
    ("sensitivity", "Sensitivity"),
    ("precision", "Precision"),
)


def page(report: Report, overlays: Sequence[tuple[str, Overlay]], training: Sequence[Line]) -> str:
    """Return the page as HTML.

    Args:
        report: what it shows.
        overlays: pictures of cases, each with its rank ("best").
        training: loss and validation Dice over epochs, where they are known.
    """
    labels = [summary.label for summary in report.summary if summary.label != ALL]
    return _template().render(
        report=report,
        unit=plural(report.unit),
        distance_unit=_only({plural(score.unit) for score in report.scores}),
        size_unit=_only({score.size_unit for score in report.scores}),
        columns=_COLUMNS,
        charts=_charts(report, labels),
        overlays=overlays,
        colours=dict(zip(labels, colours(len(labels)), strict=True)),
        all_labels=ALL,
        expected={expected.case: expected for expected in report.expected},
        training=[curves([line], line.name) for line in training],
        unbounded={"hd95"},
        clinical=NOT_FOR_CLINICAL_USE,
    )


def read_curves(path: Path) -> tuple[Line, ...]:
    """Read loss and validation Dice from the log of a training run.

    Raises:
        FileFormatError: the file cannot be read, or a line of it is no record of an epoch.
    """
    loss: list[tuple[float, float]] = []
    dice: list[tuple[float, float]] = []
    number = 1
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            epoch = from_json(line)
            at = float(epoch.get("number", number))
            loss.append((at, float(epoch["loss"])))
            if epoch.get("dice") is not None:
                dice.append((at, float(epoch["dice"])))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileFormatError(f"{path} is no log of a training run: line {number} has no loss of an epoch") from None
    found = (
        (name, [p for p in points if isfinite(p[1])]) for name, points in (("loss", loss), ("validation Dice", dice))
    )
    return tuple(Line(name, tuple(points)) for name, points in found if points)


def _charts(report: Report, labels: Sequence[str]) -> list[str]:
    found = []
    for metric, name in _NAMES.items():
        rows = [
            Row(
                label,
                tuple((s.case, v) for s in report.scores if s.label == label and (v := getattr(s, metric)) is not None),
                next(summary.metrics[metric] for summary in report.summary if summary.label == label),
            )
            for label in labels
        ]
        title = f"{name} ({plural(report.unit)}), finite values" if metric == "hd95" else name
        title += f" within {report.tolerance:g} {plural(report.unit)}" if metric == "nsd" else ""
        found.append(strips(rows, title, highest=None if metric == "hd95" else 1.0))
    return found


@cache
def _template() -> Template:
    text = (files("mambino.evaluation") / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = _score
    environment.filters["distance"] = _distance
    environment.filters["size"] = _size
    return environment.from_string(text)


def _only(units: set[str]) -> str:
    """Return the unit for the head of a column, empty where rows differ."""
    return f" ({next(iter(units))})" if len(units) == 1 else ""


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _distance(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _size(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:#.3g}"
