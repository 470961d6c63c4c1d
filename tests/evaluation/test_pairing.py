"""Masks are paired by name whatever their format, and pairs that do not belong together are refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mambino.core.labels import Labels
from mambino.errors import DataError
from mambino.evaluation.pairing import Pair, Structures, pair_up, read_pair

ONE = Structures(Labels(names={"one": (1,)}))


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


def volume(path: Path, shape: tuple[int, ...], *, spacing: float = 1.0, origin: float = 0.0) -> Path:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), affine), path)
    return path


def test_names_are_paired_without_their_suffixes_and_endings(tmp_path):
    made = folder(tmp_path / "made", "a.nii.gz", "b.png", "c.png", "predict.json", ".part-a.png")
    true = folder(tmp_path / "true", "a.nii.gz", "b_mask.tif", "d.png", "readme.txt")
    pairs, missing, extra = pair_up(made, true)
    assert [(p.case, p.prediction.name, p.truth.name) for p in pairs] == [
        ("a", "a.nii.gz", "a.nii.gz"),
        ("b", "b.png", "b_mask.tif"),
    ]
    assert (missing, extra) == (("d",), ("c",))


def test_folders_that_cannot_be_paired_are_refused(tmp_path):
    good = folder(tmp_path / "good", "a.png")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        pair_up(tmp_path / "nowhere", good)
    with pytest.raises(DataError, match="text holds no masks"):
        pair_up(folder(tmp_path / "text", "a.txt"), good)
    with pytest.raises(DataError, match="no case has a mask in both folders: 1 predictions such as b, 1 truths"):
        pair_up(folder(tmp_path / "other", "b.png"), good)
    with pytest.raises(DataError, match=r"holds two masks of a: a\.nii\.gz, a\.png"):
        pair_up(folder(tmp_path / "twice", "a.png", "a.nii.gz"), good)
    with pytest.raises(DataError, match=r"case a has two masks: a\.png and a_mask\.png"):
        pair_up(good, folder(tmp_path / "masks", "a.png", "a_mask.png"))


def test_masks_of_two_shapes_are_refused(tmp_path):
    pair = Pair("a", volume(tmp_path / "made.nii.gz", (4, 5, 6)), volume(tmp_path / "true.nii.gz", (4, 5, 7)))
    with pytest.raises(DataError, match=r"case a: the prediction has \(6, 5, 4\) voxels, the truth \(7, 5, 4\)"):
        read_pair(pair, ONE)


def test_masks_in_two_places_are_refused_and_rounding_is_not(tmp_path):
    true = volume(tmp_path / "true.nii.gz", (4, 5, 6))
    near = volume(tmp_path / "near.nii.gz", (4, 5, 6), origin=0.001)
    assert read_pair(Pair("a", near, true), ONE).grid.spacing == (1, 1, 1)
    far = volume(tmp_path / "far.nii.gz", (4, 5, 6), spacing=2.0, origin=30)
    expected = (
        r"case a: prediction and truth lie in different places: 2x2x2 mm at \(30, 30, 30\) and 1x1x1 mm at \(0, 0, 0\)"
    )
    with pytest.raises(DataError, match=expected):
        read_pair(Pair("a", far, true), ONE)


def test_stored_values_may_be_codes_on_one_side(tmp_path):
    for name, value in (("made", 1), ("true", 255)):
        Picture.fromarray(np.full((3, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    codes = Structures(ONE.labels, {"255": 1}, (None, {"255": 1}))
    masks = read_pair(Pair("a", tmp_path / "made.png", tmp_path / "true.png"), codes)
    assert (masks.prediction == masks.truth).all()
    both = read_pair(Pair("a", tmp_path / "true.png", tmp_path / "true.png"), codes)
    assert (both.prediction == 1).all()
