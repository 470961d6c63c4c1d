"""Overlap of two masks: Dice, IoU, sensitivity, precision, specificity, all from one set of counts.

Where neither mask has a voxel there is nothing to score: the result is None, "not applicable", and the
caller counts such cases apart. Where only one mask is empty, Dice and IoU are 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambino.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Counts:
    """Voxels by what the prediction and the truth say of them.

    Attributes:
        tp: in both.
        fp: in the prediction only.
        fn: in the truth only.
        tn: in neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def true(self) -> int:
        """Voxels of the truth."""
        return self.tp + self.fn


def counts(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None) -> Counts:
    """Count the voxels of two masks [*s].

    Args:
        prediction: mask to judge.
        truth: mask to judge it by.
        valid: voxels to count; all if None. Voxels that nobody annotated are left out with it.

    Raises:
        ShapeError: the masks differ in shape.
    """
    check_same_shape(prediction, truth)
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    total = prediction.size if valid is None else int(np.count_nonzero(valid))
    both = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return Counts(both, predicted - both, true - both, total - predicted - true + both)


def check_same_shape(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Refuse two masks that cannot be laid over one another."""
    if prediction.shape != truth.shape:
        raise ShapeError(f"two masks of one shape are compared, got {prediction.shape} and {truth.shape}")


def dice(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN): twice the shared voxels, as a share of both masks; None where both are empty."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Counts) -> float | None:
    """TP / (TP + FP + FN): shared voxels as a share of the union; None where both masks are empty."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def sensitivity(counts: Counts) -> float | None:
    """TP / (TP + FN): how much of the truth was found; None where the truth is empty."""
    return _ratio(counts.tp, counts.true)


def precision(counts: Counts) -> float | None:
    """TP / (TP + FP): how much of the prediction is true; None where the prediction is empty."""
    return _ratio(counts.tp, counts.predicted)


def specificity(counts: Counts) -> float | None:
    """TN / (TN + FP): how much of what is not the structure was left alone; None where the truth fills the image."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
