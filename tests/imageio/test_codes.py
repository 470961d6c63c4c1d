"""Stored values become label numbers, or the first one that does not is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.labels import Labels
from mambino.errors import DataError
from mambino.imageio.codes import check_known, decode, values, whole

PATH = Path("mask.png")
RED = {"0,0,0": 0, "255,0,0": 1, "0,255,0": 2}


@given(st.lists(st.integers(0, 60000), min_size=1, max_size=9, unique=True), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_code_gives_its_number(stored, seed):
    codes = {str(value): n for n, value in enumerate(stored)}
    numbers = np.random.default_rng(seed).integers(0, len(stored), (1, 4, 5))
    np.testing.assert_array_equal(decode(np.array(stored)[numbers], codes, PATH), numbers[0])


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_every_colour_gives_its_number(seed):
    numbers = np.random.default_rng(seed).integers(0, 3, (4, 5))
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    np.testing.assert_array_equal(decode(np.moveaxis(colours[numbers], -1, 0), RED, PATH), numbers)


def test_black_is_background_without_being_named():
    assert decode(np.array([[[0, 255]]]), {"255": 1}, PATH).tolist() == [[0, 1]]
    assert decode(np.array([[[0, 7]]]), {"0": 1, "7": 0}, PATH).tolist() == [[1, 0]]


def test_grey_saved_as_colours_is_grey():
    grey = np.zeros((3, 2, 2), np.uint8)
    grey[:, 0, 0] = 255
    assert decode(grey, {"255": 1}, PATH).sum() == 1
    assert decode(grey // 255, None, PATH).sum() == 1
    assert decode(np.zeros((1, 2, 2), np.uint8), RED, PATH).sum() == 0


def test_what_no_code_names_is_refused():
    with pytest.raises(DataError, match=r"mask.png holds the value 13, which no code names; known are 255"):
        decode(np.array([[[0, 13]]]), {"255": 1}, PATH)
    purple = np.array([200, 0, 200]).reshape(3, 1, 1)
    with pytest.raises(DataError, match=r"holds the value 200,0,200, which no code names; known are 0,0,0, 255,0,0"):
        decode(purple, RED, PATH)


def test_channels_that_are_no_mask_are_refused():
    with pytest.raises(DataError, match=r"mask.png has 3 channels, a mask has 1"):
        decode(np.arange(3).reshape(3, 1, 1), None, PATH)
    with pytest.raises(DataError, match=r"has 2 channels, its codes such as 255 have 1"):
        decode(np.zeros((2, 1, 1), int), {"255": 1}, PATH)
    with pytest.raises(DataError, match=r"has 2 channels, a mask has 1 or 3"):
        values(np.zeros((2, 1, 1), int), PATH)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_floats_become_integers(dtype):
    array = np.array([0, 1, 2.00001, -3], dtype)
    assert whole(array, PATH).tolist() == [0, 1, 2, -3]
    assert whole(array, PATH).dtype.kind == "i"


@pytest.mark.parametrize(("wrong", "text"), [(0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e12, r"1e\+12")])
def test_the_first_value_that_is_not_whole_is_named(wrong, text):
    with pytest.raises(DataError, match=rf"mask.png is no mask: it holds {text}, which is not a whole number"):
        whole(np.array([1, 2, wrong, 0.25]), PATH)


def test_undeclared_numbers_are_named_with_the_known_ones():
    labels = Labels(names={"liver": (1,), "tumour": (2,)}, ignore=3)
    known = check_known(np.array([0, 1, 2, 3]), labels, PATH)
    assert known.dtype == np.uint8
    with pytest.raises(
        DataError,
        match=r"mask.png holds label numbers \[-1, 7\] that are not declared; "
        r"known are 0 background, 1 liver, 2 tumour, 3 ignore",
    ):
        check_known(np.array([0, 7, 2, -1]), labels, PATH)
    with pytest.raises(DataError, match=r"label numbers \[4, 5, 6, 7, 8\] and 3 more that are not declared"):
        check_known(np.arange(12), labels, PATH)
