"""A repaired copy checks clean, says what was changed, keeps the rest byte for byte, and leaves the input alone."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import io_orientation

from mambino.core.findings import Findings
from mambino.core.grid import Grid, pixel_grid
from mambino.errors import DataError, FileFormatError, MambinoWarning, OptionError
from mambino.inspection import repair
from mambino.inspection.repair import filled, moved, translated
from tests.inspection.planting import (
    AFFINE,
    change,
    contents,
    describe,
    draw,
    found,
    kinds,
    move,
    pictures,
    repaired,
    save,
    volumes,
)


def mend(folder: Path, copy: Path) -> Findings:
    """Repair, and hold the copy and the input to what every repair promises."""
    before = contents(folder)
    findings = repaired(folder, copy)
    assert contents(folder) == before
    assert findings.copy == copy
    again = found(copy)
    assert again.errors == 0, again
    assert not [path for path in copy.parent.iterdir() if path.name.startswith(".part-")]
    return findings


def voxels(path: Path) -> np.ndarray:
    if path.name.endswith(".nii.gz"):
        return np.asarray(nib.load(path).dataobj)
    with PIL.Image.open(path) as picture:
        return np.array(picture)


def said(findings: Findings, words: str) -> bool:
    return any(re.search(words, text) for text in findings.repaired)


def test_a_clean_data_set_is_copied_byte_for_byte(tmp_path):
    folder = volumes(tmp_path / "set")
    findings = mend(folder, tmp_path / "copy")
    assert findings.repaired == ()
    old, new = contents(folder), contents(tmp_path / "copy")
    assert {name: data for name, data in old.items() if name != "dataset.json"} == {
        name: data for name, data in new.items() if name != "dataset.json"
    }


@pytest.mark.parametrize("number", [0, 255])
def test_black_and_white_masks_become_label_numbers(number, tmp_path):
    folder = pictures(tmp_path / "set")
    truth = voxels(folder / "labelsTr/Tr_1.png")
    change(folder / "labelsTr/Tr_1.png", lambda a: a * 255)
    findings = mend(folder, tmp_path / "copy")
    assert findings.repaired == ("Tr_1: the mask was translated: 255 to 1",)
    np.testing.assert_array_equal(voxels(tmp_path / "copy/labelsTr/Tr_1.png"), truth)
    same = f"labelsTr/Tr_{2 if number else 0}.png"
    assert (tmp_path / "copy" / same).read_bytes() == (folder / same).read_bytes()


def test_colours_become_label_numbers(tmp_path):
    labels = {"background": 0, "one": 1, "two": 2}
    folder = pictures(tmp_path / "set", labels=labels)
    for part in ("Tr", "Ts"):
        for path in (folder / f"labels{part}").iterdir():
            mask = voxels(path) * 2
            mask[:3] = 1
            colours = np.array([[0, 0, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
            draw(path, colours[mask])
    findings = mend(folder, tmp_path / "copy")
    assert findings.errors == 7
    assert said(findings, r"Tr_1: the mask was translated: \(0, 0, 255\) to 1, \(255, 255, 255\) to 2")
    mask = voxels(tmp_path / "copy/labelsTr/Tr_1.png")
    assert (mask[:3] == 1).all()
    assert mask[10, 12] == 2


def test_noisy_masks_get_back_their_label_numbers(tmp_path):
    folder = pictures(tmp_path / "set")
    truth = voxels(folder / "labelsTr/Tr_1.png")
    draw(tmp_path / "noisy.jpg", truth * np.uint8(255), quality=70)
    draw(folder / "labelsTr/Tr_1.png", voxels(tmp_path / "noisy.jpg"))
    findings = mend(folder, tmp_path / "copy")
    assert said(findings, r"Tr_1: the \d+ values of the mask became 2 label numbers")
    np.testing.assert_array_equal(voxels(tmp_path / "copy/labelsTr/Tr_1.png"), truth)


def test_a_data_set_of_jpeg_files_becomes_png(tmp_path):
    folder = pictures(tmp_path / "set", ending=".jpg")
    for part in ("Tr", "Ts"):
        for path in (folder / f"labels{part}").iterdir():
            truth = np.zeros((24, 32), np.uint8)
            truth[6:18, 8:20] = 255
            draw(path, truth, quality=60)
    findings = mend(folder, tmp_path / "copy")
    assert findings.errors == 7
    copy = tmp_path / "copy"
    assert json.loads((copy / "dataset.json").read_text())["file_ending"] == ".png"
    np.testing.assert_array_equal(voxels(copy / "imagesTr/Tr_1_0000.png"), voxels(folder / "imagesTr/Tr_1_0000.jpg"))
    assert np.unique(voxels(copy / "labelsTr/Tr_1.png")).tolist() == [0, 1]


def test_whole_numbers_stored_as_floats_become_integers(tmp_path):
    folder = volumes(tmp_path / "set")
    truth = voxels(folder / "labelsTr/Tr_1.nii.gz")
    change(folder / "labelsTr/Tr_1.nii.gz", lambda a: a, np.float64)
    change(folder / "labelsTr/Tr_2.nii.gz", lambda a: a + 0.003, np.float32)
    findings = mend(folder, tmp_path / "copy")
    assert "Tr_1: the mask stores whole numbers as integers" in findings.repaired
    assert said(findings, "Tr_2: the mask was translated: 0.003 to 0, 1.003 to 1, 2.003 to 2")
    stored = nib.load(tmp_path / "copy/labelsTr/Tr_1.nii.gz")
    assert stored.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(stored.dataobj, truth)
    np.testing.assert_array_equal(stored.affine, AFFINE)


def test_numbers_with_gaps_are_renumbered(tmp_path):
    labels = {"background": 0, "head": 2, "tail": 7, "ignore": 9}
    folder = volumes(tmp_path / "set", labels=labels)
    for part in ("Tr", "Ts"):
        for path in (folder / f"labels{part}").iterdir():
            change(path, lambda a: np.array([0, 2, 7], np.uint8)[a])
    findings = mend(folder, tmp_path / "copy")
    assert said(findings, "labels: 2 became 1, 7 became 2, 9 became 3")
    facts = json.loads((tmp_path / "copy/dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "head": 1, "tail": 2, "ignore": 3}
    old, new = (voxels(place / "labelsTr/Tr_1.nii.gz") for place in (folder, tmp_path / "copy"))
    np.testing.assert_array_equal(np.array([0, 2, 7])[new], old)


def test_regions_with_gaps_keep_their_order(tmp_path):
    labels = {"background": 0, "whole": [1, 3], "core": [3]}
    folder = volumes(tmp_path / "set", labels=labels)
    facts = json.loads((folder / "dataset.json").read_text()) | {"regions_class_order": [1, 3]}
    (folder / "dataset.json").write_text(json.dumps(facts))
    for part in ("Tr", "Ts"):
        for path in (folder / f"labels{part}").iterdir():
            change(path, lambda a: np.array([0, 1, 3], np.uint8)[a])
    mend(folder, tmp_path / "copy")
    facts = json.loads((tmp_path / "copy/dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "whole": [1, 2], "core": 2}
    assert facts["regions_class_order"] == [1, 2]


def test_a_mask_that_is_barely_off_gets_the_grid_of_its_image(tmp_path):
    folder = volumes(tmp_path / "set")
    move(folder / "labelsTr/Tr_1.nii.gz", AFFINE + np.eye(4, k=3) * 0.4)
    findings = mend(folder, tmp_path / "copy")
    assert said(
        findings, r"Tr_1: the mask has the grid of the image now \(first voxel at \(0, 0, 0\) and \(0.4, 0, 0\)"
    )
    mask, image = (nib.load(tmp_path / "copy" / name) for name in ("labelsTr/Tr_1.nii.gz", "imagesTr/Tr_1_0000.nii.gz"))
    np.testing.assert_array_equal(mask.affine, image.affine)
    np.testing.assert_array_equal(mask.dataobj, voxels(folder / "labelsTr/Tr_1.nii.gz"))


def test_a_mask_stored_in_another_orientation_is_laid_on_its_image(tmp_path):
    folder = volumes(tmp_path / "set")
    path = folder / "labelsTr/Tr_1.nii.gz"
    truth = voxels(path)
    turned = nib.load(path).as_reoriented(io_orientation(np.diag([-1.0, -1.0, 1.0, 1.0])))
    array, affine = np.asarray(turned.dataobj), turned.affine
    path.unlink()
    save(path, array, affine)
    findings = mend(folder, tmp_path / "copy")
    assert said(findings, "Tr_1: the mask was resampled")
    np.testing.assert_array_equal(voxels(tmp_path / "copy/labelsTr/Tr_1.nii.gz"), truth)


def test_a_mask_of_finer_voxels_is_resampled_to_its_image(tmp_path):
    folder = volumes(tmp_path / "set")
    path = folder / "labelsTr/Tr_1.nii.gz"
    truth = voxels(path)
    fine = AFFINE @ np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    fine[:3, 3] = AFFINE[:3, :3] @ np.full(3, -1 / 3)
    save(path, truth.repeat(3, 0).repeat(3, 1).repeat(3, 2), fine)
    findings = mend(folder, tmp_path / "copy")
    assert said(findings, r"Tr_1: the mask was resampled from \(24, 30, 36\) to the \(8, 10, 12\) voxels")
    np.testing.assert_array_equal(voxels(tmp_path / "copy/labelsTr/Tr_1.nii.gz"), truth)


def test_masks_whose_place_nobody_knows_are_left_out(tmp_path):
    folder = volumes(tmp_path / "set")
    move(folder / "labelsTr/Tr_1.nii.gz", AFFINE + np.eye(4, k=3) * 50)
    change(folder / "labelsTr/Tr_2.nii.gz", lambda a: a[:6])
    findings = mend(folder, tmp_path / "copy")
    assert said(findings, r"Tr_1: left out: not repairable: .*first voxel at \(0, 0, 0\) and \(50, 0, 0\) mm")
    assert said(findings, r"Tr_2: left out: not repairable: the image has \(8, 10, 12\) voxels, its mask \(8, 10, 6\)")
    assert not list((tmp_path / "copy").rglob("Tr_[12]*"))


def test_pictures_of_another_size_are_not_guessed_at(tmp_path):
    folder = pictures(tmp_path / "set")
    change(folder / "labelsTr/Tr_1.png", lambda a: a[:-1])
    assert said(mend(folder, tmp_path / "copy"), "Tr_1: left out: not repairable")


def test_voxels_that_are_not_finite_get_the_smallest_value(tmp_path):
    folder = volumes(tmp_path / "set")
    path = folder / "imagesTr/Tr_1_0000.nii.gz"

    def poison(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32) + 5
        array[0, 0, :3] = np.nan, np.inf, -np.inf
        return array

    change(path, poison)
    findings = mend(folder, tmp_path / "copy")
    assert "Tr_1: 3 voxels that were not finite have the smallest value of their channel" in findings.repaired
    old, new = voxels(path), voxels(tmp_path / "copy/imagesTr/Tr_1_0000.nii.gz")
    assert (new[0, 0, :3] == old[np.isfinite(old)].min()).all()
    np.testing.assert_array_equal(new[np.isfinite(old)], old[np.isfinite(old)])
    assert new.dtype == np.float32
    np.testing.assert_array_equal(nib.load(tmp_path / "copy/imagesTr/Tr_1_0000.nii.gz").affine, AFFINE)


def test_later_copies_and_leaked_cases_are_left_out(tmp_path):
    folder = volumes(tmp_path / "set")
    shutil.copyfile(folder / "imagesTr/Tr_0_0000.nii.gz", folder / "imagesTr/Tr_3_0000.nii.gz")
    shutil.copyfile(folder / "imagesTs/Ts_1_0000.nii.gz", folder / "imagesTr/Tr_4_0000.nii.gz")
    findings = mend(folder, tmp_path / "copy")
    assert "Tr_3: left out: it is the same image as Tr_0" in findings.repaired
    assert "Tr_4: left out: it is the test image Ts_1" in findings.repaired
    facts = json.loads((tmp_path / "copy/dataset.json").read_text())
    assert facts["numTraining"] == len(list((tmp_path / "copy/imagesTr").iterdir())) == 3
    assert kinds(found(tmp_path / "copy")) == set()


def test_what_cannot_be_read_or_paired_or_understood_is_left_out(tmp_path):
    folder = volumes(tmp_path / "set")
    (folder / "imagesTr/Tr_0_0000.nii.gz").write_bytes(b"")
    (folder / "labelsTr/Tr_1.nii.gz").unlink()
    change(folder / "labelsTr/Tr_2.nii.gz", lambda a: a * 3)
    findings = mend(folder, tmp_path / "copy")
    assert "Tr_0: left out: Tr_0_0000.nii.gz cannot be read" in findings.repaired
    assert said(findings, "Tr_1: left out: case Tr_1 has an image and no mask")
    assert said(
        findings, "Tr_2: left out: not repairable: the mask holds 3, 6 .*declare what they mean in dataset.json"
    )


def test_cases_of_another_kind_are_left_out(tmp_path):
    folder = pictures(tmp_path / "set")
    draw(folder / "imagesTr/Tr_0_0000.png", np.zeros((24, 32, 3), np.uint8) + np.arange(3, dtype=np.uint8))
    assert said(mend(folder, tmp_path / "copy"), "Tr_0: left out: it has 3 channels instead of 1")
    folder = volumes(tmp_path / "volumes")
    for name in ("imagesTr/Tr_0_0000.nii.gz", "labelsTr/Tr_0.nii.gz"):
        save(folder / name, np.ones((5, 4), np.int16))
    change(folder / "labelsTr/Tr_1.nii.gz", lambda a: np.where(a == 1, np.nan, a), np.float32)
    findings = mend(folder, tmp_path / "copy of volumes")
    assert said(findings, "Tr_0: left out: it has 2 axes instead of 3")
    assert said(findings, r"Tr_1: left out: \d+ voxels of its mask are not finite")


def test_a_volume_with_channels_along_its_fourth_axis_is_split(tmp_path):
    folder = tmp_path / "plain"
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 99, (6, 5, 4, 2), np.int16)
        save(folder / f"images/{number}.nii.gz", array)
        save(folder / f"labels/{number}.nii.gz", (array[..., 0] > 50).astype(np.uint8))
    with pytest.warns(MambinoWarning, match="fourth axis becomes 2 channels"):
        mend(folder, tmp_path / "copy")
    first, second = (voxels(tmp_path / f"copy/imagesTr/0_000{n}.nii.gz") for n in range(2))
    np.testing.assert_array_equal(np.stack([first, second], -1), voxels(folder / "images/0.nii.gz"))


def test_channels_on_different_grids_are_left_out(tmp_path):
    folder = volumes(tmp_path / "set")
    describe(folder, {"0": "T1", "1": "T2"}, {"background": 0, "head": 1, "tail": 2}, ".nii.gz")
    for part in ("Tr", "Ts"):
        for path in (folder / f"images{part}").glob("*_0000.nii.gz"):
            shutil.copyfile(path, path.parent / path.name.replace("_0000", "_0001"))
    move(folder / "imagesTr/Tr_2_0001.nii.gz", AFFINE + np.eye(4, k=3))
    assert said(mend(folder, tmp_path / "copy"), "Tr_2: left out: its channels lie on different grids")


def test_a_plain_folder_becomes_the_raw_layout(tmp_path):
    folder = tmp_path / "plain"
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        draw(folder / f"images/p{number}.jpg", picture)
        draw(folder / f"masks/p{number}_mask.png", (picture[..., 0] > 128).astype(np.uint8) * 255)
    (folder / "cases.csv").write_text("case,patient\np0,a\np1,a\np2,b\n")
    mend(folder, tmp_path / "copy")
    facts = json.loads((tmp_path / "copy/dataset.json").read_text())
    assert facts == {
        "name": "plain",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": 3,
        "file_ending": ".png",
        "patients": {"p0": "a", "p1": "a", "p2": "b"},
    }
    np.testing.assert_array_equal(voxels(tmp_path / "copy/imagesTr/p0_0000.png"), voxels(folder / "images/p0.jpg"))


def test_nothing_is_left_when_writing_fails_half_way(tmp_path, monkeypatch):
    folder = volumes(tmp_path / "set")

    def full(source: Path, to: Path) -> None:
        if source.name.startswith("Tr_3"):
            raise OSError(28, "No space left on device")
        to.write_bytes(source.read_bytes())

    monkeypatch.setattr(repair.shutil, "copyfile", full)
    with pytest.raises(FileFormatError, match="No space left on device"):
        repaired(folder, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_copy_beside_a_file_is_refused(tmp_path):
    folder = volumes(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match=r"copy cannot be written"):
        repaired(folder, tmp_path / "file" / "copy")


def test_the_copy_never_goes_into_the_data_set_or_over_something(tmp_path):
    folder = volumes(tmp_path / "set")
    for place in (folder, folder / "copy", tmp_path):
        with pytest.raises(OptionError, match="lie in one another"):
            repaired(folder, place)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("a")
    with pytest.raises(OptionError, match="it is not empty"):
        repaired(folder, tmp_path / "full")
    with pytest.raises(OptionError, match="it is a file"):
        repaired(folder, tmp_path / "full/a.txt")
    (tmp_path / "empty").mkdir()
    mend(folder, tmp_path / "empty")


def test_a_data_set_beyond_repair_is_refused(tmp_path):
    folder = volumes(tmp_path / "set")
    for path in (folder / "labelsTr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 5 training cases of .* Tr_0, say: Tr_0.nii.gz cannot be read"):
        repaired(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_moving_numbers_to_their_own_grid_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, rng.integers(2, 4)).tolist())
    affine = np.eye(len(shape) + 1) + rng.normal(0, 0.2, [len(shape) + 1] * 2)
    affine[-1] = np.eye(len(shape) + 1)[-1]
    grid = Grid(shape, affine)
    numbers = rng.integers(0, 4, shape)
    np.testing.assert_array_equal(moved(numbers, grid, grid), numbers)
    np.testing.assert_array_equal(moved(np.flip(numbers, 0), grid.flip(0), grid), numbers)


def test_nothing_lies_outside_of_the_mask():
    mask, image = pixel_grid((2, 2), (1.0, 1.0)), pixel_grid((3, 4), (1.0, 1.0))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(moved(np.ones((2, 2), np.int64), mask, image), expected)


def test_translating_covers_values_and_colours():
    grey = np.array([[[0, 128, 255]]])
    assert translated(grey, {(0.0,): 0, (128.0,): 1, (255.0,): 2}).tolist() == [[0, 1, 2]]
    colours = np.array([[[0, 9]], [[0, 8]], [[0, 7]]])
    assert translated(colours, {(0.0, 0.0, 0.0): 0, (9.0, 8.0, 7.0): 3}).tolist() == [[0, 3]]


def test_filling_leaves_nothing_behind_that_is_not_finite():
    array = np.array([[np.nan, 3.0, -2.0, np.inf], [np.nan] * 4])
    np.testing.assert_array_equal(filled(array), [[-2, 3, -2, -2], [0, 0, 0, 0]])
    assert np.isnan(array[0, 0])
