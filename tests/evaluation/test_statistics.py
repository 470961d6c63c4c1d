"""Means, medians and intervals are those of a textbook, and a case counts once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mambino.core.report import Score
from mambino.evaluation.statistics import ALL, by_case, statistic, summarise


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_lies_round_the_mean_and_within_the_range(values):
    found = statistic(values, highest=1.0)
    assert found.cases == len(values)
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
    if len(values) > 1:
        assert 0 <= found.low <= found.mean + 1e-12
        assert found.mean - 1e-12 <= found.high <= 1


def test_the_interval_is_students():
    values = [0.5, 0.6, 0.62, 0.7, 0.71]
    found = statistic(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.median, found.std) == pytest.approx((0.626, 0.62, np.std(values, ddof=1)))


def test_no_case_and_one_case_have_no_interval():
    assert statistic([]).mean is None
    assert (statistic([0.5]).mean, statistic([0.5]).low) == (0.5, None)


def test_a_case_counts_once_whatever_its_number_of_structures():
    scores = [
        Score(case="a", label="x", found="both", dice=1.0),
        Score(case="a", label="y", found="both", dice=0.0),
        Score(case="b", label="x", found="both", dice=1.0),
        Score(case="b", label="y", found="neither"),
    ]
    assert by_case(scores, "dice") == {"a": 0.5, "b": 1.0}
    x, y, together = summarise(scores, ["x", "y"])
    assert (x.dice, y.dice, y.not_applicable) == (1.0, 0.0, 1)
    assert (together.label, together.cases, together.dice, together.dice_median) == (ALL, 2, 0.75, 0.75)


def test_one_label_is_its_own_summary():
    assert [row.label for row in summarise([Score(case="a", label="x", found="both", dice=1.0)], ["x"])] == ["x"]
