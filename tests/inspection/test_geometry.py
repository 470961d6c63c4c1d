"""Rounding in headers is tolerated, real differences are not; outliers are far from the rest, not merely apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambino.core.dataset import Case
from mambino.core.grid import Grid, pixel_grid
from mambino.imageio import read_image
from mambino.inspection.facts import CaseFacts, FileFacts
from mambino.inspection.geometry import covered, nearly_same_place, outliers, pairs, same_place
from tests.places import DATA, needs_shared


def cases(grids: list[Grid]) -> list[CaseFacts]:
    return [
        CaseFacts(Case(id=str(i), images=()), (FileFacts(Path("a"), grid=grid, channels=1),), None, training=True)
        for i, grid in enumerate(grids)
    ]


@needs_shared
@pytest.mark.filterwarnings("ignore::mambino.errors.MambinoWarning")
def test_the_pair_whose_affines_differ_by_2e_4_passes():
    image, mask = (
        read_image(DATA / f"awkward/nifti/affine_differs_2e-4_{what}.nii.gz").grid for what in ("image", "mask")
    )
    assert np.abs(image.affine - mask.affine).max() > 1e-4
    case = CaseFacts(
        Case(id="a", images=()), (FileFacts(Path("a"), grid=image),), FileFacts(Path("b"), grid=mask), training=True
    )
    assert list(pairs([case])) == []


@given(shift=st.floats(0, 0.009), axis=st.integers(0, 2))
def test_shifts_under_a_hundredth_of_a_voxel_are_rounding(shift, axis):
    grid = pixel_grid((4, 5, 6), (2.0, 1.0, 1.0))
    affine = grid.affine.copy()
    affine[axis, 3] += shift
    assert same_place(grid, Grid(grid.shape, affine))


@pytest.mark.parametrize(("shift", "near"), [(0.02, True), (0.49, True), (0.51, False), (9.0, False)])
def test_larger_shifts_are_not(shift, near):
    grid = pixel_grid((4, 5, 6), (1.0, 1.0, 1.0))
    affine = grid.affine.copy()
    affine[0, 3] += shift
    other = Grid(grid.shape, affine)
    assert not same_place(grid, other)
    assert nearly_same_place(grid, other) is near


def test_coverage_is_a_share_of_the_image():
    image = pixel_grid((10, 10, 10), (1.0, 1.0, 1.0))
    assert covered(image, image) == 1
    assert covered(image, image.crop((0, 0, 0), (10, 10, 5))) == 0.5
    assert covered(image, image.crop((20, 0, 0), (10, 10, 10))) == 0
    assert covered(image, image.resample((30, 7, 4))) == 1
    assert covered(pixel_grid((10, 10)), pixel_grid((10, 10))) == 0


@given(data=st.lists(st.floats(0.75, 1.4), min_size=4, max_size=30))
def test_spacings_within_half_and_twice_the_median_are_no_outliers(data):
    assert list(outliers(cases([pixel_grid((8, 8, 8), (s, 1.0, 1.0)) for s in data]))) == []


def test_a_data_set_that_varies_by_nature_has_no_outliers():
    spacings = [0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    assert list(outliers(cases([pixel_grid((8, 8, 8), (s, 1.0, 1.0)) for s in spacings]))) == []


def test_axes_stored_in_another_order_are_compared_by_direction():
    tall = pixel_grid((40, 8, 8), (1.0, 1.0, 1.0))
    assert list(outliers(cases([tall, tall, tall, tall.transpose((2, 1, 0))]))) == []


def test_three_cases_have_no_median_worth_the_name():
    assert list(outliers(cases([pixel_grid((8, 8), None), pixel_grid((8, 8), None), pixel_grid((80, 8), None)]))) == []
