"""How fast to learn at each moment, and how many steps fit into a time budget."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

WARM = 3
"""Steps that are not measured: the first ones allocate memory and choose kernels."""
MEASURED, LEARNT = 5, 0.05
"""Steps measured, and share of the budget used, before the length of a run with a time budget is settled."""
LATE = 0.05
"""A settled length is cut when the expected end is later than the budget by more than this share of it."""


def rate(
    progress: float,
    peak: float,
    kind: Literal["poly", "cosine"],
    warmup: float = 0.0,
    *,
    power: float = 0.9,
    floor: float = 0.0,
    halves: float = 1.0,
) -> float:
    """Return the learning rate when the share `progress` of a run is done.

    It rises linearly over the first `warmup` share. Then "poly" falls from `peak` to zero with an exponent, `power`;
    "cosine" swings between `peak` and `floor` in so many half waves, `halves`: with more than one it rises again.
    """
    if progress < warmup:
        return peak * progress / warmup
    done = min(1.0, (progress - warmup) / (1 - warmup))
    if kind == "poly":
        return float(peak * (1 - done) ** power)
    return floor + (peak - floor) * (1 + cos(pi * done * halves)) / 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take, as far as was measured.

    Attributes:
        step: of a training step (s); 0 before anything was measured.
        count: steps measured.
        validation: of one validation on whole cases (s).
    """

    step: float = 0.0
    count: int = 0
    validation: float = 0.0

    def after_step(self, seconds: float, here: int = WARM + 1) -> "Pace":
        """Take in the duration of one step: a plain mean at first, later of about the last 200.

        It is number `here` since the process began: the first ones of a run that goes on are slow again.
        """
        if here <= WARM <= self.count:
            return self
        count = self.count + 1
        if count <= WARM:
            return Pace(seconds, count, self.validation)
        weight = max(1 / (count - WARM), 0.005)
        return Pace(self.step + weight * (seconds - self.step), count, self.validation)

    def lost(self, seconds: float, here: int) -> float:
        """Return how much of the duration of step number `here` is due to the run being started again."""
        return max(0.0, seconds - self.step) if here <= WARM <= self.count else 0.0

    def after_validation(self, seconds: float) -> "Pace":
        """Take in the duration of one validation."""
        return Pace(self.step, self.count, seconds)


def settled(pace: Pace, used: float, budget: float, share: float = LEARNT) -> bool:
    """Tell whether enough was measured to say how many steps fit, or a tenth of the budget went into it.

    Enough are `MEASURED` steps, and as many as this `share` of the budget has room for.
    """
    measured = pace.count >= WARM + MEASURED and used >= share * budget
    return measured or (pace.count >= 1 and used > budget / 10)


def steps_that_fit(pace: Pace, step: int, used: float, budget: float, validations: int) -> int:
    """Return how many steps a run will have had when its budget (s) is used, the `step` done included."""
    left = budget - used - validations * pace.validation
    return step + max(0, round(left / max(pace.step, 1e-6)))


def keeps(pace: Pace, steps_left: int, used: float, budget: float, validations: int) -> bool:
    """Tell whether a run of `steps_left` more steps will end on time, or late by `LATE` of its budget at most.

    A settled number of steps stays, also where there would be time for more: a run that was interrupted does as
    many as one that was not.
    """
    return used + steps_left * pace.step + validations * pace.validation <= (1 + LATE) * budget
