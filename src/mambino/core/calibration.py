"""What was learnt on held-out cases of how far a network's probabilities can be believed."""

from mambino.core.records import record


@record
class Calibration:
    """How sure a network was of held-out cases, and how right.

    Attributes:
        cases: how many were held out.
        nll_before, nll_after: negative log likelihood a voxel with a temperature of 1 and with the one that was fitted.
        dice: mean over these cases, on the prepared grid.
        expected_dice: mean of what the probabilities expect of it, with the temperature.
        threshold: of the expected Dice, below which a case is not to be trusted: at most a tenth of these cases was;
            None of fewer than nine cases.
        margin: how much the Dice of nine in ten cases fell short of what was expected, at most; below 0 where it was
            more. None of fewer than nine cases.
    """

    cases: int
    nll_before: float
    nll_after: float
    dice: float
    expected_dice: float
    threshold: float | None = None
    margin: float | None = None
