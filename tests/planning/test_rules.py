"""Spacing, size, slices and dimensions follow from the fingerprint by the rules documented in docs/planning.md."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.planning import rules
from tests.planning.measured import facts, fingerprint


def test_the_target_spacing_is_the_median():
    found = fingerprint([facts(spacing=(s, 1.0, 1.0)) for s in (1.0, 1.5, 4.0)])
    assert rules.target_spacing(found).value == (1.5, 1.0, 1.0)


def test_a_coarse_axis_with_few_voxels_takes_the_finest_tenth():
    cases = [facts(spacing=(s, 1.0, 1.0), shape=(10, 200, 200)) for s in (5.0, *[10.0] * 8, 12.0, 12.0)]
    chosen = rules.target_spacing(fingerprint(cases))
    assert chosen.value == (10.0, 1.0, 1.0)
    cases = [facts(spacing=(s, 1.0, 1.0), shape=(10, 200, 200)) for s in (5.0, 5.0, *[10.0] * 8)]
    assert rules.target_spacing(fingerprint(cases)).value == (5.0, 1.0, 1.0)
    assert "finest tenth" in chosen.why


def test_a_coarse_axis_with_many_voxels_keeps_its_median():
    cases = [facts(spacing=(s, 1.0, 1.0), shape=(100, 200, 200)) for s in (5.0, 5.0, *[10.0] * 8)]
    assert rules.target_spacing(fingerprint(cases)).value == (10.0, 1.0, 1.0)


def test_a_coarse_axis_never_becomes_finer_than_the_others():
    cases = [facts(spacing=(s, 2.0, 2.0), shape=(10, 200, 200)) for s in (1.0, 1.0, *[10.0] * 8)]
    assert rules.target_spacing(fingerprint(cases)).value[0] == pytest.approx(2.0, abs=1e-4)


def test_the_median_shape_is_that_of_cropped_cases_on_the_new_grid():
    found = fingerprint([facts(shape=(20, 30, 40), cropped=(10, 30, n), spacing=(2.0, 1.0, 1.0)) for n in (30, 31)])
    assert rules.median_shape(found, (1.0, 1.0, 2.0)) == (20, 30, 15.5)


def test_slices_run_across_the_coarsest_axis_or_the_one_with_one_voxel():
    assert rules.slice_axis((1.0, 3.0, 1.0), (9, 9, 9)).value == 1
    assert rules.slice_axis((1.0, 3.0, 1.0), (1, 9, 9)).value == 0


def test_volumes_fit_both_dimensions_and_flat_ones_only_two():
    found = fingerprint([facts()])
    assert rules.dimensions(found, (36, 50, 35)).value == (3, 2)
    assert rules.dimensions(found, (1, 50, 35)).value == (2,)
    assert rules.dimensions(fingerprint([facts(shape=(40, 50), spacing=(1.0, 1.0))]), (40, 50)).value == (2,)


def test_volumes_are_turned_and_pictures_are_not():
    assert rules.recorded_orientation(fingerprint([facts()])).value == "RAS"
    assert rules.recorded_orientation(fingerprint([facts(shape=(9, 9), spacing=(1.0, 1.0))])).value is None


@given(st.tuples(st.floats(0.5, 3), st.floats(0.5, 3)), st.tuples(st.integers(100, 3000), st.integers(100, 3000)))
@settings(max_examples=50, deadline=None)
def test_short_trainings_see_large_pictures_on_a_grid_that_is_coarser_but_never_finer(spacing, shape):
    chosen = rules.affordable_spacing(spacing, shape, 10_000, core_seconds=60.0)
    voxels = math.prod(n * s / c for n, s, c in zip(shape, spacing, chosen.value, strict=True))
    assert voxels <= 1.2 * 256 * 256
    assert all(c >= s - 1e-4 for c, s in zip(chosen.value, spacing, strict=True))


def test_with_time_enough_or_no_limit_pictures_keep_their_grid():
    for core_seconds in (None, 1e9):
        assert rules.affordable_spacing((1.0, 1.0), (512, 512), 10, core_seconds).value == (1.0, 1.0)
    coarse = rules.affordable_spacing((1.0, 1.0), (512, 512), 50, 600.0)
    assert coarse.value[0] > 1.9
    assert "about" in coarse.why


def test_coarsening_starts_with_the_finest_axes():
    chosen = rules.affordable_spacing((5.0, 0.7, 0.7), (200, 512, 512), 100, 600.0).value
    assert chosen[0] == 5.0
    assert chosen[1] == chosen[2] > 1.4
