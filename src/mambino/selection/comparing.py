"""Which of several contenders to use: Dice case by case, intervals of differences, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from mambino.core.best import Contender
from mambino.core.report import Statistic

Dice = Mapping[str, Mapping[str, float | None]]
"""Of each structure, by case; None where neither mask has it."""
Values = Mapping[str, Mapping[str, float]]
"""The same with a number for all that counts."""

ALIKE = 1.2
"""Costs that differ by no more than this factor are taken as equal: measured times vary by as much."""


def counted(scores: Mapping[str, Dice]) -> dict[str, dict[str, dict[str, float]]]:
    """Return numbers for the same cases and structures of every contender, by its name.

    A structure that the truth of a case lacks counts where any contender invents it: as 0 for whoever does, as 1 for
    whoever does not. Where none does, it counts for nobody.
    """
    pairs = sorted({
        (case, label)
        for dice in scores.values()
        for case, labels in dice.items()
        for label, value in labels.items()
        if value is not None
    })
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in scores}
    for name, dice in scores.items():
        for case, label in pairs:
            value = dice[case][label]
            found[name].setdefault(case, {})[label] = 1.0 if value is None else value
    return found


def case_means(values: Values) -> dict[str, float]:
    """Return the mean over the structures of each case."""
    return {case: float(np.mean([*labels.values()])) for case, labels in values.items()}


def of_label(values: Values, label: str) -> dict[str, float]:
    """Return the Dice of one structure by case."""
    return {case: labels[label] for case, labels in values.items() if label in labels}


def spread(values: Mapping[str, float], patients: Mapping[str, str]) -> Statistic:
    """Describe numbers, one a case, with the 95 % interval of their mean.

    Cases of one patient are not independent, so the interval is over patients (Student's t, with the variance of
    sums over clusters: Liang and Zeger, Biometrika 1986). With one case a patient it is the usual one.

    Args:
        values: by case.
        patients: of each case.
    """
    count = len(values)
    if not count:
        return Statistic(cases=0)
    numbers = np.asarray([*values.values()])
    mean, median = float(numbers.mean()), float(np.median(numbers))
    sums: dict[str, float] = {}
    for case, value in values.items():
        sums[patients[case]] = sums.get(patients[case], 0.0) + value - mean
    groups = len(sums)
    if groups < 2:
        return Statistic(cases=count, mean=mean, median=median)
    error = (groups / (groups - 1) * float(np.square([*sums.values()]).sum())) ** 0.5 / count
    half = float(stdtrit(groups - 1, 0.975)) * error
    std = float(numbers.std(ddof=1))
    return Statistic(cases=count, mean=mean, median=median, std=std, low=mean - half, high=mean + half)


def difference(first: Mapping[str, float], second: Mapping[str, float], patients: Mapping[str, str]) -> Statistic:
    """Describe by how much `first` is above `second`, case by case."""
    return spread({case: first[case] - second[case] for case in first}, patients)


def compare(
    scores: Mapping[str, Dice],
    configs: Mapping[str, tuple[str, ...]],
    seconds: Mapping[str, float],
    patients: Mapping[str, str],
) -> tuple[Contender, ...]:
    """Rank contenders by their Dice and choose one of them.

    Level are those that no other is better than by more than the 95 % interval of the paired difference; the highest
    is always among them. Of the level ones the cheapest is chosen, and the highest of those that cost about as much.

    Args:
        scores: of each contender, over the same cases.
        configs: that each is made of.
        seconds: that each takes for a case (s).
        patients: of each case.

    Returns:
        Contenders, the highest Dice first.
    """
    values = counted(scores)
    means = {name: case_means(found) for name, found in values.items()}
    order = sorted(scores, key=lambda name: (-_mean(means[name]), seconds[name], name))
    level = {name: not any(_beats(means[other], means[name], patients) for other in order) for name in order}
    cheapest = min(seconds[name] for name in order if level[name])
    chosen = next(name for name in order if level[name] and seconds[name] <= ALIKE * cheapest)
    labels = sorted({label for dice in scores.values() for found in dice.values() for label in found})
    return tuple(
        Contender(
            name=name,
            configs=configs[name],
            dice=_within(spread(means[name], patients)),
            labels={label: _within(spread(of_label(values[name], label), patients)) for label in labels},
            seconds=round(seconds[name], 3),
            behind=None if name == order[0] else difference(means[order[0]], means[name], patients),
            level=level[name],
            chosen=name == chosen,
        )
        for name in order
    )


def reason(contenders: Sequence[Contender]) -> str:
    """Say in a sentence why the chosen one is the one to use."""
    chosen, top = next(one for one in contenders if one.chosen), contenders[0]
    level = [one.name for one in contenders if one.level and not one.chosen]
    if len(contenders) == 1:
        return f"{chosen.name} is the only configuration that was trained."
    if chosen is not top and chosen.behind:
        return (
            f"{top.name} has the highest Dice, {_number(top.dice.mean)}, but {chosen.name} is behind by "
            f"{interval(chosen.behind)} only, which chance explains, and takes {chosen.seconds:.3g} s a case "
            f"instead of {top.seconds:.3g} s."
        )
    if level:
        return (
            f"{chosen.name} has the highest Dice, {_number(chosen.dice.mean)}; chance explains how far "
            f"{', '.join(level)} {'is' if len(level) == 1 else 'are'} behind, but none of these is much cheaper."
        )
    return f"{chosen.name} has the highest Dice, {_number(chosen.dice.mean)}, by more than chance explains."


def interval(found: Statistic) -> str:
    """Write a mean with its interval."""
    if found.low is None or found.high is None:
        return _number(found.mean)
    return f"{_number(found.mean)} ({found.low:.4f} to {found.high:.4f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean([*values.values()])) if values else 0.0


def _beats(first: Mapping[str, float], second: Mapping[str, float], patients: Mapping[str, str]) -> bool:
    """Tell whether the interval of the difference lies above 0; with one patient nothing is known, so it does not."""
    found = difference(first, second, patients)
    return found.low is not None and found.low > 0


def _within(found: Statistic) -> Statistic:
    """Cut the interval of a Dice to its range."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
