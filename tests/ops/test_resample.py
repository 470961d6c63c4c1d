"""Resizing is what scipy's zoom does, for images, labels and scores, whatever the array library."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mambino.errors import OptionError, ShapeError
from mambino.ops import resample
from mambino.ops.resample import resize, resize_labels, resize_scores
from mambino.ops.windows import Slab

SIZES = st.integers(1, 30)
SHAPES = st.one_of(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES, SIZES))
law = settings(max_examples=40, deadline=None)


def zoomed(array, shape, order):
    """What skimage's `resize` does with mode "edge" and without anti-aliasing, in float64."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    out = ndimage.zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    return out.clip(array.min(), array.max())


def picked(array, axis, size):
    """The nearest slice for each place along one axis, by the rule of `map_coordinates`."""
    coordinates = [np.arange(n) for n in array.shape]
    coordinates[axis] = array.shape[axis] / size * (np.arange(size) + 0.5) - 0.5
    return ndimage.map_coordinates(array, np.meshgrid(*coordinates, indexing="ij"), order=0, mode="nearest")


def slicewise(function, array, axis):
    return np.stack([function(part) for part in np.moveaxis(array, axis, 0)], axis)


def other_shape(data, shape):
    return tuple(data.draw(SIZES) for _ in shape)


def shares(labels, shape, order):
    numbers = np.unique(labels)
    return numbers, np.stack([zoomed((labels == number).astype(float), shape, order) for number in numbers])


@given(data=st.data(), shape=SHAPES, order=st.sampled_from([0, 1, 3]), seed=st.integers(0, 9))
@law
def test_images_are_resized_as_scipy_zooms_them(data, shape, order, seed):
    image = np.random.default_rng(seed).normal(0, 500, (2, *shape)).astype(np.float32)
    wanted = other_shape(data, shape)
    expected = np.stack([zoomed(channel, wanted, order) for channel in image])
    np.testing.assert_allclose(resize(image, wanted, order=order), expected, atol=2e-3)


def test_long_axes_are_resized_as_scipy_zooms_them():
    image = np.random.default_rng(0).normal(0, 500, (1, 150, 333)).astype(np.float32)
    np.testing.assert_allclose(resize(image, (211, 200))[0], zoomed(image[0], (211, 200), 3), atol=2e-3)


@given(data=st.data(), shape=st.tuples(SIZES, SIZES, SIZES), axis=st.integers(0, 2), seed=st.integers(0, 9))
@law
def test_a_separate_axis_takes_the_nearest_slice(data, shape, axis, seed):
    image = np.random.default_rng(seed).normal(0, 500, (1, *shape)).astype(np.float32)
    wanted = other_shape(data, shape)
    plane = wanted[:axis] + wanted[axis + 1 :]
    expected = picked(slicewise(lambda part: zoomed(part, plane, 3), image[0], axis), axis, wanted[axis])
    np.testing.assert_allclose(resize(image, wanted, separate_axis=axis)[0], expected, atol=2e-3)


def test_a_separate_axis_can_be_linear():
    image = np.random.default_rng(0).normal(size=(1, 4, 10, 10)).astype(np.float32)
    expected = ndimage.zoom(image[0].astype(float), (9 / 4, 1, 1), order=1, mode="nearest", grid_mode=True)
    actual = resize(image, (9, 10, 10), separate_axis=0, separate_order=1)[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@given(shape=SHAPES, data=st.data(), seed=st.integers(0, 9))
@law
def test_images_stay_in_their_range(shape, data, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    out = resize(image, other_shape(data, shape))
    for before, after in zip(image, out, strict=True):
        assert before.min() <= after.min() <= after.max() <= before.max()


@given(
    data=st.data(), shape=SHAPES, order=st.sampled_from([1, 3]), seed=st.integers(0, 9), most=st.sampled_from([1, 3, 6])
)
@law
def test_labels_go_to_the_largest_share(data, shape, order, seed, most):
    labels = np.random.default_rng(seed).integers(0, most + 1, shape, np.int16)
    labels = labels if seed % 2 else np.where(labels > most // 2, labels, 0).astype(np.int16)
    wanted = other_shape(data, shape)
    numbers, parts = shares(labels, wanted, order)
    out = resize_labels(labels, wanted, order=order)
    own = np.take_along_axis(parts, np.searchsorted(numbers, out)[None], 0)[0]
    assert (own >= parts.max(0) - 5e-5).all()


@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 9))
@law
def test_ties_go_to_the_label_of_the_nearest_voxel(data, shape, seed):
    labels = np.random.default_rng(seed).integers(0, 3, shape, np.int16)
    wanted = tuple(n * data.draw(st.integers(1, 3)) for n in shape)
    numbers, parts = shares(labels, wanted, 1)
    nearest = np.searchsorted(numbers, zoomed(labels, wanted, 0).astype(int))
    tied = (parts >= parts.max(0) - 1e-9).sum(0) > 1
    leads = np.take_along_axis(parts, nearest[None], 0)[0] >= parts.max(0) - 1e-9
    lowest = numbers[(parts >= parts.max(0) - 1e-9).argmax(0)]
    expected = np.where(leads, numbers[nearest], lowest)
    np.testing.assert_array_equal(resize_labels(labels, wanted)[tied], expected[tied])


@given(data=st.data(), shape=st.tuples(SIZES, SIZES, SIZES), axis=st.integers(0, 2), seed=st.integers(0, 9))
@law
def test_labels_with_a_separate_axis_take_the_nearest_slice(data, shape, axis, seed):
    labels = np.random.default_rng(seed).integers(0, 4, shape, np.int16)
    wanted = other_shape(data, shape)
    plane = wanted[:axis] + wanted[axis + 1 :]
    expected = picked(slicewise(lambda part: resize_labels(part, plane), labels, axis), axis, wanted[axis])
    np.testing.assert_array_equal(resize_labels(labels, wanted, separate_axis=axis), expected)


def test_a_label_that_falls_between_the_samples_is_lost():
    labels = np.array([[0, 0, 0, 1, 0, 0, 0, 0, 0]], np.int16)
    np.testing.assert_array_equal(resize_labels(labels, (1, 3)), [[0, 0, 0]])


def test_labels_far_apart_are_all_kept():
    labels = np.zeros((70, 70, 70), np.int16)
    labels[2:10, 2:10, 2:10] = 1
    labels[55:68, 55:68, 55:68] = 300
    out = resize_labels(labels, (100, 50, 70))
    numbers, parts = shares(labels, (100, 50, 70), 1)
    assert out.dtype == np.int16
    assert (out != numbers[parts.argmax(0)]).mean() < 1e-3  # ties
    assert set(np.unique(out)) == {0, 1, 300}


@given(data=st.data(), shape=SHAPES, cuts=st.lists(st.integers(0, 30), max_size=4), axis=st.sampled_from([None, 0, 1]))
@law
def test_scores_in_slabs_are_resized_as_in_one_piece(data, shape, cuts, axis):
    scores = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    wanted = other_shape(data, shape)
    edges = sorted({0, shape[0], *(cut for cut in cuts if cut < shape[0])})
    slabs = [Slab(a, scores[:, a:b]) for a, b in pairwise(edges)]
    brick = data.draw(st.sampled_from([1, 4000, 2**26]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "BRICK", brick)
        made = list(resize_scores(slabs, shape, wanted, separate_axis=axis))
    ends = np.cumsum([0, *(slab.scores.shape[1] for slab in made)])
    assert [slab.start for slab in made] == ends[:-1].tolist()
    assert all(slab.scores.nbytes <= max(brick, slab.scores[:, :1].nbytes) for slab in made)
    expected = resize(scores, wanted, order=1, separate_axis=axis)
    np.testing.assert_allclose(np.concatenate([slab.scores for slab in made], 1), expected, atol=1e-5)


@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 3), axis=st.sampled_from([None, 0, 1]))
@settings(max_examples=20, deadline=None)
def test_torch_and_numpy_arrays_give_the_same(data, shape, seed, axis):
    rng = np.random.default_rng(seed)
    wanted = other_shape(data, shape)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    labels = rng.integers(0, 4, shape, np.int16)
    image_out = resize(torch.from_numpy(image), wanted, separate_axis=axis)
    labels_out = resize_labels(torch.from_numpy(labels), wanted, separate_axis=axis)
    scores_out = list(resize_scores([Slab(0, torch.from_numpy(image))], shape, wanted, separate_axis=axis))
    assert {type(image_out), type(labels_out), type(scores_out[0].scores)} == {torch.Tensor}
    np.testing.assert_allclose(image_out.numpy(), resize(image, wanted, separate_axis=axis), atol=1e-4)
    np.testing.assert_array_equal(labels_out.numpy(), resize_labels(labels, wanted, separate_axis=axis))
    expected = resize(image, wanted, order=1, separate_axis=axis)
    np.testing.assert_allclose(torch.cat([s.scores for s in scores_out], 1).numpy(), expected, atol=1e-5)


def test_inputs_are_left_as_they_were():
    image = np.random.default_rng(0).normal(size=(1, 9, 8)).astype(np.float32)
    labels = (image[0] > 0).astype(np.int16)
    copies = image.copy(), labels.copy()
    resize(image, (5, 12))
    resize_labels(labels, (5, 12))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


def test_integers_become_float32():
    assert resize(np.arange(12, dtype=np.int16).reshape(1, 3, 4), (6, 8)).dtype == np.float32


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 0), (4,)])
def test_a_shape_of_other_axes_is_refused(shape):
    with pytest.raises(ShapeError, match=r"array of \(8, 8\) voxels cannot be resized to \(4"):
        resize(np.zeros((1, 8, 8), np.float32), shape)


def test_an_unknown_order_is_refused():
    with pytest.raises(OptionError, match="a spline has an order between 0 and 5, got 7"):
        resize(np.zeros((1, 8, 8), np.float32), (4, 4), order=7)


def test_cubic_scores_are_refused():
    with pytest.raises(OptionError, match="scores are resized by order 0 or 1, got 3 and 0"):
        list(resize_scores([], (4, 4), (4, 4), order=3))


def test_scores_with_a_gap_are_refused():
    slabs = [Slab(0, np.zeros((2, 2, 5), np.float32)), Slab(3, np.zeros((2, 2, 5), np.float32))]
    with pytest.raises(ShapeError, match=r"scores of \(2, 2, 5\) from row 3 do not go on at row 2 of \(5, 5\)"):
        list(resize_scores(slabs, (5, 5), (5, 5)))


def test_scores_that_end_early_are_refused():
    with pytest.raises(ShapeError, match="scores end at row 2 of 5"):
        list(resize_scores([Slab(0, np.zeros((2, 2, 5), np.float32))], (5, 5), (5, 5)))
