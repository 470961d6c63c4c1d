"""From one number a case to mean, median and interval."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from mambino.core.report import Score, Statistic, Summary

METRICS = ("dice", "iou", "sensitivity", "precision", "specificity", "hd95", "hd95_diagonal", "nsd")
ALL = "all labels"

_DISTANCES = ("hd95", "hd95_diagonal")


def summarise(scores: Sequence[Score], labels: Sequence[str]) -> tuple[Summary, ...]:
    """Sum up each label, and all labels together where there are several.

    "All labels" first takes the mean over the labels of a case, then over cases: a case counts once, whatever
    its number of structures.
    """
    found = [_label(label, [score for score in scores if score.label == label]) for label in labels]
    return (*found, _together(scores)) if len(labels) > 1 else tuple(found)


def statistic(values: Sequence[float], *, highest: float = np.inf) -> Statistic:
    """Describe numbers between 0 and `highest`, one a case.

    The interval is Student's t of the mean, cut to the range: known to hold from about 50 cases, and wide
    rather than narrow below (the bootstrap of so few is too narrow).
    """
    count = len(values)
    if not count:
        return Statistic(cases=0)
    mean, median = float(np.mean(values)), float(np.median(values))
    if count < 2:
        return Statistic(cases=count, mean=mean, median=median)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * std / count**0.5
    low, high = max(0.0, mean - half), min(highest, mean + half)
    return Statistic(cases=count, mean=mean, median=median, std=std, low=low, high=high)


def by_case(scores: Sequence[Score], metric: str) -> dict[str, float]:
    """Return the mean of a metric over the labels of each case that have it."""
    values: dict[str, list[float]] = {}
    for score in scores:
        value = getattr(score, metric)
        if value is not None:
            values.setdefault(score.case, []).append(value)
    return {case: float(np.mean(found)) for case, found in values.items()}


def _label(label: str, scores: Sequence[Score]) -> Summary:
    columns = {metric: [v for s in scores if (v := getattr(s, metric)) is not None] for metric in METRICS}
    return _summary(label, len(scores), scores, columns)


def _together(scores: Sequence[Score]) -> Summary:
    columns = {metric: list(by_case(scores, metric).values()) for metric in METRICS}
    return _summary(ALL, len({score.case for score in scores}), scores, columns)


def _summary(label: str, cases: int, scores: Sequence[Score], columns: dict[str, list[float]]) -> Summary:
    return Summary(
        label=label,
        cases=cases,
        not_applicable=sum(score.found == "neither" for score in scores),
        missed=sum(score.found == "missed" for score in scores),
        invented=sum(score.found == "invented" for score in scores),
        metrics={
            metric: statistic(values, highest=np.inf if metric in _DISTANCES else 1.0)
            for metric, values in columns.items()
        },
    )
