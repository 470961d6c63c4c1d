"""The box round the body holds all of it and not the table; cropping to it changes nothing inside."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core import scratch
from mambino.core.grid import Grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.core.plan import Normalise
from mambino.core.scratch import on_disk
from mambino.ops.windows import Slab
from mambino.preprocessing import body
from mambino.preprocessing.body import body_box
from mambino.preprocessing.case import prepare, prepare_labels, restore, restore_scores
from tests.tiny import tiny_config

CT = (Normalise(scheme="ct", mean=0.0, std=100.0, lower=-1000.0, upper=1000.0),)
MR = (Normalise(scheme="zscore"),)
LABELS = Labels(names={"organ 1": (1,)})
SPACING = (5.0, 2.0, 2.0)
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def grid(shape, spacing=SPACING, unit="mm"):
    return Grid(shape, np.diag([*spacing, 1.0]), unit)


def ellipsoid(shape, spacing, centre, radii):
    places = np.indices(shape)
    return sum(((i * s - c) / r) ** 2 for i, s, c, r in zip(places, spacing, centre, radii, strict=True)) <= 1


def scan(shape=(30, 160, 150), centre=(75, 140, 130), radii=(60, 50, 80), spacing=SPACING, seed=0):
    """Return a CT of a body on a table, where the body is, and where the table is."""
    here = ellipsoid(shape, spacing, centre, radii)
    table = np.zeros(shape, bool)
    row = int((centre[1] + radii[1] + 40) / spacing[1])
    table[:, row : row + 4] = True
    voxels = np.random.default_rng(seed).normal(-1000, 30, shape)
    voxels[table] = 200
    voxels[here] = 40
    return Image(voxels.astype(np.int16)[None], grid(shape, spacing)), here, table


def within(box):
    return tuple(slice(start, start + size) for start, size in zip(*box, strict=True))


@given(
    centre=st.tuples(st.floats(60, 90), st.floats(90, 150), st.floats(90, 210)),
    radii=st.tuples(st.floats(30, 80), st.floats(30, 90), st.floats(30, 90)),
    spacing=st.sampled_from([(5.0, 2.0, 2.0), (2.5, 1.9, 2.1), (10.0, 2.0, 2.0)]),
)
@settings(max_examples=25, deadline=None)
def test_the_box_holds_the_body_and_not_the_table(centre, radii, spacing):
    image, here, table = scan(centre=centre, radii=radii, spacing=spacing)
    box = within(body_box(image, CT))
    assert here[box].sum() == here.sum()
    assert not table[box].any()


def test_a_body_that_lies_on_its_table_is_told_from_it():
    image, here, _ = scan()
    rows = np.flatnonzero(here.any((0, 2)))
    image.array[0, :, rows[-1] + 1 : rows[-1] + 4] = 200  # as wide as the image
    start, size = body_box(image, CT)
    assert here[within((start, size))].sum() == here.sum()
    assert size[2] < image.grid.shape[2]


def test_both_legs_are_the_body_and_a_pillow_is_not():
    shape = (30, 100, 150)
    image, left, _ = scan(shape, centre=(75, 80, 70), radii=(300, 40, 40))
    right = ellipsoid(shape, SPACING, (75, 80, 220), (300, 35, 35))
    pillow = ellipsoid(shape, SPACING, (75, 185, 150), (10, 10, 10))
    image.array[0, 100:] = -1000
    image.array[0][right | pillow] = 40
    box = within(body_box(image, CT))
    assert (left | right)[box].sum() == (left | right).sum()
    assert not pillow[box].any()


@pytest.mark.parametrize("channels", [1, 2])
def test_without_hounsfield_units_tissue_is_what_is_brighter(channels):
    image, here, _ = scan()
    rng = np.random.default_rng(1)
    voxels = np.abs(rng.normal(0, 12, image.array.shape)).astype(np.float32)
    voxels[0][here] = rng.uniform(60, 300, here.sum())
    voxels[0][:, 60:64, 60:64] = 3000  # bright vessels tell nothing of where the body ends
    if channels == 2:
        voxels = np.concatenate([np.full_like(voxels, 7), voxels])
    found = body_box(Image(voxels, image.grid), MR * channels)
    assert here[within(found)].sum() == here.sum()
    assert np.prod(found[1]) < 0.8 * here.size


@pytest.mark.parametrize("value", [-1000, 0])
@pytest.mark.parametrize("scales", [CT, MR])
def test_without_a_body_the_whole_image_is_left(value, scales):
    image = Image(np.full((1, 20, 30, 40), value, np.int16), grid((20, 30, 40)))
    assert body_box(image, scales) == ((0, 0, 0), (20, 30, 40))


def test_without_a_spacing_the_whole_image_is_left():
    image, _, _ = scan()
    nowhere = Image(image.array, grid(image.grid.shape, (1.0, 1.0, 1.0), "pixel"))
    assert body_box(nowhere, CT) == ((0, 0, 0), image.grid.shape)


def test_of_a_large_volume_no_more_voxels_are_looked_at_than_of_a_slab(monkeypatch):
    image, here, _ = scan()
    looked = []
    thick = body._thick
    monkeypatch.setattr(body, "SLAB", 5000)
    monkeypatch.setattr(body, "_thick", lambda tissue, apart: looked.append(tissue.size) or thick(tissue, apart))
    box = within(body_box(image, CT))
    assert 500 < looked[0] <= 5000
    assert here[box].sum() == here.sum()


@given(
    stored=st.sampled_from(ORIENTATIONS),
    orientation=st.sampled_from([None, "RAS", "SAR", "IPL"]),
    slice_axis=st.sampled_from([None, 0, 2]),
    border=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_in_any_orientation_the_box_is_cut_out_and_put_back(stored, orientation, slice_axis, border):
    image, here, _ = scan((24, 70, 60), centre=(60, 50, 65), radii=(40, 30, 30))
    order, flips = stored
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    place = image.grid.transpose(order)
    for axis in axes:
        place = place.flip(axis)
    voxels, here = (np.flip(a.transpose(order), axes).copy() for a in (image.array[0] + 1100, here))
    if border:  # which the plan crops away before
        voxels[:3] = 0
    spacing = {None: (4.0, 3.0, 3.0), 0: (3.0, 3.0), 2: (3.0, 3.0)}[slice_axis]
    config = tiny_config(
        3 if slice_axis is None else 2,
        normalise=MR,
        spacing=spacing,
        orientation=orientation,
        slice_axis=slice_axis,
        crop=border,
    )
    stored_image = Image(voxels[None], place)
    prepared = prepare(stored_image, config, crop="body")
    assert np.prod(prepared.cropped.shape) < 0.8 * here.size
    numbers = prepare_labels(Segmentation(here.astype(np.uint8), place, LABELS), prepared, config)
    scores = np.stack([0.5 - numbers, numbers - 0.5]).astype(np.float32)

    back = restore(lambda _: [Slab(0, scores)], prepared, LABELS, config)
    shares = restore_scores(lambda _: [Slab(0, scores)], prepared, LABELS, config)

    assert back.grid is place
    overlap = 2 * (here & (back.array > 0)).sum() / (here.sum() + (back.array > 0).sum())
    assert overlap > 0.9
    outside = np.ones(here.shape, bool)
    outside[within(body_box(stored_image, MR))] = False
    assert outside.any()
    assert not back.array[outside].any()
    assert (shares[0][outside] == 1).all()


def test_what_is_left_has_the_intensities_of_the_whole_image():
    image, _, _ = scan()
    config = tiny_config(normalise=MR, spacing=SPACING)
    whole, part = prepare(image, config), prepare(image, config, crop="body")
    assert part.array.flags.c_contiguous
    assert part.array.shape != whole.array.shape
    np.testing.assert_array_equal(part.array[0], whole.array[0][within((part.start, part.cropped.shape))])


def test_a_body_that_fills_the_image_is_prepared_as_without():
    image = Image(np.random.default_rng(0).normal(40, 20, (1, 12, 40, 36)).astype(np.float32), grid((12, 40, 36)))
    config = tiny_config(normalise=CT, spacing=(4.0, 3.0, 3.0))
    whole, part = prepare(image, config), prepare(image, config, crop="body")
    np.testing.assert_array_equal(part.array, whole.array)
    assert part.grid.shape == whole.grid.shape


@pytest.mark.parametrize("spacing", [SPACING, (4.0, 3.0, 3.0)])
def test_arrays_on_disk_are_cut_as_those_in_memory(tmp_path, monkeypatch, spacing):
    image, _, _ = scan()
    config = tiny_config(normalise=MR, spacing=spacing)
    free = prepare(image, config, crop="body")
    monkeypatch.setattr(scratch, "SLAB", 5000)
    mapped = np.memmap(tmp_path / "scan", np.int16, "w+", shape=image.array.shape)
    mapped[...] = image.array
    with on_disk(tmp_path) as room:
        made = prepare(Image(mapped, image.grid), config, room, "body")
        assert isinstance(made.array, np.memmap)
        assert made.start == free.start
        np.testing.assert_allclose(made.array, free.array, atol=1e-6)
