"""Masks are read as what they mean, and never as what they might mean."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.dataset import Case, Dataset
from mambino.core.labels import Labels
from mambino.inspection.facts import CaseFacts, Code, FileFacts, count_codes
from mambino.inspection.values import Reading, meaning, occurrences, reading


def facts(codes: dict[Code, int], dtype: str = "uint8") -> CaseFacts:
    mask = FileFacts(Path("a.png"), channels=1, dtype=dtype, codes=codes)
    return CaseFacts(Case(id="a", images=()), (), mask, training=True)


def dataset(count: int, codes: dict[str, int] | None = None) -> Dataset:
    labels = Labels(names={f"label {n}": (n,) for n in range(1, count + 1)})
    return Dataset(name="set", folder=Path(), channels=("c",), labels=labels, training=(), codes=codes)


def read(
    codes: dict[Code, int],
    count: int = 1,
    others: tuple[dict[Code, int], ...] = (),
    stored: dict[str, int] | None = None,
) -> Reading:
    """Read a mask of a data set with `count` labels, and `others` beside it."""
    cases = [facts(found) for found in (codes, *others)]
    return reading(cases[0].mask, meaning(dataset(count, stored), cases))


@given(count=st.integers(1, 40), data=st.data())
def test_declared_numbers_are_read_as_themselves(count, data):
    found = data.draw(st.sets(st.integers(0, count), min_size=1))
    answer = read({(float(n),): 1 for n in found}, count)
    assert answer.kind is None
    assert all(answer.numbers[(float(n),)] == n for n in found)


@given(count=st.integers(1, 40))
def test_numbers_spread_from_black_to_white_are_read_back(count):
    codes = {(float(round(255 * n / count)),): 1 for n in range(count + 1)}
    answer = read(codes, count)
    assert answer.kind in {"0/255 mask", None}
    assert [answer.numbers[code] for code in codes] == list(range(count + 1))


def test_white_alone_does_not_say_which_of_two_labels_is_meant():
    assert read({(0.0,): 5, (255.0,): 5}, 2).numbers is None
    assert read({(0.0,): 5, (255.0,): 5}, 2, others=({(128.0,): 1},)).numbers[(255.0,)] == 2


def test_fewer_or_more_colours_than_labels_are_not_guessed():
    red, blue = (255.0, 0.0, 0.0), (0.0, 0.0, 255.0)
    assert read({red: 3, (0.0, 0.0, 0.0): 3}, 2).numbers is None
    assert read({red: 3, blue: 3}, 1).numbers is None
    assert read({red: 3}, 2, others=({blue: 3},)).numbers[red] == 2


def test_a_data_set_that_translates_its_codes_takes_no_others():
    assert read({(0.0,): 1, (255.0,): 1}, stored={"255": 1}).kind is None
    assert read({(0.0,): 1, (1.0,): 1}, stored={"255": 1}).kind == "undeclared label"
    assert "255 label 1" in read({(0.0,): 1, (1.0,): 1}, stored={"255": 1}).message


def test_noise_round_declared_colours_goes_to_the_nearest():
    red = (255.0, 0.0, 0.0)
    noisy = {(0.0, 0.0, 0.0): 900, red: 900, (250.0, 4.0, 3.0): 20, (5.0, 0.0, 0.0): 20, (100.0, 3.0, 3.0): 2}
    answer = read(noisy, stored={"0,0,0": 0, "255,0,0": 1})
    assert (answer.kind, [answer.numbers[code] for code in noisy]) == ("noisy mask", [0, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ({(0.0,): 50, (254.0,): 20, (255.0,): 30}, "noisy mask"),
        ({(0.0,): 50, (100.0,): 20, (255.0,): 30}, "undeclared label"),
        ({(0.0,): 50, (2.0,): 20, (3.0,): 30}, "undeclared label"),
        ({(0.0,): 50, (0.5,): 20}, "fractional mask"),
        ({(-1.0,): 50, (1.0,): 20}, "undeclared label"),
    ],
)
def test_kinds_are_told_apart(codes, kind):
    assert read(codes).kind == kind


def test_noise_of_several_labels_is_not_guessed():
    assert read({(0.0,): 50, (3.0,): 2, (254.0,): 20, (255.0,): 30}, 3).numbers is None


def test_a_label_that_only_unreadable_masks_could_hold_is_not_reported():
    cases = [facts({(0.0,): 1, (77.0,): 1})]
    assert list(occurrences(cases, meaning(dataset(1), cases))) == []


@given(seed=st.integers(0, 999), kind=st.sampled_from(["u1", "i2", "i4", "f4", "f8"]))
@settings(max_examples=40, deadline=None)
def test_counting_equals_sorting(seed, kind):
    array = np.random.default_rng(seed).integers(0, 9, (1, 6, 7)).astype(kind) * (40 if kind == "i4" else 1)
    array = array - 3 if kind != "u1" else array
    values, counts = np.unique(array, return_counts=True)
    assert count_codes(array) == {(float(v),): int(n) for v, n in zip(values, counts, strict=True)}


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_colours_are_counted_whole(kind):
    array = np.array([[[0, 9, 9]], [[0, 8, 200]], [[0, 7, 7]]], kind)
    assert count_codes(array) == {(0.0, 0.0, 0.0): 1, (9.0, 8.0, 7.0): 1, (9.0, 200.0, 7.0): 1}


def test_grey_that_is_stored_as_colours_counts_as_grey():
    grey = np.array([[0, 255, 255]], np.uint8)
    assert count_codes(np.stack([grey, grey, grey])) == {(0.0,): 1, (255.0,): 2}
    assert count_codes(np.stack([grey, grey])) == {(0.0,): 1, (255.0,): 2}


def test_values_that_are_not_finite_are_not_counted():
    assert count_codes(np.array([[np.nan, np.inf, 1.0]])) == {(1.0,): 1}
    assert count_codes(np.array([[np.nan]])) == {}
