"""Windows cover every voxel, and blending them changes nothing that they agree on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from mambino.errors import OptionError, ShapeError
from mambino.ops.windows import blend, gaussian, positions
from tests.close import assert_close

LAWS = settings(max_examples=40, deadline=None)


@st.composite
def tilings(draw):
    dim = draw(st.integers(2, 3))
    sides = st.lists(st.integers(1, 17), min_size=dim, max_size=dim).map(tuple)
    patches = st.lists(st.integers(1, 9), min_size=dim, max_size=dim).map(tuple)
    return draw(sides), draw(patches), draw(st.floats(0, 0.9))


def voxels(shape, channels=2):
    return np.random.default_rng(0).standard_normal((channels, *shape)).astype(np.float32)


def joined(slabs):
    slabs = list(slabs)
    for before, after in pairwise(slabs):
        assert after.start == before.start + before.scores.shape[1]
    return np.concatenate([np.asarray(slab.scores) for slab in slabs], axis=1)


@given(tiling=tilings())
@LAWS
def test_windows_cover_every_voxel_and_stay_inside(tiling):
    shape, patch, overlap = tiling
    covered = np.zeros(tuple(max(s, p) for s, p in zip(shape, patch, strict=True)), bool)
    for start in positions(shape, patch, overlap):
        window = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        assert covered[window].shape == patch
        covered[window] = True
    assert covered.all()


@given(tiling=tilings())
@LAWS
def test_windows_come_in_order_without_repetition_at_steps_no_longer_than_asked(tiling):
    shape, patch, overlap = tiling
    starts = positions(shape, patch, overlap)
    assert starts == sorted(set(starts))
    for axis, side in enumerate(patch):
        steps = np.diff(sorted({start[axis] for start in starts}))
        assert (steps <= np.ceil(max(side * (1 - overlap), 1))).all()


@given(tiling=tilings(), value=st.floats(-100, 100, width=32), batch=st.integers(1, 4))
@LAWS
def test_blending_a_constant_gives_the_constant(tiling, value, batch):
    shape, patch, overlap = tiling
    whole = joined(blend(lambda x: np.full_like(x[:, :1], value), voxels(shape), patch, overlap, batch=batch))
    assert whole.shape == (1, *shape)
    # Weighted, numbers near the smallest that float32 holds (1e-38) lose digits; no score is that small.
    np.testing.assert_allclose(whole, value, rtol=1e-5, atol=1e-30)


@given(tiling=tilings(), batch=st.integers(1, 4))
@LAWS
def test_a_forward_that_returns_its_input_gives_back_the_array(tiling, batch):
    shape, patch, overlap = tiling
    array = voxels(shape)
    whole = joined(blend(lambda x: x, array, patch, overlap, batch=batch))
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, array, rtol=1e-5, atol=1e-6)


@given(tiling=tilings())
@LAWS
def test_numpy_equals_torch(tiling):
    shape, patch, overlap = tiling
    array = voxels(shape)
    weights = np.arange(1, 1 + np.prod(patch), dtype=np.float32).reshape(patch)
    ours = joined(blend(lambda x: x * weights, array, patch, overlap))
    theirs = list(blend(lambda x: x * torch.from_numpy(weights), torch.from_numpy(array), patch, overlap))
    assert all(isinstance(slab.scores, torch.Tensor) for slab in theirs)
    assert_close(torch.cat([slab.scores for slab in theirs], 1), torch.from_numpy(ours))


def test_the_weighted_mean_is_that_of_the_definition():
    shape, patch = (11, 9), (4, 6)
    array, number = voxels(shape, 1), iter(range(100))
    total, weight = np.zeros(shape), np.zeros(shape)
    for value, (y, x) in enumerate(positions(shape, patch, 0.5)):
        total[y : y + 4, x : x + 6] += value * gaussian(patch)
        weight[y : y + 4, x : x + 6] += gaussian(patch)
    whole = joined(blend(lambda x: np.full_like(x, next(number)), array, patch, 0.5))
    np.testing.assert_allclose(whole[0], total / weight, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "expected"),
    [(100, 40, 0.5, [0, 20, 40, 60]), (101, 40, 0.5, [0, 15, 30, 46, 61]), (40, 40, 0.5, [0]), (30, 40, 0.5, [0]),
     (9, 4, 0, [0, 2, 5])],
)  # fmt: skip
def test_starts_follow_the_rule_of_nnunet(size, patch, overlap, expected):
    assert positions((size,), (patch,), overlap) == [(start,) for start in expected]


@pytest.mark.parametrize("patch", [(8,), (7, 12), (16, 5, 9), (1, 2, 3)])
def test_weights_are_a_gaussian_of_an_eighth_of_the_patch(patch):
    point = np.zeros(patch)
    point[tuple(side // 2 for side in patch)] = 1
    expected = gaussian_filter(point, [side / 8 for side in patch], mode="constant")
    weights = gaussian(patch)
    assert weights.dtype == np.float32
    assert weights.max() == 1
    assert weights.min() > 0
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5, atol=1e-9)


def test_a_slab_comes_as_soon_as_no_further_window_touches_it():
    seen = []
    slabs = blend(lambda x: seen.append(1) or x, voxels((40, 4)), (8, 4), 0.5)
    first = next(slabs)
    assert (len(seen), first.start, first.scores.shape) == (1, 0, (2, 4, 4))
    assert (next(slabs).start, len(seen)) == (4, 2)


def test_an_overlap_can_be_given_for_each_axis():
    assert positions((8, 8), (4, 4), (0, 0.5)) == [(y, x) for y in (0, 4) for x in (0, 2, 4)]


def test_windows_reach_the_network_in_batches():
    sizes = []
    list(blend(lambda x: sizes.append(len(x)) or x, voxels((4, 20)), (4, 4), 0.5, batch=4))
    assert sizes == [4, 4, 1]


def test_an_overlap_out_of_range_is_refused():
    with pytest.raises(OptionError, match=r"share from 0 to below 1, got 1.0"):
        positions((8,), (4,), 1.0)


def test_a_patch_of_other_axes_is_refused():
    with pytest.raises(ShapeError, match=r"a patch of \(4, 4, 4\) needs an array of 4 axes, got \(2, 8, 8\)"):
        next(blend(lambda x: x, voxels((8, 8)), (4, 4, 4)))


def test_a_forward_that_changes_the_size_is_refused():
    with pytest.raises(ShapeError, match=r"a window of \(4, 4\) voxels came back with \(2, 2\)"):
        next(blend(lambda x: x[..., ::2, ::2], voxels((8, 8)), (4, 4)))
