"""One door for all formats: content decides, refusals name the file, and nothing is left half-written."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mambino.core.grid import pixel_grid
from mambino.core.image import Segmentation
from mambino.errors import DataError, FileFormatError
from mambino.imageio import SUFFIXES, mask_suffix, read_image, read_labels, suffix, write_labels, write_scores
from tests.imageio.files import TWO, grey, nifti, png

MASK = Segmentation(np.ones((3, 4, 5), int), pixel_grid((3, 4, 5), (1, 1, 1)), TWO)


@pytest.mark.parametrize(
    ("name", "whole", "mask"),
    [
        ("a.b.NII.GZ", ".nii.gz", ".nii.gz"),
        ("a.nii", ".nii", ".nii.gz"),
        ("a.mgz", ".mgz", ".nii.gz"),
        ("a.nrrd", ".nrrd", ".nii.gz"),
        ("a.JPG", ".jpg", ".png"),
        ("a.png", ".png", ".png"),
        ("a.bmp", ".bmp", ".png"),
        ("a.tif", ".tif", ".tif"),
        ("a.tar.gz", ".gz", ".nii.gz"),
    ],
)
def test_suffixes_are_whole(name, whole, mask):
    assert suffix(Path(name)) == whole
    assert mask_suffix(Path(name)) == mask
    assert (whole in SUFFIXES) == (whole != ".gz")


def test_paths_may_be_text(tmp_path):
    path = str(png(tmp_path / "a.png", grey(1)))
    assert read_image(path).channels == 1
    write_labels(str(tmp_path / "b.png"), read_labels(path, TWO), like=path)
    assert read_labels(str(tmp_path / "b.png"), TWO).array.sum() == 1


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(FileFormatError, match=r"a.nii.gz cannot be read: No such file"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(FileFormatError, match=r"a.nii.gz is empty"):
        read_image(tmp_path / "a.nii.gz")
    with pytest.raises(FileFormatError, match="is a folder, not an image"):
        read_image(tmp_path)
    for name, words in (("a.txt", "format .txt"), ("a", "format without a suffix"), ("a.tar.gz", "format .gz")):
        (tmp_path / name).write_text("words")
        with pytest.raises(FileFormatError, match=f"{name} has the {words}, which is not read") as refusal:
            read_image(tmp_path / name)
        assert ".nii.gz" in refusal.value.hint


def test_an_image_is_no_mask(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.full((3, 4, 5), 0.5, np.float32))
    with pytest.raises(DataError, match=r"a.nii.gz is no mask: it holds 0.5, which is not a whole number"):
        read_labels(path, TWO)


def test_masks_stored_as_floats_or_codes_are_read(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.full((3, 4, 5), 2, np.float64))
    assert read_labels(path, TWO).array.dtype == np.uint8
    assert read_labels(path, TWO, {"2": 1}).array.max() == 1


def write_mask(path):
    write_labels(path, MASK)


def write_floats(path):
    write_scores(path, np.zeros((2, 3, 4, 5), np.float32), MASK.grid)


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_mask, "a.nii.gz"), (write_mask, "a.nii"), (write_floats, "a.npz"), (write_floats, "a.nii.gz")],
)
@pytest.mark.parametrize("older", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, write, name, older):
    if older:
        (tmp_path / name).write_text("older")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open

    def only_to_read(path, mode="r", *more, **named):
        return full() if "w" in mode else opened(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", only_to_read)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(FileFormatError, match=rf"{name} cannot be written: No space left on device") as refusal:
        write(tmp_path / name)
    assert "free some space" in refusal.value.hint
    assert [file.name for file in tmp_path.iterdir()] == [name] * older
    assert not older or (tmp_path / name).read_text() == "older"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mambino.imageio.nifti.slabs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path / "mask.nii.gz", MASK)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(tempfile, "mkstemp", refuse)
        with pytest.raises(FileFormatError, match=r"mask.nii.gz cannot be written: Permission denied"):
            write_labels(tmp_path / "mask.nii.gz", MASK)
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match=r"mask.nii.gz cannot be written: .") as refusal:
        write_labels(tmp_path / "file" / "mask.nii.gz", MASK)
    assert "choose another output folder" in refusal.value.hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileFormatError, match=r"mask.nii.gz cannot be written: Permission denied"):
        write_labels(tmp_path / "mask.nii.gz", MASK)


def test_folders_are_made_where_missing(tmp_path):
    write_labels(tmp_path / "new/folder/mask.nii.gz", MASK)
    assert read_labels(tmp_path / "new/folder/mask.nii.gz", TWO).array.sum() == 60


def test_formats_that_hold_no_mask_are_refused(tmp_path):
    for name in ("a.gif", "a"):
        with pytest.raises(DataError, match=f"{name}: masks are not written as"):
            write_labels(tmp_path / name, MASK)
    with pytest.raises(FileFormatError, match=r"gone.nii.gz cannot be read"):
        write_labels(tmp_path / "a.nii.gz", MASK, like=tmp_path / "gone.nii.gz")


def test_scores_are_written_with_their_place_or_as_an_array(tmp_path):
    scores = np.random.default_rng(0).random((2, 6, 7))
    write_scores(tmp_path / "a.npz", scores, pixel_grid((6, 7)))
    with np.load(tmp_path / "a.npz") as back:
        np.testing.assert_allclose(back["scores"], scores, rtol=1e-3)
        assert back["scores"].dtype == np.float16
    with pytest.raises(DataError, match=r"scores of \(6, 7\) voxels do not fill a grid of \(7, 6\)"):
        write_scores(tmp_path / "b.npz", scores, pixel_grid((7, 6)))
    with pytest.raises(DataError, match=r"scores are written as .nii.gz or .npz, not as .png"):
        write_scores(tmp_path / "b.png", scores, pixel_grid((6, 7)))
