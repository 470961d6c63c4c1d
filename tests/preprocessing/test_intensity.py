"""Each scheme does to one channel what nnU-Net's scheme of that name does."""

import numpy as np
import pytest

from mambino.core.plan import Normalise
from mambino.errors import DataError
from mambino.preprocessing.intensity import normalise

CHANNEL = np.array([[0, 50, 100], [150, 200, 250]], np.float32)


def test_ct_is_clipped_and_scaled_by_the_training_set():
    how = Normalise(scheme="ct", mean=100, std=50, lower=50, upper=200)
    np.testing.assert_allclose(normalise(CHANNEL, how), [[-1, -1, 0], [1, 2, 2]])


def test_zscore_has_mean_0_and_deviation_1():
    out = normalise(CHANNEL, Normalise(scheme="zscore"))
    np.testing.assert_allclose([out.mean(), out.std()], [0, 1], atol=1e-6)


def test_zscore_inside_leaves_zero_outside():
    inside = CHANNEL > 0
    out = normalise(CHANNEL, Normalise(scheme="zscore", inside=True), inside)
    np.testing.assert_allclose([out[inside].mean(), out[inside].std(), out[0, 0]], [0, 1, 0], atol=1e-6)


def test_a_constant_channel_becomes_zero():
    assert not normalise(np.full((3, 3), 7, np.float32), Normalise(scheme="zscore")).any()


def test_nothing_inside_becomes_zero():
    out = normalise(CHANNEL, Normalise(scheme="zscore", inside=True), np.zeros((2, 3), bool))
    assert not out.any()


def test_colours_are_divided_by_255():
    np.testing.assert_allclose(normalise(CHANNEL, Normalise(scheme="rgb")), CHANNEL / 255, rtol=1e-6)


def test_a_range_spans_0_to_255():
    out = normalise(CHANNEL - 30, Normalise(scheme="range"))
    np.testing.assert_allclose(out, CHANNEL / 250 * 255, rtol=1e-5)
    assert not normalise(np.full((3, 3), 7, np.float32), Normalise(scheme="range")).any()


def test_none_changes_nothing():
    np.testing.assert_array_equal(normalise(CHANNEL, Normalise(scheme="none")), CHANNEL)


@pytest.mark.parametrize(("value", "words"), [(-1, "holds -1 to 250"), (4095, "holds 50 to 4095")])
def test_colours_out_of_range_are_refused(value, words):
    channel = CHANNEL.copy()
    channel[0, 0] = value
    with pytest.raises(DataError, match=f"colours are numbers from 0 to 255, but the image {words}"):
        normalise(channel, Normalise(scheme="rgb"))


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rgb", "range", "none"])
def test_the_channel_is_left_as_it_was(scheme):
    channel = CHANNEL.copy()
    normalise(channel, Normalise(scheme=scheme, lower=10, upper=20))
    np.testing.assert_array_equal(channel, CHANNEL)
