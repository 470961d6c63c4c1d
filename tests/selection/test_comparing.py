"""Nothing beats what is chosen by more than chance explains; of equals the cheaper is taken, case by case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.evaluation.statistics import statistic
from mambino.selection.comparing import case_means, compare, counted, difference, of_label, reason, spread

NAMES = ("a", "b", "a+b")
CONFIGS = {"a": ("a",), "b": ("b",), "a+b": ("a", "b")}


def scores(columns):
    """Return Dice of one structure by contender and case."""
    return {name: {f"c{i}": {"liver": value} for i, value in enumerate(column)} for name, column in columns.items()}


def alone(count):
    return {f"c{i}": f"c{i}" for i in range(count)}


def ranked(columns, seconds=None):
    found = scores(columns)
    count = len(next(iter(columns.values())))
    return compare(found, {n: CONFIGS[n] for n in found}, seconds or dict.fromkeys(found, 1.0), alone(count))


def chosen(contenders):
    [one] = [one for one in contenders if one.chosen]
    return one


@given(seed=st.integers(0, 10_000), count=st.integers(1, 30), noise=st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_no_contender_beats_the_chosen_one_by_more_than_chance_explains(seed, count, noise):
    random = np.random.default_rng(seed)
    base = random.uniform(0.3, 0.9, count)
    columns = {n: np.clip(base + random.normal(random.normal(0, 0.05), noise, count), 0, 1).tolist() for n in NAMES}
    seconds = dict(zip(NAMES, random.uniform(0.1, 9, 3).tolist(), strict=True))
    one = chosen(ranked(columns, seconds))
    for name in NAMES:
        found = spread(
            {f"c{i}": x - y for i, (x, y) in enumerate(zip(columns[name], columns[one.name], strict=True))},
            alone(count),
        )
        assert found.low is None or found.low <= 0
        if seconds[name] * 1.2 < seconds[one.name]:  # what is cheaper is not taken, so something beats it
            assert not next(c for c in ranked(columns, seconds) if c.name == name).level


def test_the_better_one_is_chosen_whatever_it_costs():
    found = ranked({"a": [0.5, 0.6, 0.7, 0.65], "b": [0.7, 0.8, 0.9, 0.85]}, {"a": 1.0, "b": 50.0})
    assert [one.name for one in found] == ["b", "a"]
    assert (chosen(found).name, found[1].level) == ("b", False)
    assert found[1].behind.mean == pytest.approx(0.2)
    assert reason(found) == "b has the highest Dice, 0.8125, by more than chance explains."


def test_of_two_that_chance_explains_the_cheaper_is_chosen_and_the_reason_says_so():
    columns = {"a": [0.80, 0.70, 0.60, 0.71], "a+b": [0.81, 0.69, 0.62, 0.71]}
    found = ranked(columns, {"a": 1.0, "a+b": 3.0})
    assert (found[0].name, chosen(found).name) == ("a+b", "a")
    assert all(one.level for one in found)
    assert "a+b has the highest Dice, 0.7075, but a is behind by 0.0050 (-0.0" in reason(found)
    assert "which chance explains, and takes 1 s a case instead of 3 s." in reason(found)


def test_of_two_that_cost_about_as_much_the_higher_is_chosen():
    columns = {"a": [0.80, 0.70, 0.60, 0.71], "b": [0.81, 0.69, 0.62, 0.71]}
    found = ranked(columns, {"a": 1.0, "b": 1.1})
    assert chosen(found).name == "b"
    assert "how far a is behind, but none of these is much cheaper." in reason(found)


def test_one_alone_is_chosen():
    found = ranked({"a": [0.5, 0.6]})
    assert (chosen(found).name, found[0].behind) == ("a", None)
    assert reason(found) == "a is the only configuration that was trained."


def test_with_one_case_nothing_is_said_of_chance():
    found = ranked({"a": [0.5], "b": [0.9]}, {"a": 1.0, "b": 2.0})
    assert all(one.level for one in found)
    assert found[1].behind.low is None


def test_what_one_contender_invents_counts_for_all():
    found = counted({"a": {"c": {"x": None, "y": 0.5}}, "b": {"c": {"x": 0.0, "y": 0.7}}})
    assert found == {"a": {"c": {"x": 1.0, "y": 0.5}}, "b": {"c": {"x": 0.0, "y": 0.7}}}
    assert case_means(found["a"]) == {"c": 0.75}


def test_what_nobody_finds_where_nothing_is_counts_for_nobody():
    found = counted({"a": {"c": {"x": None, "y": 0.5}, "d": {"x": None, "y": None}}})
    assert found == {"a": {"c": {"y": 0.5}}}
    assert of_label(found["a"], "x") == {}


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_with_one_case_a_patient_the_interval_is_that_of_evaluate(values):
    found, usual = spread({f"c{i}": v for i, v in enumerate(values)}, alone(len(values))), statistic(values)
    assert max(0, found.low) == pytest.approx(usual.low, abs=1e-9)
    assert found.high == pytest.approx(usual.high, abs=1e-9)
    assert (found.cases, found.mean, found.std) == (usual.cases, usual.mean, usual.std)


def test_copies_of_a_patients_case_tell_no_more_than_the_case():
    single = {f"c{i}": v for i, v in enumerate((0.2, 0.5, 0.9, 0.4))}
    copied = {f"{case}-{i}": value for case, value in single.items() for i in range(5)}
    found = spread(copied, {name: name.partition("-")[0] for name in copied})
    once = spread(single, alone(4))
    assert (found.mean, found.low, found.high) == pytest.approx((once.mean, once.low, once.high))


def test_a_difference_is_taken_case_by_case():
    first, second = {"c0": 0.5, "c1": 0.9}, {"c0": 0.4, "c1": 0.8}
    found = difference(first, second, alone(2))
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0, abs=1e-9)
    assert spread({}, {}).cases == 0
