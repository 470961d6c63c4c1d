"""One axis is resized by a banded matrix whose weights are those of scipy's zoom."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mambino.ops.splines import Part, resize_axes, resize_first, spline, whole


def dense(matrix):
    weights = np.zeros(matrix.size[::-1])
    for block in matrix.blocks:
        rows, columns = block.weights.shape
        weights[block.row : block.row + rows, block.column : block.column + columns] = block.weights
    return weights


@given(old=st.integers(1, 200), new=st.integers(1, 200), order=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_weights_are_what_zooming_an_identity_gives(old, new, order):
    columns = [ndimage.zoom(row, new / old, order=order, mode="nearest", grid_mode=True) for row in np.eye(old)]
    matrix = spline(old, new, order)
    np.testing.assert_allclose(dense(matrix), np.stack(columns, 1), atol=1e-7)
    np.testing.assert_allclose(dense(matrix).sum(1), 1, atol=1e-6)
    used = dense(matrix) != 0
    assert (matrix.first == used.argmax(1)).all()
    assert (matrix.last == old - used[:, ::-1].argmax(1)).all()


def test_no_weight_is_so_small_that_products_get_slow():
    weights = dense(spline(200, 333, 3))
    assert np.abs(weights[weights != 0]).min() >= 1e-9


@given(
    shape=st.tuples(*[st.integers(1, 90)] * 2), new=st.integers(1, 90), data=st.data(), order=st.sampled_from([0, 1, 3])
)
@settings(max_examples=40, deadline=None)
def test_a_part_of_the_outputs_needs_only_its_inputs(shape, new, data, order):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    matrix = spline(shape[0], new, order)
    low = data.draw(st.integers(0, new - 1))
    high = data.draw(st.integers(low + 1, new))
    start, stop = matrix.first[low:high].min(), matrix.last[low:high].max()
    part = resize_first(array[start:stop], Part(matrix, int(start), (low, high)))
    np.testing.assert_allclose(part, resize_first(array, whole(matrix))[low:high], atol=1e-5)


@pytest.mark.parametrize("columns", [1, 50, 5000])
def test_numpy_and_torch_multiply_alike(columns):
    array = np.random.default_rng(0).normal(size=(100, columns)).astype(np.float32)
    parts = [whole(spline(100, 77, 3)), whole(None)]
    expected = dense(spline(100, 77, 3)) @ array
    np.testing.assert_allclose(resize_axes(array, parts), expected, atol=1e-5)
    np.testing.assert_allclose(resize_axes(torch.from_numpy(array), parts).numpy(), expected, atol=1e-5)
