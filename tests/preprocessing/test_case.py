"""What `prepare` does to an image, `restore` undoes: the result lies on the grid of the image."""

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.grid import Grid, pixel_grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise, Resample
from mambino.core.recipe import Recipe
from mambino.errors import DataError, ShapeError
from mambino.ops.windows import Slab
from mambino.preprocessing.case import data_side, prepare, prepare_labels, restore, restore_scores

LABELS = Labels(names={"liver": (1,), "spleen": (2,)})
REGIONS = Labels(names={"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, paint=(1, 2, 3))
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
SPACINGS = st.floats(0.4, 6)
law = settings(max_examples=40, deadline=None)


def config(dim=3, spacing=(1.0, 1.0, 1.0), channels=1, scheme="zscore", **changes):
    return Config(
        dim=dim,
        spacing=spacing,
        normalise=(Normalise(scheme=scheme),) * channels,
        shape=(8,) * dim,
        patch=(8,) * dim,
        batch=1,
        network=NetworkSpec(name="unet", dim=dim, in_channels=channels, out_channels=3, options={}),
        recipe=Recipe(),
        **changes,
    )


def volume(shape, spacing=(1.0, 1.0, 1.0), seed=0, border=0):
    """Return an image and labels, with a border of zeros round the image."""
    rng = np.random.default_rng(seed)
    array = rng.uniform(1, 100, shape).astype(np.float32)
    numbers = rng.integers(0, 3, shape).astype(np.uint8)
    inside = np.zeros(shape, bool)
    inside[tuple(slice(min(border, (n - 1) // 2), max(n - border, n // 2 + 1)) for n in shape)] = True
    grid = pixel_grid(shape, spacing)
    return Image((array * inside)[None], grid), Segmentation(numbers * inside, grid, LABELS)


def turned(image, segmentation, order, flips):
    """Store the same image with its axes in another order and direction."""
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    grid = image.grid.transpose(order)
    for axis in axes:
        grid = grid.flip(axis)
    voxels = np.stack([np.flip(channel.transpose(order), axes) for channel in image.array])
    numbers = np.flip(segmentation.array.transpose(order), axes)
    return Image(voxels, grid), Segmentation(numbers, grid, segmentation.labels)


def one_hot(numbers, classes=3):
    return (numbers == np.arange(classes).reshape(-1, *[1] * numbers.ndim)).astype(np.float32) * 10 - 5


def whole(slabs):
    """Give slabs as a run over everything does."""
    return lambda _: slabs


def in_slabs(scores, rows=3):
    return [Slab(start, scores[:, start : start + rows]) for start in range(0, scores.shape[1], rows)]


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[SPACINGS] * 3),
    target=st.tuples(*[SPACINGS] * 3),
    stored=st.sampled_from(ORIENTATIONS),
    orientation=st.sampled_from([None, "RAS", "LPS", "SAR", "IPL"]),
    slice_axis=st.sampled_from([None, 0, 1, 2]),
    crop=st.booleans(),
    border=st.integers(0, 2),
)
@law
def test_restoring_gives_labels_on_the_grid_of_the_image(
    shape, spacing, target, stored, orientation, slice_axis, crop, border
):
    image, segmentation = turned(*volume(shape, spacing, border=border), *stored)
    seen = config(
        dim=3 if slice_axis is None else 2,
        spacing=target if slice_axis is None else target[1:],
        orientation=orientation,
        slice_axis=slice_axis,
        crop=crop,
    )
    prepared = prepare(image, seen)
    labels = prepare_labels(segmentation, prepared, seen)
    assert prepared.array.dtype == np.float32
    assert prepared.array.flags.c_contiguous
    assert prepared.array.shape[1:] == prepared.grid.shape == labels.shape
    assert labels.dtype == np.int16
    back = restore(whole(in_slabs(one_hot(labels))), prepared, LABELS, seen)
    assert back.grid is image.grid
    assert back.array.shape == image.grid.shape
    if prepared.grid.shape == prepared.cropped.shape:
        np.testing.assert_array_equal(back.array, segmentation.array)


@pytest.mark.parametrize("slice_axis", [None, 0])
def test_all_48_ways_to_store_an_image_give_the_same_mask_in_the_world(slice_axis):
    image, segmentation = volume((7, 9, 11), (2.5, 0.8, 0.7), border=1)
    spacing = (2.0, 1.0, 1.0)[slice_axis is not None :]
    seen = config(dim=len(spacing), spacing=spacing, orientation="LPS", slice_axis=slice_axis)
    first = prepare(image, seen)
    numbers = prepare_labels(segmentation, first, seen)
    mask = restore(whole(in_slabs(one_hot(numbers))), first, LABELS, seen)
    assert numbers.shape != segmentation.array.shape
    for order, flips in ORIENTATIONS:
        other, labels = turned(image, segmentation, order, flips)
        prepared = prepare(other, seen)
        np.testing.assert_array_equal(prepared.array, first.array)
        np.testing.assert_array_equal(prepare_labels(labels, prepared, seen), numbers)
        back = restore(whole(in_slabs(one_hot(numbers))), prepared, LABELS, seen)
        np.testing.assert_array_equal(back.array, turned(image, mask, order, flips)[1].array)


@given(shape=st.tuples(*[st.integers(1, 12)] * 2), target=st.tuples(*[SPACINGS] * 2), border=st.integers(0, 2))
@law
def test_restoring_a_raster_gives_labels_on_its_grid(shape, target, border):
    image, segmentation = volume(shape, None, border=border)
    seen = config(dim=2, spacing=target)
    prepared = prepare(image, seen)
    back = restore(whole(in_slabs(one_hot(prepare_labels(segmentation, prepared, seen)))), prepared, LABELS, seen)
    assert back.grid is image.grid
    if prepared.grid.shape == prepared.cropped.shape:
        np.testing.assert_array_equal(back.array, segmentation.array)


def test_pixels_can_be_made_coarser():
    image, _ = volume((170, 34), None)
    prepared = prepare(image, config(dim=2, spacing=(1.7, 1.7)))
    assert prepared.grid.shape == (100, 20)
    assert prepared.grid.unit == "pixel"


def test_an_image_is_normalised_before_it_is_resampled():
    image, _ = volume((20, 20), None)
    prepared = prepare(image, config(dim=2, spacing=(2.0, 2.0)))
    scaled = (image.array - image.array.mean()) / image.array.std()
    same = prepare(Image(scaled, image.grid), config(dim=2, spacing=(2.0, 2.0), scheme="none"))
    np.testing.assert_allclose(prepared.array, same.array, atol=1e-5)


def test_the_border_of_zeros_is_cut_away_for_all_channels_alike():
    array = np.zeros((2, 10, 12), np.float32)
    array[0, 2:5, 3:6] = array[1, 4:7, 5:8] = 1
    image = Image(array, pixel_grid((10, 12)))
    prepared = prepare(image, config(dim=2, spacing=(1.0, 1.0), channels=2, scheme="none"))
    assert (prepared.start, prepared.cropped.shape) == ((2, 3), (5, 5))
    np.testing.assert_array_equal(prepared.array, array[:, 2:7, 3:8])
    whole = prepare(image, config(dim=2, spacing=(1.0, 1.0), channels=2, scheme="none", crop=False))
    assert whole.array.shape == (2, 10, 12)


def test_an_image_of_zeros_is_left_whole():
    prepared = prepare(Image(np.zeros((1, 5, 6), np.uint8), pixel_grid((5, 6))), config(dim=2, spacing=(1.0, 1.0)))
    assert prepared.array.shape == (1, 5, 6)
    assert not prepared.array.any()


def test_statistics_inside_the_body_leave_zero_outside():
    array = np.zeros((1, 12, 12), np.float32)
    array[0, 1:8, 1:8] = np.random.default_rng(0).uniform(50, 60, (7, 7))
    array[0, 4, 4] = 0  # a hole belongs to the body
    array[0, 10, 10] = 55
    seen = replace(config(dim=2, spacing=(1.0, 1.0)), normalise=(Normalise(scheme="zscore", inside=True),))
    out = prepare(Image(array, pixel_grid((12, 12))), seen).array[0]
    assert out[3, 3] < -3
    assert not out[8, :8].any()


def test_channels_of_a_picture_share_their_range_as_vm_unet_s_do():
    array = np.random.default_rng(0).integers(20, 200, (3, 5, 6)).astype(np.uint8)
    array[1] //= 2
    theirs = (array - 157.561) / 26.706  # constants of ISIC 2018, which the next line takes away again
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min()) * 255.0
    seen = config(dim=2, spacing=(1.0, 1.0), channels=3, scheme="range")
    found = prepare(Image(array, pixel_grid((5, 6))), seen).array
    np.testing.assert_allclose(found, theirs, atol=1e-3)
    assert found[1].max() < 130  # no channel by itself


def test_a_range_is_that_of_the_channels_that_ask_for_it():
    array = np.array([[[0, 10]], [[20, 40]], [[1000, -1000]]], np.float32)
    seen = config(dim=2, spacing=(1.0, 1.0), channels=3, scheme="range")
    seen = replace(seen, normalise=(*seen.normalise[:2], Normalise(scheme="none")))
    found = prepare(Image(array, pixel_grid((1, 2))), seen).array
    np.testing.assert_allclose(found, [[[0, 63.75]], [[127.5, 255]], [[1000, -1000]]], rtol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "target", "separate"),
    [((5.0, 1.0, 1.0), (5.0, 2.0, 2.0), True), ((2.0, 1.0, 1.0), (2.0, 2.0, 2.0), False)],
)
def test_the_coarse_axis_is_treated_apart(spacing, target, separate):
    image, _ = volume((6, 10, 10), spacing)
    auto = prepare(image, config(spacing=target, orientation="RAS"))
    forced = Resample(separate_axis="yes" if separate else "no")
    np.testing.assert_array_equal(auto.array, prepare(image, config(spacing=target, resample=forced)).array)


def test_of_two_coarse_axes_none_is_treated_apart():
    image, _ = volume((6, 6, 10), (5.0, 5.0, 1.0))
    target = (4.0, 4.0, 1.0)
    apart = config(spacing=target, resample=Resample(separate_axis="no"))
    np.testing.assert_array_equal(prepare(image, config(spacing=target)).array, prepare(image, apart).array)


def test_slices_keep_their_own_spacing():
    image, _ = volume((6, 10, 12), (5.0, 1.0, 1.0))
    prepared = prepare(image, config(dim=2, spacing=(2.0, 2.0), slice_axis=2))
    assert prepared.array.shape == (1, 12, 15, 5)


@given(
    shape=st.tuples(*[st.integers(2, 12)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 6.0])] * 3),
    cuts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    regions=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_parts_together_are_the_whole(shape, spacing, cuts, regions):
    image, _ = volume(shape, spacing, border=0)
    seen, labels = config(spacing=(1.0, 1.2, 1.5)), REGIONS if regions else LABELS
    prepared = prepare(image, seen)
    classes = labels.out_channels
    scores = np.random.default_rng(0).normal(size=(classes, *prepared.grid.shape)).astype(np.float32)

    def run(within):
        box = (slice(None), slice(None), *(slice(*span) for span in within or ()))
        return in_slabs(scores[box])

    def cut(size, count):
        return list(pairwise([size * i // count for i in range(count + 1)]))

    spans = [cut(size, min(count, size)) for size, count in zip(prepared.cropped.shape[1:], cuts, strict=True)]
    found = restore(run, prepared, labels, seen, parts=list(product(*spans)))
    assert np.array_equal(found.array, restore(run, prepared, labels, seen).array)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_torch_and_numpy_scores_give_the_same(labels):
    image, _ = volume((6, 7, 8), (1.0, 2.0, 1.0), border=1)
    seen = config(spacing=(1.5, 1.5, 1.5))
    prepared = prepare(image, seen)
    scores = np.random.default_rng(0).normal(size=(3, *prepared.grid.shape)).astype(np.float32)
    for function in (restore, restore_scores):
        ours = function(whole(in_slabs(scores)), prepared, labels, seen)
        theirs = function(whole(in_slabs(torch.from_numpy(scores))), prepared, labels, seen)
        np.testing.assert_array_equal(getattr(ours, "array", ours), getattr(theirs, "array", theirs))


def test_regions_are_painted_over_one_another():
    image, _ = volume((2, 4), None)
    prepared = prepare(image, config(dim=2, spacing=(1.0, 1.0)))
    scores = np.array([[1, 1, 1, -1], [-1, 1, 1, -1], [-1, -1, 1, 1]], np.float32)
    back = restore(
        whole([Slab(0, np.stack([scores, scores], 1))]), prepared, REGIONS, config(dim=2, spacing=(1.0, 1.0))
    )
    np.testing.assert_array_equal(back.array, [[1, 2, 3, 3]] * 2)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_probabilities_agree_with_the_labels(labels):
    image, _ = volume((6, 7, 8), (1.0, 2.0, 1.0), border=1)
    seen = config(spacing=(1.5, 1.5, 1.5))
    prepared = prepare(image, seen)
    scores = np.random.default_rng(0).normal(size=(3, *prepared.grid.shape)).astype(np.float32)
    mask = restore(whole(in_slabs(scores)), prepared, labels, seen).array
    shares = restore_scores(whole(in_slabs(scores)), prepared, labels, seen)
    assert shares.dtype == np.float32
    assert shares.shape == (3, 6, 7, 8)
    if labels is LABELS:
        np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(shares.argmax(0), mask)
        assert (shares[:, 0].transpose(1, 2, 0) == [1, 0, 0]).all()
    else:
        np.testing.assert_array_equal((shares > 0.5).any(0), mask > 0)
        assert not shares[:, 0].any()


def test_scores_of_a_large_value_do_not_overflow():
    image, _ = volume((4, 4), None)
    prepared = prepare(image, config(dim=2, spacing=(1.0, 1.0)))
    scores = np.full((3, 4, 4), -500, np.float32)
    scores[1] = 500
    for labels in (LABELS, REGIONS):
        shares = restore_scores(whole([Slab(0, scores)]), prepared, labels, config(dim=2, spacing=(1.0, 1.0)))
        np.testing.assert_allclose(shares[:, 0, 0], [0, 1, 0], atol=1e-6)


def test_the_image_is_left_as_it_was():
    image, segmentation = volume((5, 6, 7))
    copies = image.array.copy(), segmentation.array.copy()
    seen = config(spacing=(2.0, 1.0, 1.0))
    prepare_labels(segmentation, prepare(image, seen), seen)
    np.testing.assert_array_equal(image.array, copies[0])
    np.testing.assert_array_equal(segmentation.array, copies[1])


def test_only_the_data_side_of_a_configuration_tells_cases_apart():
    assert data_side(config()) == data_side(replace(config(), batch=7, patch=(4, 4, 4)))
    others = [config(spacing=(1.0, 1.0, 2.0)), config(orientation="RAS"), config(crop=False), config(scheme="none"),
              config(resample=Resample(image_order=1)), config(channels=2)]  # fmt: skip
    assert len({data_side(other) for other in [config(), *others]}) == 7


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(value):
    image, _ = volume((4, 5, 6))
    image.array[0, 1, 2, 3] = image.array[0, 3, 4, 5] = value
    words = r"the image is not finite in 2 of 120 voxels, the first in channel 0 at \(1, 2, 3\)"
    with pytest.raises(DataError, match=words) as caught:
        prepare(image, config())
    assert "mambino check DATA --repair -o COPY" in caught.value.hint


def test_values_beyond_float32_are_refused():
    array = np.full((1, 4, 5), 1e300)
    with pytest.raises(DataError, match="not finite in 20 of 20 voxels"):
        prepare(Image(array, pixel_grid((4, 5))), config(dim=2, spacing=(1.0, 1.0)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "the image has 3 channels, the network takes 1: RGB given to a grey network"),
        (1, "the image has 1 channel, the network takes 3: grey given to an RGB network"),
    ],
)
def test_rgb_and_grey_are_not_mixed_up(given, words):
    image = Image(np.ones((given, 4, 5), np.uint8), pixel_grid((4, 5)))
    with pytest.raises(DataError, match=words):
        prepare(image, config(dim=2, spacing=(1.0, 1.0), channels=4 - given))


def test_another_number_of_channels_is_refused():
    image = Image(np.ones((1, 4, 5), np.uint8), pixel_grid((4, 5)))
    with pytest.raises(DataError, match=r"the image has 1 channel, the network takes 4$"):
        prepare(image, config(dim=2, spacing=(1.0, 1.0), channels=4))


@pytest.mark.parametrize(
    ("shape", "seen", "words"),
    [
        ((4, 5), config(), r"the image has 2 axes \(4, 5\), the configuration takes images with 3"),
        ((4, 5), config(dim=2, spacing=(1.0, 1.0), slice_axis=0), "the image has 2 axes"),
        ((4, 5, 6), config(dim=2, spacing=(1.0, 1.0)), "has 3 axes .* takes images with 2"),
    ],
)
def test_an_image_of_other_axes_is_refused(shape, seen, words):
    with pytest.raises(DataError, match=words):
        prepare(Image(np.ones((1, *shape), np.uint8), pixel_grid(shape)), seen)


def test_labels_of_another_shape_are_refused():
    image, _ = volume((4, 5, 6))
    _, labels = volume((4, 5, 7))
    with pytest.raises(DataError, match=r"the image has \(4, 5, 6\) voxels, its labels \(4, 5, 7\)"):
        prepare_labels(labels, prepare(image, config()), config())


def test_labels_at_another_place_are_refused():
    image, labels = volume((4, 5, 6))
    affine = labels.grid.affine.copy()
    affine[0, 3] += 2
    moved = Segmentation(labels.array, Grid(labels.grid.shape, affine), LABELS)
    with pytest.raises(DataError, match="the labels lie elsewhere than their image: affine"):
        prepare_labels(moved, prepare(image, config()), config())


def test_scores_of_other_classes_are_refused():
    image, _ = volume((4, 5, 6))
    prepared = prepare(image, config())
    with pytest.raises(ShapeError, match="there are scores of 5 classes, but labels of 3"):
        restore(whole([Slab(0, np.zeros((5, 4, 5, 6), np.float32))]), prepared, LABELS, config())


def test_a_spacing_that_makes_voxels_without_end_is_refused():
    image, _ = volume((8, 8, 8))
    with pytest.raises(
        DataError, match=r"\(8, 8, 8\) voxels of spacing .* become \(80000, 80000, 80000\) at the spacing"
    ):
        prepare(image, config(spacing=(1e-4,) * 3))
