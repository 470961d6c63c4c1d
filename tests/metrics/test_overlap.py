"""Overlap follows from one set of counts, and says "not applicable" where both masks are empty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import ShapeError
from mambino.metrics.overlap import Counts, counts, dice, iou, precision, sensitivity, specificity


def masks(seed: int, shape: tuple[int, ...] = (6, 7)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.random(shape) < random.random(), random.random(shape) < random.random()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_voxel_is_counted_once(seed):
    first, second = masks(seed)
    found = counts(first, second)
    assert found.tp + found.fp + found.fn + found.tn == first.size
    assert (found.predicted, found.true) == (first.sum(), second.sum())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_swapping_the_masks_swaps_sensitivity_and_precision(seed):
    first, second = masks(seed)
    there, back = counts(first, second), counts(second, first)
    assert (dice(there), iou(there)) == (dice(back), iou(back))
    assert sensitivity(there) == precision(back)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_dice_is_twice_iou_over_one_plus_iou(seed):
    found = counts(*masks(seed))
    if (share := iou(found)) is not None:
        assert dice(found) == pytest.approx(2 * share / (1 + share))


def test_a_small_case_by_hand():
    found = Counts(tp=3, fp=1, fn=2, tn=4)
    assert dice(found) == 6 / 9
    assert iou(found) == 3 / 6
    assert sensitivity(found) == 3 / 5
    assert precision(found) == 3 / 4
    assert specificity(found) == 4 / 5


def test_empty_masks_are_not_applicable_and_one_empty_mask_is_zero():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert dice(counts(empty, empty)) is None
    assert iou(counts(empty, empty)) is None
    assert dice(counts(empty, full)) == dice(counts(full, empty)) == 0
    assert sensitivity(counts(full, empty)) is None
    assert precision(counts(empty, full)) is None
    assert specificity(counts(full, full)) is None


def test_voxels_that_nobody_annotated_are_not_counted():
    first, second, valid = np.array([1, 1, 0, 0]) > 0, np.array([1, 0, 1, 0]) > 0, np.array([1, 1, 0, 0]) > 0
    assert counts(first, second, valid) == Counts(tp=1, fp=1, fn=0, tn=0)


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"two masks of one shape are compared, got \(2,\) and \(3,\)"):
        counts(np.zeros(2, bool), np.zeros(3, bool))
