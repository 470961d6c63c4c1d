"""Rates end at zero, and a run with a time budget is not late."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.training.schedule import Pace, keeps, rate, settled, steps_that_fit


@pytest.mark.parametrize("kind", ["poly", "cosine"])
@given(warmup=st.floats(0, 0.5), progress=st.floats(0, 1))
def test_rates_lie_between_zero_and_the_peak(kind, warmup, progress):
    assert 0 <= rate(progress, 0.1, kind, warmup) <= 0.1 + 1e-12


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_rates_begin_at_the_peak_and_end_at_zero(kind):
    assert rate(0.0, 0.1, kind) == pytest.approx(0.1)
    assert rate(1.0, 0.1, kind) == pytest.approx(0)
    assert rate(0.1, 0.1, kind, warmup=0.2) == pytest.approx(0.05)
    assert rate(0.2, 0.1, kind, warmup=0.2) == pytest.approx(0.1)


def test_poly_has_the_exponent_of_nnunet():
    assert rate(0.5, 1.0, "poly") == pytest.approx(0.5**0.9)


@given(seed=st.integers(0, 200), step=st.floats(0.05, 2), drift=st.floats(0.6, 1.8), validation=st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_budget_becomes_a_number_of_steps_that_is_cut_when_steps_get_slower_and_never_grows(
    seed, step, drift, validation
):
    budget, noise, used, done, total, pace = 600.0, random.Random(seed), 0.0, 0, 0, Pace()
    totals = []
    while total == 0 or done < total:
        seconds = step * noise.uniform(0.8, 1.25) * (drift if done > 100 else 1)
        used, done, pace = used + seconds, done + 1, pace.after_step(seconds)
        left = 1 if done < (total or 1) else 0
        if total == 0 and settled(pace, used, budget):
            pace = pace.after_validation(validation)
            total = steps_that_fit(pace, done, used, budget, left)
        elif total and not keeps(pace, total - done, used, budget, left):
            total = steps_that_fit(pace, done, used, budget, left)
        totals += [total] if total else []
    assert used + validation <= budget * 1.06
    assert all(later <= earlier for earlier, later in pairwise(totals))
    if drift < 1.02 and step < 0.2:  # many steps tell their mean
        assert len(set(totals)) == 1
        assert used + validation >= budget * 0.94 * min(drift, 1)


def test_slow_first_steps_are_not_measured():
    pace = Pace()
    for seconds in (9.0, 5.0, 3.0, 1.0, 1.0):
        pace = pace.after_step(seconds)
    assert pace.step == 1.0
