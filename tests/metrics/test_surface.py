"""Surface distances obey the laws of distances, and equal MONAI (voxel) and surface-distance (surfel)."""

import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mambino.errors import OptionError, ShapeError
from mambino.imageio import read_image
from mambino.metrics import surface
from mambino.metrics.surface import hausdorff, percentile_distance, share_within, surface_dice, surface_distances
from tests.places import DATA, needs_shared

BOTH = pytest.mark.parametrize("definition", ["voxel", "surfel"])
DIMS = st.sampled_from([(7, 8), (4, 5, 6)])
PAIRS = DATA / "awkward" / "metrics"

# surface-distance 0.1 (DeepMind): 95th and 100th percentile (mm), share within 1 and 2 mm.
RECORDED = [
    ("glioma_model_a", "glioma_consensus", 1, (1.0, 2.44949, 0.984622, 0.999681)),
    ("glioma_model_a", "glioma_consensus", 2, (1.0, 2.0, 0.99811, 1.0)),
    ("glioma_model_b", "glioma_consensus", 1, (1.414214, 3.741657, 0.928321, 0.989541)),
    ("spine_pred", "spine_ref", 26, (0.58594, 3.351615, 0.972748, 0.987555)),
    ("spine_pred", "spine_ref", 42, (0.828644, 3.402448, 0.956945, 0.984535)),
    ("spine_pred", "spine_ref", 43, (1.17188, 26.204034, 0.950768, 0.963151)),
]


def blobs(shape: tuple[int, ...], seed: int, threshold: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth masks that overlap in part; never empty."""
    random = np.random.default_rng(seed)
    common, first, second = (ndimage.gaussian_filter(random.normal(size=shape), 1.2) for _ in range(3))
    fields = [common + 0.5 * first, common + 0.5 * second]
    return tuple(field >= np.quantile(field, 1 - threshold) for field in fields)


def pair(made: str, true: str, number: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """A structure of two real segmentations of one image, cut to its box, with the spacing (mm)."""
    first, second = read_image(PAIRS / f"{made}.nii.gz"), read_image(PAIRS / f"{true}.nii.gz")
    masks = first.array[0] == number, second.array[0] == number
    box = ndimage.find_objects((masks[0] | masks[1]).astype(int))[0]
    return masks[0][box], masks[1][box], second.grid.spacing


@BOTH
@given(shape=DIMS, seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_swapping_the_masks_changes_nothing(definition, shape, seed):
    (a, b), spacing = blobs(shape, seed), (1.5, 0.7, 1.1)[: len(shape)]
    there = hausdorff(a, b, spacing, definition=definition), surface_dice(a, b, spacing, 1.0, definition=definition)
    back = hausdorff(b, a, spacing, definition=definition), surface_dice(b, a, spacing, 1.0, definition=definition)
    assert there == pytest.approx(back)


@BOTH
@given(shape=DIMS, seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_a_mask_is_no_distance_from_itself(definition, shape, seed):
    a, _ = blobs(shape, seed)
    assert hausdorff(a, a, (1.0,) * a.ndim, 100, definition=definition) == 0
    assert surface_dice(a, a, (1.0,) * a.ndim, 0, definition=definition) == 1


@BOTH
@given(shape=DIMS, seed=st.integers(0, 5000), factor=st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=20, deadline=None)
def test_distances_grow_with_the_spacing(definition, shape, seed, factor):
    (a, b), spacing = blobs(shape, seed), (1.5, 0.7, 1.1)[: len(shape)]
    wider = tuple(factor * s for s in spacing)
    distance, further = (hausdorff(a, b, s, definition=definition) for s in (spacing, wider))
    assert further == pytest.approx(factor * distance)
    near, wide = (surface_dice(a, b, s, t, definition=definition) for s, t in ((spacing, 1.0), (wider, factor)))
    assert wide == pytest.approx(near)


@BOTH
@given(shape=DIMS, seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_empty_space_round_the_masks_changes_nothing(definition, shape, seed):
    (a, b), spacing = blobs(shape, seed), (1.5, 0.7, 1.1)[: len(shape)]
    expected = hausdorff(a, b, spacing, definition=definition)
    assert hausdorff(np.pad(a, 3), np.pad(b, 3), spacing, definition=definition) == pytest.approx(expected)


@given(seed=st.integers(0, 5000), axes=st.permutations([0, 1, 2]))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_axes_changes_nothing_for_voxels(seed, axes):
    (a, b), spacing = blobs((4, 5, 6), seed), (1.5, 0.7, 1.1)
    turned = a.transpose(axes), b.transpose(axes), tuple(spacing[i] for i in axes)
    assert hausdorff(*turned) == pytest.approx(hausdorff(a, b, spacing))


@BOTH
@given(seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_percentiles_and_shares_never_fall(definition, seed):
    found = surface_distances(*blobs((7, 8), seed), (1.5, 0.7), definition=definition)
    distances = [percentile_distance(found, p) for p in (0, 50, 95, 100)]
    shares = [share_within(found, t) for t in (0, 1, 2, 100)]
    assert distances == sorted(distances)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@BOTH
def test_trees_and_distance_transforms_agree(definition, monkeypatch):
    a, b = blobs((12, 20, 20), 3)
    results = []
    for limit in (0.0, 1.0):
        monkeypatch.setattr(surface, "_SPECKLED", limit)
        found = surface_distances(a, b, (2.5, 0.8, 0.8), definition=definition)
        results.append((found.forward, found.backward))
    np.testing.assert_allclose(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1])


def test_two_points_are_as_far_as_a_ruler_says():
    a, b = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    a[1, 2, 2], b[4, 2, 6] = True, True
    assert hausdorff(a, b, (2.0, 1.0, 2.0)) == pytest.approx(10)
    assert surface_dice(a, b, (2.0, 1.0, 2.0), 10) == 1
    assert surface_dice(a, b, (2.0, 1.0, 2.0), 9.99) == 0


def test_a_tolerance_that_equals_the_distance_is_kept_in_spite_of_rounding():
    a, b = np.zeros((1, 9), bool), np.zeros((1, 9), bool)
    a[0, 1], b[0, 4] = True, True
    assert surface_dice(a, b, (1.0, 0.7), 2.1) == 1


def test_the_inside_of_a_mask_is_no_surface():
    a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    a[1:8, 1:8] = b[1:8, 1:8] = True
    b[4, 4] = False
    # 4 of the 24 + 4 voxels at the border of b stand 2 pixels from the border of a; a has none of its own.
    found = surface_distances(a, b, (1.0, 1.0))
    assert (found.forward.size, found.backward.size) == (24, 28)
    assert share_within(found, 1) == pytest.approx(48 / 52)


@BOTH
def test_empty_masks_follow_the_rule(definition):
    empty, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    spacing = (1.0, 1.0)
    assert hausdorff(empty, empty, spacing, definition=definition) is None
    assert surface_dice(empty, empty, spacing, 1, definition=definition) is None
    for first, second in ((empty, some), (some, empty)):
        assert hausdorff(first, second, spacing, definition=definition) == np.inf
        assert surface_dice(first, second, spacing, 1, definition=definition) == 0


def test_wrong_arguments_are_refused():
    mask = np.ones((3, 3), bool)
    with pytest.raises(OptionError, match=r"spacing needs 2 positive entries, got \(1.0,\)"):
        hausdorff(mask, mask, (1.0,))
    with pytest.raises(OptionError, match=r"spacing needs 2 positive entries, got \(1.0, 0.0\)"):
        hausdorff(mask, mask, (1.0, 0.0))
    with pytest.raises(OptionError, match="a percentile lies between 0 and 100, got 101"):
        hausdorff(mask, mask, (1.0, 1.0), 101)
    with pytest.raises(ShapeError, match="two masks of one shape"):
        hausdorff(mask, mask[:2], (1.0, 1.0))


def monai(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float, float]:
    """MONAI's HD95, NSD by voxels and NSD by surfels."""
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    first, second = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (a, b))
    common = {"include_background": True, "spacing": list(spacing)}
    distance = metrics.compute_hausdorff_distance(first, second, percentile=95, **common)
    shares = (
        metrics.compute_surface_dice(first, second, [tolerance], use_subvoxels=fine, **common) for fine in (False, True)
    )
    return float(distance), *map(float, shares)


@pytest.mark.parametrize(("shape", "seed"), list(product([(20, 24), (10, 16, 18)], range(4))))
def test_masks_score_as_in_monai(shape, seed):
    (a, b), spacing = blobs(shape, seed), (2.5, 0.8, 1.1)[: len(shape)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance, voxels, surfels = monai(a, b, spacing, 1.3)
    assert hausdorff(a, b, spacing) == pytest.approx(distance, rel=1e-5)
    assert surface_dice(a, b, spacing, 1.3) == pytest.approx(voxels, abs=1e-6)
    assert surface_dice(a, b, spacing, 1.3, definition="surfel") == pytest.approx(surfels, abs=1e-6)


@needs_shared
@pytest.mark.parametrize(("made", "true", "number", "expected"), RECORDED)
def test_real_pairs_score_as_recorded_from_surface_distance(made, true, number, expected):
    found = surface_distances(*pair(made, true, number), definition="surfel")
    values = [
        percentile_distance(found, 95),
        percentile_distance(found, 100),
        *(share_within(found, t) for t in (1, 2)),
    ]
    assert values == pytest.approx(expected, abs=2e-6)


@needs_shared
@pytest.mark.parametrize(("made", "true", "number"), [row[:3] for row in RECORDED])
def test_real_pairs_score_as_in_monai(made, true, number):
    a, b, spacing = pair(made, true, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance, voxels, surfels = monai(a, b, spacing, 2.0)
    assert hausdorff(a, b, spacing) == pytest.approx(distance, rel=1e-5)
    assert surface_dice(a, b, spacing, 2.0) == pytest.approx(voxels, abs=1e-6)
    assert surface_dice(a, b, spacing, 2.0, definition="surfel") == pytest.approx(surfels, abs=1e-6)
