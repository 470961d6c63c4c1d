"""Outlines give their mask back to whoever asks, of each pixel's centre, whether it is inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mambino.imageio.dicom.contours import polygons
from tests.imageio.dicom.inside import inside


def covered(mask):
    """Return how many polygons each pixel lies in."""
    centres = np.stack(np.indices(mask.shape), -1).reshape(-1, 2) + 0.5
    return sum((inside(polygon, centres).astype(int) for polygon in polygons(mask)), np.zeros(len(centres), int))


@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()))
@settings(max_examples=300, deadline=None)
def test_every_mask_comes_back(mask):
    np.testing.assert_array_equal(covered(mask).reshape(mask.shape), mask.astype(int))


def test_a_pixel_is_a_square_clockwise():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    assert polygons(mask) == [[(1, 2), (1, 3), (2, 3), (2, 2)]]


@pytest.mark.parametrize("holes", [((2, 2),), ((2, 2), (4, 4)), ((2, 2), (2, 4), (4, 2)), ((2, 3), (3, 3), (5, 3))])
def test_holes_are_joined_to_one_outline(holes):
    mask = np.ones((7, 7), bool)
    for hole in holes:
        mask[hole] = False
    assert len(polygons(mask)) == 1


def test_islands_in_holes_are_outlines_of_their_own():
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    assert len(polygons(mask)) == 2


def test_nothing_has_no_outline():
    assert polygons(np.zeros((4, 5), bool)) == []
