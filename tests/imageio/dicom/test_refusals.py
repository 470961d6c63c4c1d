"""A series that is no even volume is refused with a sentence that names it and the values, never read as one."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

from mambino.errors import DataError, FileFormatError
from mambino.imageio import dicom, limits, read_image
from mambino.imageio.dicom import headers
from tests.imageio.dicom.series import PLANTED, cosines, values, write_series

SHAPE = (6, 7, 6)


def refused(path, match, series=None, error=DataError):
    with pytest.raises(error, match=match) as refusal:
        dicom.read(path, series)
    said = str(refusal.value) + refusal.value.hint
    assert refusal.value.hint
    assert not any(value in said for value in PLANTED.values())
    return refusal.value


@pytest.mark.parametrize(("gone", "count"), [((2,), 1), ((2, 4), 2), ((2, 3), 2)])
def test_missing_slices(tmp_path, gone, count):
    files = write_series(tmp_path, values((12, 7, 6)))
    for n in gone:
        files[n].unlink()
    words = rf"series 1\.2\.3\.9 \(CT\) lacks {count} slices: between [\d.]+ and [\d.]+ mm along the normal lie "
    assert " mm, elsewhere 2.5 mm" in str(refused(tmp_path, words))


def test_uneven_slices(tmp_path):
    def change(made, n):
        made.ImagePositionPatient[2] = 2.5 * n + 0.15 * n * n

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, r"is unevenly spaced: from 2\.65 mm to 3\.85 mm")


def test_two_volumes_in_one_series(tmp_path):
    def change(made, n):
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.9.4.{n}"

    write_series(tmp_path, values(SHAPE))
    write_series(tmp_path, values(SHAPE, 1), change=change, names=lambda n: f"second{n}.dcm")
    refused(tmp_path, "has 12 slices at 6 places, two of them 40.00 mm along the normal: it holds several volumes")


def test_one_uid_for_two_images(tmp_path):
    def change(made, _):
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9.1"

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, r"series 1\.2\.3\.9 \(CT\) holds two different images of the UID 1\.2\.3\.9\.1")


@pytest.mark.parametrize("shift", [(0.3, 0, 0), (0, 0.7, 0), (-0.1, 0.1, 0)])
def test_gantry_tilt(tmp_path, shift):
    write_series(tmp_path, values(SHAPE), shift=shift)
    degrees = np.degrees(np.arctan(np.hypot(*shift[:2]) / 2.5))
    refused(tmp_path, rf"with a tilted gantry: its slices are sheared by {degrees:.2f} degrees, at most 1\.0 degree")


def test_slices_beside_the_stack(tmp_path):
    def change(made, n):
        made.ImagePositionPatient[0] = made.ImagePositionPatient[0] + 4 * (n == 3)

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, r"has slices that lie up to 4 mm beside a straight stack, at most 0\.375 mm is read")


def test_mixed_orientations(tmp_path):
    def change(made, n):
        if n > 3:
            made.ImageOrientationPatient = cosines("sagittal").ravel().tolist()

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, r"has slices of 2 orientations, 4 axial, 2 sagittal")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda made, n: setattr(made, "PixelSpacing", [0.75, 0.5 + (n == 2)]),
            "has slices of 2 pixel spacings: 5 of 0.7",
        ),
        (
            lambda made, n: setattr(made, "FrameOfReferenceUID", f"1.2.{n % 2}"),
            "has slices of 2 frames of reference: 3 of",
        ),
        (lambda made, _: setattr(made, "PixelSpacing", [0, 0.5]), "has a pixel spacing of 0x0.5 mm"),
        (
            lambda made, _: setattr(made, "ImageOrientationPatient", [1, 0, 0, 0, 1.4, 0]),
            "has direction cosines of lengths 1 and 1.4 whose product is 0",
        ),
        (lambda made, _: made.__delattr__("ImagePositionPatient"), "is no volume: it states no ImagePositionPatient"),
        (
            lambda made, _: setattr(made, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            "is no volume: it is a localiser, an overview for planning",
        ),
        (
            lambda made, _: setattr(made, "ModalityLUTSequence", pydicom.Sequence([pydicom.Dataset()])),
            r"is no volume: it turns stored to real values by a table \(Modality LUT\)",
        ),
    ],
)
def test_headers_that_describe_no_volume(tmp_path, change, words):
    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, words)


def test_slices_of_two_sizes(tmp_path):
    write_series(tmp_path, values(SHAPE))
    more = write_series(tmp_path / "b", values((7, 8, 6)))
    for file in more[:6]:
        file.unlink()
    refused(tmp_path, "has slices of 2 sizes: 6 of 7x6, 1 of 8x6")


def test_one_slice_without_thickness(tmp_path):
    write_series(tmp_path, values((1, 7, 6)), change=lambda made, _: made.__delattr__("SliceThickness"))
    refused(tmp_path, "has one slice and states no SliceThickness")


def test_a_series_that_is_not_there(tmp_path):
    write_series(tmp_path, values(SHAPE))
    error = refused(tmp_path, r"holds no series 9\.9", series="9.9")
    assert error.hint == "--series takes one of 1.2.3.9 (CT, 6 slices)"


def test_no_image_at_all(tmp_path):
    (tmp_path / "a.dcm").write_bytes(
        b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\xff\xff\xff\xff\2\0\x10\0UI\x14\0" + b"?" * 90
    )
    refused(tmp_path, "holds no DICOM image")
    (tmp_path / "a.dcm").write_bytes(b"")
    refused(tmp_path, "holds no DICOM image")


def test_files_that_cannot_be_read_are_counted(tmp_path):
    files = write_series(
        tmp_path, values(SHAPE), change=lambda made, n: made.__delattr__("SOPInstanceUID") if n == 5 else 0
    )
    assert len(files) == 6
    assert "5 slices of 7x6; 1 files cannot be read" in dicom.read(tmp_path).sentence


def test_frames_without_end_are_not_counted_out(tmp_path):
    write_series(tmp_path, values((1, 7, 6)), change=lambda made, _: setattr(made, "NumberOfFrames", 2**31 - 1))
    refused(tmp_path, "holds no DICOM image; 1 DICOM files cannot be read")


def test_deflated_files_that_unpack_without_end_are_not_unpacked(tmp_path, monkeypatch):
    def change(made, _):
        made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_series(tmp_path, values(SHAPE), change=change)
    assert dicom.read(tmp_path).image.grid.shape == SHAPE
    monkeypatch.setattr(headers, "_MOST_DEFLATED", 100)
    refused(tmp_path, "holds no DICOM image; 6 DICOM files cannot be read")


@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_that_are_cut_short(tmp_path, compressed):
    def change(made, _):
        if compressed:
            made.compress(JPEGLSLossless, generate_instance_uid=False)
            made.PixelData = made.PixelData[:40]
        else:
            made.PixelData = made.PixelData[:-10]

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, r"series 1\.2\.3\.9 \(CT\) holds pixels that cannot be decoded, or fewer", error=FileFormatError)


@pytest.mark.parametrize("marker", [b"\xff\xf7", b"\xff\xd8"])
def test_compressed_pixels_of_another_size(tmp_path, marker):
    def change(made, _):
        made.compress(JPEGLSLossless, generate_instance_uid=False)
        data = bytearray(made.PixelData)
        at = data.index(marker)
        data[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # of rows and columns; or else, the markers behind the first
        made.PixelData = bytes(data)

    write_series(tmp_path, values(SHAPE), change=change)
    refused(tmp_path, "holds pixels that cannot be decoded", error=FileFormatError)


def test_more_than_the_memory(tmp_path, monkeypatch):
    write_series(tmp_path, values(SHAPE))
    monkeypatch.setattr(limits, "memory", lambda: 1e-9)
    refused(tmp_path, r"series 1\.2\.3\.9 \(CT\) needs 0\.0 GiB, this machine has 0\.0 GiB to spare")


def test_a_damaged_dicomdir(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    with pytest.raises(FileFormatError, match="is damaged: it lists no files"):
        read_image(tmp_path / "DICOMDIR")
