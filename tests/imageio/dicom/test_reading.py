"""A series becomes the volume its headers describe, whatever its orientation, order, encoding or container."""

import shutil
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as Itk
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from mambino.core import archives
from mambino.errors import DataError, FileFormatError
from mambino.imageio import dicom, read_image
from mambino.imageio.dicom import sources
from tests.imageio.dicom.series import AXES, PLANTED, values, world, write_dicomdir, write_enhanced, write_series
from tests.places import DATA, needs_shared

SHAPE = (5, 7, 6)


@pytest.mark.parametrize("name", AXES)
def test_every_voxel_lies_where_its_header_says(tmp_path, name):
    stored = values(SHAPE)
    write_series(tmp_path, stored, name)
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.array[0], stored.astype(np.int64) - 1024)
    assert image.array.dtype == np.int16
    for voxel in ((0, 0, 0), (4, 0, 0), (0, 6, 0), (0, 0, 5), (3, 2, 4)):
        np.testing.assert_allclose(image.grid.affine @ [*voxel, 1], [*world(name, voxel), 1], atol=1e-6)


def test_the_grid_is_the_one_of_another_reader(tmp_path):
    write_series(tmp_path, values(SHAPE), "oblique")
    names = Itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path), "1.2.3.9")
    other = Itk.ReadImage(names)
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.array[0], Itk.GetArrayFromImage(other))
    for voxel in ((0, 0, 0), (4, 6, 5)):
        place = other.TransformIndexToPhysicalPoint([int(n) for n in voxel[::-1]])
        np.testing.assert_allclose((image.grid.affine @ [*voxel, 1])[:3], np.multiply(place, (-1, -1, 1)), atol=1e-5)


def encode(syntax):
    def change(made, _):
        if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            made.compress(syntax, generate_instance_uid=False)
        else:
            made.file_meta.TransferSyntaxUID = syntax

    return change


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless],
    ids=lambda s: s.name,
)
def test_every_encoding_gives_the_same_values(tmp_path, syntax):
    stored = values(SHAPE)
    write_series(tmp_path, stored, change=encode(syntax))
    np.testing.assert_array_equal(read_image(tmp_path).array[0], stored.astype(np.int64) - 1024)


def test_each_slice_is_rescaled_by_its_own_numbers(tmp_path):
    def change(made, n):
        made.RescaleSlope, made.RescaleIntercept = 0.5 + n, -2.25

    stored = values(SHAPE)
    write_series(tmp_path, stored, change=change)
    array = read_image(tmp_path).array[0]
    assert array.dtype == np.float32
    wanted = stored * (0.5 + np.arange(5))[:, None, None] - 2.25
    np.testing.assert_allclose(array, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("signed", "padding", "limit"), [(False, 4000, None), (True, -2000, None), (True, -2000, -1990)]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_padding_becomes_the_lowest_value_of_the_rest(tmp_path, signed, padding, limit, compressed):
    stored = values(SHAPE, bits=10).astype(np.int16) + 5
    stored[:, 0] = padding
    stored[:, 1] = padding if limit is None else limit

    def change(made, _):
        made.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
        if limit is not None:
            made.add_new("PixelPaddingRangeLimit", "SS", limit)
        if compressed:
            made.compress(JPEGLSLossless, generate_instance_uid=False)

    write_series(tmp_path, stored, change=change, signed=signed)
    array = read_image(tmp_path).array[0]
    assert (array[:, :2] == stored[:, 2:].min() - 1024).all()
    np.testing.assert_array_equal(array[:, 2:], stored[:, 2:] - 1024)


def test_bits_above_the_stored_ones_are_not_values(tmp_path):
    def change(made, _):
        made.BitsStored, made.HighBit = 12, 11

    stored = values(SHAPE)
    write_series(tmp_path, stored | (5 << 12), change=change)
    np.testing.assert_array_equal(read_image(tmp_path).array[0], stored.astype(np.int64) - 1024)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", [None, [3, 0, 4, 1, 2], [4, 3, 2, 1, 0]])
def test_frames_of_one_file_are_slices(tmp_path, order, compressed):
    stored = values(SHAPE)
    path = write_enhanced(tmp_path / "one.dcm", stored, "coronal", order)
    if compressed:
        made = pydicom.dcmread(path)
        made.compress(JPEGLSLossless, generate_instance_uid=False)
        made.save_as(path)
    image = read_image(path)
    wanted = stored * (1 + 0.5 * (np.arange(5) % 2))[:, None, None] + 10
    np.testing.assert_allclose(image.array[0], wanted, rtol=1e-6)
    np.testing.assert_allclose((image.grid.affine @ [4, 6, 5, 1])[:3], world("coronal", (4, 6, 5)), atol=1e-6)


def test_the_largest_volume_is_read_and_another_one_when_asked_for(tmp_path):
    small, large = values((3, 7, 6)), values((4, 7, 6), seed=1)
    write_series(tmp_path / "a", small, uid="1.2.3.1")
    write_series(tmp_path / "b", large, uid="1.2.3.2")
    write_series(tmp_path / "c", values((1, 90, 90)), uid="1.2.3.3")
    write_series(tmp_path / "d", values((9, 9, 9)), uid="1.2.3.4", change=localiser)
    (tmp_path / "notes.txt").write_text("no image")
    found = dicom.read(tmp_path)
    np.testing.assert_array_equal(found.image.array[0], large.astype(np.int64) - 1024)
    assert found.sentence == "series 1.2.3.2 (CT): 4 slices of 7x6; 3 other series left out"
    assert dicom.read(tmp_path, "1.2.3.1").image.grid.shape == (3, 7, 6)


def localiser(made, _):
    made.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_localisers_within_a_series_are_left_out(tmp_path):
    write_series(tmp_path, values(SHAPE))
    write_series(tmp_path, values((2, 7, 6)), "sagittal", change=another_localiser, names=lambda n: f"x{n}.dcm")
    found = dicom.read(tmp_path)
    assert found.image.grid.shape == SHAPE
    assert found.sentence.endswith("; 2 localisers of it left out")


def another_localiser(made, n):
    localiser(made, n)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.9.5.{n}"


def test_copies_of_a_file_count_once(tmp_path):
    files = write_series(tmp_path, values(SHAPE))
    shutil.copy(files[2], tmp_path / "copy.dcm")
    assert dicom.read(tmp_path).image.grid.shape == SHAPE


def test_a_file_without_its_preamble_is_read(tmp_path):
    for file in write_series(tmp_path, values(SHAPE)):
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bare = pydicom.Dataset({element.tag: element for element in data})
            bare.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_image(tmp_path).array[0], values(SHAPE).astype(np.int64) - 1024)


def test_slices_sheared_by_rounding_keep_their_places(tmp_path):
    shift = (0.02, -0.01, 0)  # half a degree
    write_series(tmp_path, values(SHAPE), shift=shift)
    grid = read_image(tmp_path).grid
    np.testing.assert_allclose((grid.affine @ [4, 1, 2, 1])[:3], world("axial", (4, 1, 2), shift=shift), atol=1e-6)


def zipped(folder, path, names=lambda file: file.name):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, names(file))
    return path


def test_a_zip_is_read_and_leaves_nothing(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write_series(tmp_path / "series", values(SHAPE), "oblique")
    path = zipped(tmp_path / "series", tmp_path / "scan.zip", lambda file: f"deep/er/{file.name}")
    np.testing.assert_array_equal(read_image(path).array, read_image(tmp_path / "series").array)
    assert list(scratch.iterdir()) == []


def test_a_dicomdir_lists_the_files_that_are_read(tmp_path):
    files = write_series(tmp_path / "DICOM", values(SHAPE), names=lambda n: f"IM{n}")
    write_series(tmp_path / "OTHER", values((9, 7, 6)), uid="1.2.3.5", names=lambda n: f"IM{n}")
    path = write_dicomdir(tmp_path, [["DICOM", file.name] for file in files])
    assert read_image(path).grid.shape == SHAPE
    files[1].unlink()
    with pytest.raises(FileFormatError, match="DICOMDIR lists 5 files, 1 of them are not there"):
        read_image(path)


@pytest.mark.parametrize("parts", [["..", "secret.dcm"], ["A", "../../secret.dcm"], ["/etc/secret"], ["C:\\secret"]])
def test_a_dicomdir_cannot_name_files_elsewhere(tmp_path, parts):
    (tmp_path / "medium").mkdir()
    path = write_dicomdir(tmp_path / "medium", [parts])
    with pytest.raises(FileFormatError, match="DICOMDIR lists files outside its own folder"):
        read_image(path)


@pytest.mark.parametrize("name", ["../out.dcm", "a/../../out.dcm", "/etc/out.dcm", "C:\\out.dcm", "..\\out.dcm"])
def test_a_zip_that_names_files_elsewhere_is_refused(tmp_path, name):
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(FileFormatError, match="names 1 files outside its own folder"):
        read_image(path)
    assert [file.name for file in tmp_path.iterdir()] == ["scan.zip"]


def test_zips_that_unpack_without_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2**25))
    with pytest.raises(FileFormatError, match=r"unpacks to \d+ times its size, at most 200 times is unpacked"):
        read_image(path)
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    with pytest.raises(FileFormatError, match="unpacks to 33554432 bytes, more than the 1000 there is room for"):
        read_image(path)
    monkeypatch.setattr(archives, "MOST_FILES", 0)
    with pytest.raises(FileFormatError, match="holds 1 files, at most 0 are unpacked"):
        read_image(path)


def test_links_and_locked_files_in_a_zip_are_refused(tmp_path):
    entry = zipfile.ZipInfo("link.dcm")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(FileFormatError, match="holds 1 links instead of files"):
        read_image(tmp_path / "links.zip")
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.dcm", b"12345678")
    data = bytearray((tmp_path / "locked.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(FileFormatError, match="files that are locked with a password"):
        read_image(tmp_path / "locked.zip")


def test_a_broken_zip_is_refused(tmp_path):
    (tmp_path / "scan.zip").write_bytes(b"PK\3\4" + b"\0" * 40)
    with pytest.raises(FileFormatError, match=r"scan\.zip cannot be unpacked: BadZipFile"):
        read_image(tmp_path / "scan.zip")


def test_a_zip_that_understates_its_sizes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2**20))
    data = (tmp_path / "scan.zip").read_bytes().replace((2**20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    (tmp_path / "scan.zip").write_bytes(data)
    with pytest.raises(FileFormatError, match="cannot be unpacked"):
        read_image(tmp_path / "scan.zip")


def test_too_many_files_are_not_looked_at(tmp_path, monkeypatch):
    write_series(tmp_path, values(SHAPE))
    monkeypatch.setattr(sources, "MOST_FILES", 4)
    with pytest.raises(DataError, match="holds 5 files, at most 4 are looked at"):
        read_image(tmp_path)


def test_pydicom_keeps_what_it_would_say_to_itself(tmp_path, caplog, recwarn):
    def change(made, _):
        made.add_new("PatientAge", "AS", "planted age")
        made.add_new("StudyTime", "TM", "planted time")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path, values(SHAPE), change=change)
    recwarn.clear()
    caplog.clear()
    dicom.read(tmp_path, headers=True)
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.text == ""


def test_the_sentence_holds_nothing_of_the_patient(tmp_path):
    write_series(tmp_path / "Planted^Nomen", values(SHAPE), names=lambda n: f"Planted^Nomen-{n}")
    sentence = dicom.read(tmp_path).sentence
    assert not any(value in sentence for value in PLANTED.values())


REAL = {
    "brain_mr_study": ((22, 320, 280), (6.5, 0.6875, 0.6875)),
    "brain_mr_study/HippoCrop": ((40, 50, 34), (1, 1, 1)),
    "ct_24x38x3/multiframe": ((3, 38, 24), (2.5, 0.7, 0.7)),
    "ct_liver_seg": ((3, 512, 512), (1, 0.810547, 0.810547)),
    "enhanced_mr": ((6, 64, 64), (2.4, 3.375, 3.375)),
    "oblique_ct": ((3, 50, 100), (4.5, 3.5, 2.5)),
    "dicomdir_tree/98892001/CT5N": ((5, 16, 16), (2.5, 0.488281, 0.488281)),
}


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_series_are_read(name):
    image = read_image(DATA / "dicom" / name)
    assert image.grid.shape == REAL[name][0]
    np.testing.assert_allclose(image.grid.spacing, REAL[name][1], rtol=1e-3)


@needs_shared
def test_real_single_and_multi_frame_files_of_one_image_agree():
    one, many = (read_image(DATA / "dicom/ct_24x38x3" / name) for name in ("image", "multiframe"))
    np.testing.assert_array_equal(one.array, many.array)
    assert one.grid.close_to(many.grid)


@needs_shared
@pytest.mark.parametrize("name", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_real_encodings_agree(name):
    folder = DATA / "dicom/encodings"
    np.testing.assert_array_equal(
        read_image(folder / f"MR_small_{name}.dcm").array, read_image(folder / "MR_small.dcm").array
    )


@needs_shared
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "encodings/MR_truncated.dcm",
            r"cannot be decoded, or fewer than its header says \(Explicit VR Little Endian\)",
        ),
        ("encodings/ExplVR_BigEnd.dcm", r"is no volume: it holds colours \(3 samples a pixel\)"),
        ("encodings/rtdose.dcm", "holds no DICOM image"),
        ("encodings/no_meta.dcm", "holds no DICOM image"),
        ("dicomdir_tree/98892001/CT2N", "is no volume: it is a localiser"),
        ("dicomdir_tree/77654033/CT2", "lacks 161 slices"),
        ("dicomdir_tree/DICOMDIR", "has slices of 7 orientations, 4 sagittal, 3 coronal"),
    ],
)
def test_real_files_that_are_no_volume_are_refused(name, words):
    with pytest.raises((DataError, FileFormatError), match=words):
        read_image(DATA / "dicom" / name)
