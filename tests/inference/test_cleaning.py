"""Pieces and holes of structures, against the definition voxel by voxel."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.grid import Grid, pixel_grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.errors import OptionError
from mambino.inference import predict
from mambino.inference.cleaning import check_cleaning, cleaned
from mambino.weights.bundle import save
from tests.tiny import know, tiny_bundle, tiny_config

LABELS = Labels(names={"liver": (1,), "spleen": (2,)})
REGIONS = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))


def segmentation(array, spacing=None):
    return Segmentation(np.asarray(array, np.uint8), pixel_grid(np.shape(array), spacing), LABELS)


def pieces(inside):
    """Group voxels that touch, by walking from each to its neighbours."""
    left, found = set(map(tuple, np.argwhere(inside))), []
    while left:
        piece, open_ = set(), [left.pop()]
        while open_:
            here = open_.pop()
            piece.add(here)
            near = {other for other in left if max(abs(a - b) for a, b in zip(here, other, strict=True)) == 1}
            left -= near
            open_ += near
        found.append(piece)
    return found


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.5), least=st.integers(0, 6), dim=st.sampled_from([2, 3]))
@settings(max_examples=40, deadline=None)
def test_what_stays_are_the_pieces_that_the_definition_keeps(seed, share, least, dim):
    random = np.random.default_rng(seed)
    array = np.where(random.random((7,) * dim) < share, random.integers(1, 3, (7,) * dim), 0)
    found = cleaned(segmentation(array), PredictOptions(smallest=(f"liver={least}",), largest=("spleen",))).array
    livers = [piece for piece in pieces(array == 1) if len(piece) >= least]
    assert set(map(tuple, np.argwhere(found == 1))) == set().union(*livers)
    spleens = pieces(array == 2)
    kept = set(map(tuple, np.argwhere(found == 2)))
    assert kept in spleens if spleens else not kept
    assert len(kept) == max(map(len, spleens), default=0)


def test_holes_are_filled_and_other_structures_left_in_them():
    array = np.zeros((7, 9), int)
    array[1:6, 1:6] = 1
    array[2:5, 2:5] = 0
    array[3, 3] = 2
    found = cleaned(segmentation(array), PredictOptions(fill=("all",))).array
    wanted = array.copy()
    wanted[2:5, 2:5] = 1
    wanted[3, 3] = 2
    assert np.array_equal(found, wanted)


def test_sizes_are_millilitres_square_millimetres_or_pixels():
    array = np.zeros((12, 12, 12), int)
    array[:5, :5, :5], array[10:, 10:, 10:] = 1, 1
    volume = segmentation(array, (2.0, 2.0, 2.0))  # 1 ml and 0.064 ml
    assert (cleaned(volume, PredictOptions(smallest=("liver=0.9",))).array == 1).sum() == 125
    assert (cleaned(volume, PredictOptions(smallest=("all=1.1",))).array == 1).sum() == 0
    flat = segmentation(array[0], (2.0, 2.0))  # 100 square mm
    assert cleaned(flat, PredictOptions(smallest=("liver=99",))).array.any()
    assert not cleaned(flat, PredictOptions(smallest=("liver=101",))).array.any()
    assert cleaned(segmentation(array[0]), PredictOptions(smallest=("liver=25",))).array.any()


def test_without_options_the_mask_is_the_same_object():
    mask = segmentation(np.eye(4))
    assert cleaned(mask, PredictOptions()) is mask


@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        ({"largest": ("kidney",)}, LABELS, "--largest kidney: the bundle has no structure of this name; it has liver"),
        ({"fill": ("edge",)}, REGIONS, "--fill edge: the bundle has no structure of this name; it has whole, core"),
        ({"smallest": ("liver",)}, LABELS, "--smallest liver is no name with a volume"),
        ({"smallest": ("liver=-1",)}, LABELS, "--smallest liver=-1 is no name with a volume"),
    ],
)
def test_what_cannot_be_cleaned_is_refused(options, labels, words):
    with pytest.raises(OptionError, match=words):
        check_cleaning(PredictOptions(**options), labels)


def test_predict_cleans_and_makes_masks_again_with_other_options(tmp_path, monkeypatch):
    know(monkeypatch)
    save(tiny_bundle(tiny_config(3)), tmp_path / "model.safetensors")
    name = next(iter(tiny_bundle(tiny_config(3)).labels.names))
    voxels = np.full((20, 18, 16), -1, np.float32)
    voxels[2:9, 2:9, 2:9], voxels[14:17, 14:17, 10:13] = 3, 3
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    plain = predict(tmp_path / "model.safetensors", tmp_path / "a.nii.gz", tmp_path / "o")
    before = np.asarray(nibabel.load(plain.entries[0].file).dataobj)
    again = predict(
        tmp_path / "model.safetensors",
        tmp_path / "a.nii.gz",
        tmp_path / "o",
        PredictOptions(largest=("all",), overwrite=True),
    )
    assert again.entries[0].status == "made"
    after = np.asarray(nibabel.load(again.entries[0].file).dataobj)
    grid = Grid(before.shape, np.eye(4))
    wanted = cleaned(Segmentation(before, grid, Labels(names={name: (1,)})), PredictOptions(largest=(name,)))
    assert np.array_equal(after, wanted.array)
    assert after.sum() < before.sum()


BRATS = Labels(names={"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, paint=(1, 2, 3))


def of_regions(rows, labels=BRATS):
    array = np.array([[int(c) for c in row] for row in rows], np.uint8)
    return Segmentation(array, pixel_grid(array.shape), labels)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The small piece of the whole goes with all that is in it; the core and what it holds stay two pieces.
        ({"largest": ("whole",)}, ["111111000", "123112000", "111111000"]),
        # Small cores become whole, with the enhancing part inside them.
        ({"largest": ("core",)}, ["111111000", "123111011", "111111000"]),
        ({"smallest": ("core=2",)}, ["111111000", "123111011", "111111000"]),
        ({"largest": ("enhancing",)}, ["111111000", "123112012", "111111000"]),
        ({"smallest": ("enhancing=2",)}, ["111111000", "122112012", "111111000"]),
    ],
)
def test_what_leaves_a_region_leaves_those_inside_it_and_stays_in_those_round_it(options, expected):
    given = of_regions(["111111000", "123112013", "111111000"])
    assert cleaned(given, PredictOptions(**options)).array.tolist() == of_regions(expected).array.tolist()


def test_holes_of_a_region_are_filled_whatever_they_are_made_of():
    given = of_regions(["11111", "12221", "12021", "12221", "11111"])
    filled = {name: cleaned(given, PredictOptions(fill=(name,))).array[2, 2] for name in ("whole", "core", "all")}
    assert filled == {"whole": 1, "core": 2, "all": 2}  # with all, the whole takes the voxel, then the core round it
