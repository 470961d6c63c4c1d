"""A grid knows where its voxels are, whatever is done to it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambino.core.grid import Grid, orienting, pixel_grid
from mambino.errors import DataError

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["LR", "PA", "IS"]) for letters in itertools.product(*axes)
]


def oblique(seed: int, shape=(5, 6, 7)) -> Grid:
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * random.uniform(0.5, 4, size=3)
    affine[:3, 3] = random.normal(size=3) * 50
    return Grid(shape, affine)


def place(grid: Grid, index) -> np.ndarray:
    return (grid.affine @ np.array([*index, 1.0]))[:-1]


@given(seed=st.integers(0, 1000), axis=st.integers(0, 2))
def test_a_flipped_grid_has_the_same_voxels_in_reverse(seed, axis):
    grid = oblique(seed)
    index = [1, 2, 3]
    mirrored = list(index)
    mirrored[axis] = grid.shape[axis] - 1 - index[axis]
    np.testing.assert_allclose(place(grid.flip(axis), mirrored), place(grid, index), atol=1e-9)


@given(seed=st.integers(0, 1000))
def test_flipping_twice_is_flipping_never(seed):
    grid = oblique(seed)
    assert grid.flip(1).flip(1).close_to(grid, 1e-9)


@given(seed=st.integers(0, 1000), axes=st.permutations([0, 1, 2]))
def test_a_transposed_grid_has_the_same_voxels_under_other_names(seed, axes):
    grid = oblique(seed)
    index = (1, 2, 3)
    np.testing.assert_allclose(
        place(grid.transpose(tuple(axes)), [index[a] for a in axes]), place(grid, index), atol=1e-9
    )


@given(seed=st.integers(0, 1000))
def test_a_crop_starts_where_it_says(seed):
    grid = oblique(seed)
    np.testing.assert_allclose(place(grid.crop((1, 2, 3), (2, 2, 2)), (0, 0, 0)), place(grid, (1, 2, 3)), atol=1e-9)


@given(seed=st.integers(0, 1000), shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_resampling_keeps_the_outer_faces(seed, shape):
    grid = oblique(seed)
    finer = grid.resample(shape)
    for corner in itertools.product((0, 1), repeat=3):
        old = [c * n - 0.5 for c, n in zip(corner, grid.shape, strict=True)]
        new = [c * n - 0.5 for c, n in zip(corner, shape, strict=True)]
        np.testing.assert_allclose(place(finer, new), place(grid, old), atol=1e-9)


@pytest.mark.parametrize("wanted", ORIENTATIONS)
def test_turning_gives_the_orientation_asked_for(wanted):
    grid = oblique(3)
    order, flips = orienting(grid, wanted)
    turned = grid.transpose(order)
    for axis in flips:
        turned = turned.flip(axis)
    assert turned.orientation == wanted


def test_orientation_is_named_fastest_axis_first():
    affine = np.eye(4)[[2, 1, 0, 3]] * 1.0  # columns z, y, x; rows R, A, S
    assert Grid((2, 3, 4), affine).orientation == "RAS"
    affine[:, 2] *= -1
    assert Grid((2, 3, 4), affine).orientation == "LAS"
    assert pixel_grid((3, 4)).orientation == ""


def test_spacing_follows_the_axes():
    assert pixel_grid((2, 3, 4), (5.0, 2.0, 1.0)).spacing == (5.0, 2.0, 1.0)
    assert pixel_grid((3, 4)).unit == "pixel"
    assert pixel_grid((3, 4), (0.5, 0.5)).unit == "mm"


def test_grids_are_close_up_to_rounding_only():
    grid = oblique(1)
    moved = grid.affine.copy()
    moved[0, 3] += 1e-5
    assert grid.close_to(Grid(grid.shape, moved))
    moved[0, 3] += 1
    assert not grid.close_to(Grid(grid.shape, moved))
    assert not grid.close_to(grid.crop((0, 0, 0), (5, 6, 6)))


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((2, 3), np.eye(4), r"a grid of shape \(2, 3\) needs a 3x3 affine, got \(4, 4\)"),
        ((2, 3, 0), np.eye(4), r"at least one voxel along each axis, got \(2, 3, 0\)"),
        ((2, 3, 4), np.full((4, 4), np.nan), "the affine holds values that are not finite"),
        ((2, 3, 4), np.zeros((4, 4)), "the affine is singular: two axes of the image point the same way"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, words):
    with pytest.raises(DataError, match=words):
        Grid(shape, affine)


def test_impossible_orientations_are_refused():
    with pytest.raises(DataError, match="an orientation names three different directions, such as RAS; got 'RLS'"):
        orienting(oblique(0), "RLS")
    with pytest.raises(DataError, match="an orientation is made of the letters L R P A I S; got 'RAX'"):
        orienting(oblique(0), "RAX")
