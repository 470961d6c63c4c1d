"""Every difficult file is read as independent readers recorded it, or refused with one sentence."""

import json
import sys
import warnings

import numpy as np
import pytest

from mambino.errors import Error, FileFormatError, MambinoWarning, MissingExtraError
from mambino.imageio import read_image
from mambino.imageio.folders import open_dataset
from tests.places import DATA, needs_shared

AWKWARD = DATA / "awkward"
EXPECTED = json.loads((AWKWARD / "expected.json").read_text()) if AWKWARD.is_dir() else {}
READ = [name for name, entry in EXPECTED.items() if entry["outcome"].startswith("read")]
REFUSED = [name for name, entry in EXPECTED.items() if entry["outcome"] == "refused"]
EXTRA = [name for name, entry in EXPECTED.items() if "extra" in entry["outcome"]]
SAID = {
    "mgh/test.mgz": "becomes 2 channels",
    "nifti/dmri_4d.nii.gz": "becomes 7 channels",
    "nifti/nifti2_4d.nii.gz": "becomes 2 channels",
    "nifti/no_qform_no_sform.nii.gz": "orientation is unknown",
    "nifti/oblique_4d.nii.gz": "becomes 2 channels",
    "nifti/rgb24_ct_perfusion.nii.gz": "colours become 3 channels",
    "nifti/sheared_sform.nii.gz": "qform and sform disagree .* the sform is used",
    "nifti/single_slice_4d.nii.gz": "becomes 3 channels",
    "png/grey_with_alpha_rgba.png": "alpha is 255 everywhere and is dropped",
    "png/rgba.png": "alpha is 255 everywhere and is dropped",
}


@needs_shared
def test_the_table_is_whole():
    assert len(EXPECTED) == 53
    assert {name for name, entry in EXPECTED.items() if "note" in entry} - {"tiff/em_stack_multipage.tif"} == set(SAID)


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_recorded(name):
    entry = EXPECTED[name]
    image = quietly(AWKWARD / name)

    assert image.channels == entry["channels"]
    assert list(image.grid.shape) == entry["shape"]
    if entry["spacing_zyx"] is None:
        assert image.grid.unit == "pixel"
    else:
        assert image.grid.unit == "mm"
        np.testing.assert_allclose(image.grid.spacing, entry["spacing_zyx"], atol=1e-5)
    if "affine_ijk_to_ras" in entry:
        np.testing.assert_allclose(image.grid.affine[:, [2, 1, 0, 3]], entry["affine_ijk_to_ras"], atol=2e-6)
    values = image.array[np.isfinite(image.array)].astype(np.float64)
    assert image.array.size - values.size == entry.get("not_finite", 0)
    found = [values.min(), values.max(), values.mean()]
    np.testing.assert_allclose(found, [entry["min"], entry["max"], entry["mean"]], rtol=1e-6, atol=1e-6)
    assert image.array.dtype.isnative
    assert image.array.flags.writeable


@pytest.mark.parametrize("name", READ)
def test_what_is_read_in_one_of_several_ways_is_said(name):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_image(AWKWARD / name)

    assert [warning.category for warning in said] == [MambinoWarning] * (name in SAID)
    for warning in said:
        assert name in str(warning.message).replace("\\", "/")
        with pytest.warns(MambinoWarning, match=SAID[name]):
            warnings.warn(warning.message, stacklevel=1)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_cause(name):
    cause = {"nifti/complex64.nii.gz": "complex voxels", "unsupported/ras.mif": r"format \.mif, which is not read"}
    with pytest.raises(Error, match=cause[name]) as refusal:
        read_image(AWKWARD / name)

    assert (AWKWARD / name).name in str(refusal.value)
    assert refusal.value.hint


@pytest.mark.parametrize("name", EXTRA)
def test_without_the_extra_a_file_is_refused_naming_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match="needs the package SimpleITK, which is not installed") as refusal:
        read_image(AWKWARD / name)

    assert (AWKWARD / name).name in str(refusal.value)
    assert "mambino[itk]" in refusal.value.hint


@needs_shared
def test_a_data_set_of_dicom_is_refused_saying_what_to_do_now():
    words = r"dicom holds no images, only 9 folders, 1 \.md, and further in DICOM files such as .*, which data sets"
    with pytest.raises(FileFormatError, match=words) as refusal:
        open_dataset(DATA / "dicom")
    assert "dcm2niix" in refusal.value.hint


def quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MambinoWarning)
        return read_image(path)
