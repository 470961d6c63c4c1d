"""What cleaning to use: each way tried on the held-out masks, structure by structure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mambino.core.best import Gain
from mambino.core.options import PredictOptions
from mambino.selection.comparing import Dice, case_means, counted, difference, of_label

SIZES = (0.01, 0.03, 0.1, 0.3)
"""Smallest pieces that are tried, as shares of the median size of a structure."""
LEAST = 1e-4
"""Dice that cleaning must gain: less is not seen in four decimals."""
EXACT = 1e-9
"""Differences below it are rounding."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to clean every structure.

    Attributes:
        smallest: of each structure, the size below which pieces are removed; empty where they are kept.
        largest: the largest piece alone is kept.
        fill: holes are filled.
    """

    smallest: Mapping[str, float]
    largest: bool = False
    fill: bool = False

    def options(self, labels: Sequence[str]) -> PredictOptions:
        """Return what predict is told to clean these structures in this way."""
        return PredictOptions(
            smallest=tuple(f"{label}={self.smallest[label]:g}" for label in labels if self.smallest.get(label)),
            largest=tuple(labels) * self.largest,
            fill=tuple(labels) * self.fill,
        )


NOTHING = Way({})


def ways(sizes: Mapping[str, Sequence[float]]) -> tuple[Way, ...]:
    """Return the ways to try: first none at all, the mildest next.

    Args:
        sizes: of each structure in the cases that have it, as their truth says.
    """
    typical = {label: float(np.median(found)) for label, found in sizes.items() if found}
    least = [{label: float(f"{share * size:.2g}") for label, size in typical.items()} for share in SIZES]
    removing = [NOTHING, *(Way(one) for one in least), Way({}, largest=True)]
    return tuple(replace(way, fill=fill) for way in removing for fill in (False, True))


def gains(
    scores: Sequence[Dice], tried: Sequence[Way], labels: Sequence[str], patients: Mapping[str, str]
) -> list[Gain]:
    """Return for each structure the way with the highest Dice, the mildest of equal ones, taken where it gains.

    Args:
        scores: Dice of each way.
        tried: the ways; the first is to do nothing.
        labels: the structures.
        patients: of each case.
    """
    values = counted({str(i): found for i, found in enumerate(scores)})
    return [
        _gain(label, [of_label(values[str(i)], label) for i in range(len(tried))], tried, patients) for label in labels
    ]


def chosen_options(found: Sequence[Gain]) -> PredictOptions:
    """Return what predict is told for the gains that are taken."""
    taken = [gain for gain in found if gain.taken]
    return PredictOptions(
        smallest=tuple(f"{gain.label}={gain.smallest:g}" for gain in taken if gain.smallest),
        largest=tuple(gain.label for gain in taken if gain.largest),
        fill=tuple(gain.label for gain in taken if gain.fill),
    )


def proposals(
    scores: Sequence[Dice], tried: Sequence[Way], labels: Sequence[str], patients: Mapping[str, str]
) -> Iterator[list[Gain]]:
    """Yield what to try together: the best way of each structure, then the best without filling, then none.

    Pieces that are removed leave background that another structure may be filled with, and regions share voxels, so
    what is best for each by itself may not be so together: whoever asks has to look.
    """
    yield gains(scores, tried, labels, patients)
    kept = [i for i, way in enumerate(tried) if not way.fill]
    without = gains([scores[i] for i in kept], [tried[i] for i in kept], labels, patients)
    yield without
    yield [replace(gain, taken=False) for gain in without]


def improves(before: Dice, after: Dice, labels: Sequence[str]) -> bool:
    """Tell whether the mean Dice of cases rises and that of no structure falls; also where nothing changes."""
    if before == after:
        return True
    values = counted({"before": before, "after": after})
    old, new = values["before"], values["after"]
    for label in labels:
        if _mean(of_label(new, label)) < _mean(of_label(old, label)) - EXACT:
            return False
    return _mean(case_means(new)) > _mean(case_means(old))


def _gain(label: str, dice: Sequence[Mapping[str, float]], tried: Sequence[Way], patients: Mapping[str, str]) -> Gain:
    means = [_mean(values) for values in dice]
    best = max(range(len(tried)), key=lambda i: (round(means[i], 6), -i))
    return Gain(
        label=label,
        smallest=tried[best].smallest.get(label, 0.0),
        largest=tried[best].largest,
        fill=tried[best].fill,
        before=means[0],
        after=means[best],
        difference=difference(dice[best], dice[0], patients),
        taken=means[best] - means[0] >= LEAST,
    )


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean([*values.values()])) if values else 0.0
