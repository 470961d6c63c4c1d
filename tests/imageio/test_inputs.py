"""DICOM among what is to be segmented: which paths are one case, and how several series become channels."""

import numpy as np
import pytest

from mambino.errors import DataError
from mambino.imageio.inputs import find_images, read_input
from tests.imageio.dicom.series import values, write_dicomdir, write_series
from tests.imageio.files import grey, nifti, png

SHAPE = (4, 7, 6)


def read(path, channels=("T1",), **options):
    ((case, *_), problems) = find_images([path] if not isinstance(path, list) else path, len(channels))
    assert not problems
    return read_input(case, channels, "the bundle takes", **options)


def test_a_folder_of_dicom_is_one_case_named_as_the_folder(tmp_path):
    write_series(tmp_path / "a/1.2.840.10" / "deep", values(SHAPE))
    write_series(tmp_path / "a/1.2.840.11", values(SHAPE))
    png(tmp_path / "a/1.2.840.11/preview.png", grey())
    medium = tmp_path / "medium"
    files = write_series(medium / "DICOM", values(SHAPE))
    inputs = [tmp_path / "a/1.2.840.10", tmp_path / "a/1.2.840.11", write_dicomdir(medium, [["DICOM", files[0].name]])]
    cases, problems = find_images(inputs, 1)
    assert [case.id for case in cases] == ["1.2.840.10", "1.2.840.11", "medium"]
    assert [case.images for case in cases] == [(path,) for path in inputs]
    assert problems == ()


def test_a_folder_with_more_images_than_dicom_is_a_folder_of_images(tmp_path):
    write_series(tmp_path, values((1, 7, 6)))
    for name in "ab":
        png(tmp_path / f"{name}.png", grey())
    assert [case.id for case in find_images([tmp_path], 1)[0]] == ["a", "b"]


def test_series_become_channels_in_the_order_asked_for(tmp_path):
    for n in (1, 2):
        write_series(tmp_path / str(n), values(SHAPE, seed=n), uid=f"1.2.3.{n}")
    given = read(tmp_path, ("T1", "FLAIR"), series=("1.2.3.2", "1.2.3.1"))
    np.testing.assert_array_equal(given.image.array[0], values(SHAPE, 2).astype(np.int64) - 1024)
    np.testing.assert_array_equal(given.image.array[1], values(SHAPE, 1).astype(np.int64) - 1024)
    assert given.sentence.count("slices of 7x6") == 2


def test_numbered_folders_are_channels(tmp_path):
    folders = [tmp_path / f"scan_000{n}" for n in range(2)]
    for n, folder in enumerate(folders):
        write_series(folder, values(SHAPE, seed=n))
    assert read(folders, ("T1", "FLAIR")).image.channels == 2


def test_series_on_different_grids_are_no_channels(tmp_path):
    write_series(tmp_path / "a", values(SHAPE), uid="1.2.3.1")
    write_series(tmp_path / "b", values(SHAPE), "coronal", uid="1.2.3.2")
    words = r"the channels series 1\.2\.3\.1 \(CT\) and series 1\.2\.3\.2 \(CT\) lie on different grids"
    with pytest.raises(DataError, match=words):
        read(tmp_path, ("T1", "FLAIR"), series=("1.2.3.1", "1.2.3.2"))


@pytest.mark.parametrize(("channels", "series"), [(("T1", "FLAIR"), ()), (("T1",), ("1.2.3.9", "1.2.3.8"))])
def test_a_wrong_number_of_series_is_refused(tmp_path, channels, series):
    write_series(tmp_path, values(SHAPE))
    words = rf"has {len(series) or 1} DICOM series, {len(channels)} are needed, one a channel \({', '.join(channels)}\)"
    with pytest.raises(DataError, match=words):
        read(tmp_path, channels, series=series)


def test_other_files_have_no_series(tmp_path):
    path = nifti(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5), np.int16))
    assert read(path).volume is None
    with pytest.raises(DataError, match=r"case scan is not DICOM, so it has no series 1\.2"):
        read(path, series=("1.2",))
