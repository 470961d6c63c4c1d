"""Strides divide the patch, stages end where axes are short, and known data gets nnU-Net's patches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.planning.topology import batch_size, feature_values, features, fitted, smaller_patches, topology

sides = st.integers(12, 300)
spacings = st.floats(0.2, 8.0)
volumes = st.tuples(st.tuples(spacings, spacings, spacings), st.tuples(sides, sides, sides))


@given(volumes)
@settings(max_examples=60, deadline=None)
def test_the_strides_divide_the_patch_and_the_patch_covers_the_size(volume):
    spacing, size = volume
    plan = topology(spacing, size)
    assert all(p % d == 0 and n <= p < n + d for p, d, n in zip(plan.patch, plan.divisor, size, strict=True))
    assert all(p // d >= 4 for p, d in zip(plan.patch, plan.divisor, strict=True))
    assert len(plan.strides) == len(plan.kernels)
    assert plan.strides[0] == (1, 1, 1)
    assert plan.kernels[-1] == (3, 3, 3)


@given(volumes)
@settings(max_examples=20, deadline=None)
def test_a_patch_of_the_ladder_is_its_own_topology_and_smaller_than_the_one_before(volume):
    spacing, shape = volume
    before = None
    for plan in smaller_patches(spacing, shape):
        assert topology(spacing, plan.patch) == plan
        assert before is None or plan.voxels < before
        before = plan.voxels


def test_a_coarse_axis_is_neither_halved_nor_convolved_until_the_others_are_as_coarse():
    plan = topology((10, 1.5, 1.5), (10, 256, 216))
    assert plan.patch == (10, 256, 224)
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert plan.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_a_lone_axis_is_halved_from_twelve_voxels_on():
    assert len(topology((1, 1), (11, 7)).strides) == 1
    assert topology((1, 1), (12, 7)).strides[1:] == ((2, 1),)


def test_features_double_up_to_a_limit_that_grows_with_the_width():
    assert features(6, 3) == (32, 64, 128, 256, 320, 320)
    assert features(7, 2) == (32, 64, 128, 256, 512, 512, 512)
    assert features(6, 3, width=16) == (16, 32, 64, 128, 128, 128)


def test_feature_values_are_counted_by_hand():
    plan = topology((1, 1), (8, 8))
    assert plan.strides == ((1, 1), (2, 2))
    # two maps down, the transposed one and two up at 8x8 with 32 features; two at 4x4 with 64; three classes.
    assert feature_values(plan, 3) == 5 * 32 * 64 + 2 * 64 * 16 + 3 * 64


@pytest.mark.parametrize(
    ("spacing", "shape", "cases", "patch", "batch"),
    [
        ((1, 1, 1), (36, 50, 35), 200, (40, 56, 40), 7),  # all of them as nnU-Net 2.8.1 plans them
        ((4.688, 3, 4.688), (59.5, 107.5, 106), 28, (64, 112, 112), 2),
        ((1, 1), (460.5, 512), 54, (512, 512), 2),
        ((1, 1), (256, 320), 94, (256, 320), 5),
    ],
)
def test_patch_and_batch_are_those_of_nnunet(spacing, shape, cases, patch, batch):
    plan = fitted(spacing, shape, 3, 8.0)
    assert plan.patch == patch
    voxels = cases
    for side in shape:
        voxels *= side
    assert batch_size(plan, voxels, 3, 8.0) == batch


def test_less_memory_gives_a_smaller_patch():
    large, small = (fitted((1, 1, 1), (200, 200, 200), 3, memory) for memory in (8, 2))
    assert small.voxels < large.voxels < 200**3


def test_tiny_images_are_padded_until_an_axis_can_be_halved():
    assert len(fitted((1, 1), (5, 6), 2, 8.0).strides) == 2
