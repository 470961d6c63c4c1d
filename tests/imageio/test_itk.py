"""NRRD and MetaImage lie in our world as they lie in ITK's."""

import errno
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.grid import Grid, pixel_grid
from mambino.core.image import Segmentation
from mambino.errors import DataError, FileFormatError, MissingExtraError
from mambino.imageio import read_image, read_labels, write_labels
from tests.imageio.files import OBLIQUE, TWO, nifti

itk = pytest.importorskip("SimpleITK", reason="the extra itk is not installed")


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    dim=st.sampled_from([2, 3]),
    turn=st.integers(0, 99),
    suffix=st.sampled_from([".nrrd", ".mha"]),
)
@settings(max_examples=20, deadline=None)
def test_labels_come_back_as_they_were_written(tmp_path_factory, shape, dim, turn, suffix):
    random = np.random.default_rng(turn)
    affine = np.eye(dim + 1)
    affine[:-1, :-1] = np.linalg.qr(random.normal(size=(dim, dim)))[0] * random.uniform(0.2, 5, dim)
    affine[:-1, -1] = random.normal(size=dim) * 100
    made = Segmentation(random.integers(0, 3, shape[:dim]), Grid(shape[:dim], affine), TWO)
    path = tmp_path_factory.mktemp("law") / f"mask{suffix}"

    write_labels(path, made)
    back = read_labels(path, TWO)

    np.testing.assert_array_equal(back.array, made.array)
    np.testing.assert_allclose(back.grid.affine, affine, atol=1e-6)


def test_the_same_volume_lies_in_the_same_place_in_both_formats(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = nifti(tmp_path / "x.nii.gz", array, OBLIQUE)
    itk.WriteImage(itk.ReadImage(str(path)), str(tmp_path / "x.nrrd"))
    ours, theirs = read_image(path), read_image(tmp_path / "x.nrrd")
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.grid.close_to(theirs.grid, 1e-5)
    assert ours.grid.orientation == theirs.grid.orientation


@pytest.mark.parametrize("vectors", [True, False])
def test_vectors_and_a_fourth_axis_are_channels(tmp_path, vectors):
    array = np.random.default_rng(0).integers(0, 99, (2, 3, 4, 5)).astype(np.uint8)
    stored = np.moveaxis(array, 0, -1) if vectors else array
    itk.WriteImage(itk.GetImageFromArray(stored, isVector=vectors), str(tmp_path / "x.nrrd"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.nrrd", channels=2).array, array)


def test_what_is_no_image_is_refused(tmp_path):
    itk.WriteImage(itk.GetImageFromArray(np.zeros((3, 4, 5), np.complex64)), str(tmp_path / "c.nrrd"))
    with pytest.raises(DataError, match=r"c.nrrd holds complex voxels \(complex"):
        read_image(tmp_path / "c.nrrd")
    itk.WriteImage(itk.GetImageFromArray(np.zeros((2, 2, 3, 4, 5), np.uint8)), str(tmp_path / "five.mha"))
    with pytest.raises(DataError, match=r"five.mha has 5 axes; images have 2 or 3, and one for channels"):
        read_image(tmp_path / "five.mha")
    (tmp_path / "bad.nrrd").write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\n\n12345")
    with pytest.raises(FileFormatError, match=r"bad.nrrd cannot be read: ."):
        read_image(tmp_path / "bad.nrrd")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_sheared_grid_survives(tmp_path, suffix):
    sheared = np.array([[0, 0.0, 2, 0], [0, 2, 1, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    made = Segmentation(np.zeros((2, 3, 4), int), Grid((2, 3, 4), sheared), TWO)
    write_labels(tmp_path / f"mask{suffix}", made)
    np.testing.assert_allclose(read_labels(tmp_path / f"mask{suffix}", TWO).grid.affine, sheared, atol=1e-9)


def test_a_failure_of_itk_is_told_in_its_own_words(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("sitk::ERROR: write failed\nITK ERROR: MetaImageIO: the disk is on fire")

    monkeypatch.setattr(itk, "WriteImage", fail)
    with pytest.raises(
        FileFormatError, match=r"mask.mha cannot be written: MetaImageIO: the disk is on fire"
    ) as refusal:
        write_labels(tmp_path / "mask.mha", Segmentation(np.zeros((2, 2), int), pixel_grid((2, 2)), TWO))
    assert ".nii.gz" in refusal.value.hint
    assert not list(tmp_path.iterdir())


def test_writing_needs_the_extra_and_room(tmp_path, monkeypatch):
    made = Segmentation(np.zeros((2, 3, 4), int), pixel_grid((2, 3, 4), (1, 1, 1)), TWO)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(itk, "WriteImage", full)
    with pytest.raises(FileFormatError, match=r"mask.mha cannot be written: No space left"):
        write_labels(tmp_path / "mask.mha", made)
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match=r"writing .*mask.mha needs the package SimpleITK"):
        write_labels(tmp_path / "mask.mha", made)
    assert not list(tmp_path.iterdir())


def test_a_mask_of_a_nrrd_image_may_be_nifti(tmp_path):
    path = nifti(tmp_path / "x.nii.gz", np.zeros((3, 4, 5), np.int16), OBLIQUE)
    itk.WriteImage(itk.ReadImage(str(path)), str(tmp_path / "x.mha"))
    image = read_image(tmp_path / "x.mha")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_labels(tmp_path / "m.nii.gz", Segmentation(image.array[0], image.grid, TWO), tmp_path / "x.mha")
        assert read_labels(tmp_path / "m.nii.gz", TWO).grid.close_to(image.grid, 1e-5)


def test_a_fourth_axis_that_stands_in_space_is_refused(tmp_path):
    image = itk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False)
    image.SetDirection(np.eye(4)[[3, 1, 2, 0]].ravel().tolist())
    itk.WriteImage(image, str(tmp_path / "x.mha"))
    with pytest.raises(DataError, match=r"x.mha: the affine is singular"):
        read_image(tmp_path / "x.mha")
