"""Voxels and places survive NIfTI; a header is believed only as far as the file bears it out."""

import gzip
import warnings

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.grid import Grid, pixel_grid
from mambino.core.image import Segmentation
from mambino.errors import DataError, FileFormatError, MambinoWarning
from mambino.imageio import read_image, read_labels, write_labels, write_scores
from tests.imageio.files import OBLIQUE, TWO, nifti

ramp = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
GEOMETRY = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
GEOMETRY = (*GEOMETRY, "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units")


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    turn=st.integers(0, 99),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
@settings(max_examples=40, deadline=None)
def test_labels_come_back_as_they_were_written(tmp_path_factory, shape, spacing, origin, turn, suffix):
    random = np.random.default_rng(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] * spacing
    affine[:3, 3] = origin
    made = Segmentation(random.integers(0, 3, shape), Grid(shape, affine), TWO)
    path = tmp_path_factory.mktemp("law") / f"mask{suffix}"

    write_labels(path, made)
    back = read_labels(path, TWO)

    np.testing.assert_array_equal(back.array, made.array)
    np.testing.assert_allclose(back.grid.affine, affine, rtol=1e-6, atol=1e-4)
    assert nibabel.load(path).header.get_slope_inter() == (None, None)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 6), (4, 5, 6, 3), (4, 5, 1, 3), (4, 5, 6, 1, 2)])
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (4, 0), (2, 3)])
def test_a_mask_lies_exactly_as_its_image(tmp_path, kind, shape, codes):
    header = kind.header_class()
    header["pixdim"][4:] = [1.5, 7, 1, 1]
    like = nifti(tmp_path / "image.nii.gz", np.ones(shape, np.float32), kind=kind, codes=codes, header=header)
    image = silently(like)
    labels = np.zeros(image.grid.shape, int)
    labels.flat[::2] = 2

    write_labels(tmp_path / "mask.nii.gz", Segmentation(labels, image.grid, TWO), like=like)

    mask, source = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(like)
    assert type(mask) is type(source)
    assert mask.shape == shape[:3]
    assert mask.get_data_dtype() == np.uint8
    for field in GEOMETRY:
        np.testing.assert_array_equal(mask.header[field], source.header[field], err_msg=field)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T, labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.nii.gz", TWO).grid.affine, image.grid.affine)


def test_a_mask_of_a_scaled_image_is_not_scaled(tmp_path):
    like = scaled(tmp_path / "image.nii", ramp, 0.5, -3)
    image = read_image(like)

    write_labels(tmp_path / "mask.nii", Segmentation(ramp.T % 3, image.grid, TWO), like)

    stored = (tmp_path / "mask.nii").read_bytes()[112:120]
    np.testing.assert_array_equal(np.frombuffer(stored, "<f4"), [1, 0])


def test_a_mask_of_a_freesurfer_volume_lies_on_its_grid(tmp_path):
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, 2, -8], [0, -3, 0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.MGHImage(ramp.astype(np.int32), affine), tmp_path / "brain.mgz")
    image = read_image(tmp_path / "brain.mgz")
    np.testing.assert_array_equal(image.array[0], ramp.T)

    mask = Segmentation((image.array[0] > 9).astype(int), image.grid, TWO)
    write_labels(tmp_path / "mask.nii.gz", mask, tmp_path / "brain.mgz")

    assert read_labels(tmp_path / "mask.nii.gz", TWO).grid.close_to(image.grid, 1e-5)
    with pytest.raises(DataError, match=r"masks are not written as \.mgz"):
        write_labels(tmp_path / "mask.mgz", mask)


def test_a_mask_of_another_shape_than_its_image_is_refused(tmp_path):
    like = nifti(tmp_path / "image.nii.gz", ramp)
    mask = Segmentation(np.zeros((6, 5, 3), int), pixel_grid((6, 5, 3), (1, 1, 1)), TWO)
    with pytest.raises(DataError, match=r"labels of \(6, 5, 3\) voxels do not fill .*image.nii.gz of \(6, 5, 4\)"):
        write_labels(tmp_path / "mask.nii.gz", mask, like)
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize(("last", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32)])
def test_the_smallest_unsigned_type_is_written(tmp_path, last, dtype):
    labels = TWO.__class__(names={str(n): (n,) for n in range(1, last + 1)})
    array = np.zeros((2, 2, 2), int)
    array[0, 0, 0] = last
    write_labels(tmp_path / "mask.nii.gz", Segmentation(array, pixel_grid((2, 2, 2), (1, 1, 1)), labels))

    assert nibabel.load(tmp_path / "mask.nii.gz").get_data_dtype() == dtype
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.nii.gz", labels).array, array)


def test_equal_labels_give_equal_bytes(tmp_path):
    mask = Segmentation(ramp % 3, pixel_grid(ramp.shape, (1, 2, 3)), TWO)
    for name in ("one.nii.gz", "two.nii.gz"):
        write_labels(tmp_path / name, mask)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", ">i4", "<u4", "<i8", ">u8", "<f4", ">f4", ">f8"])
def test_voxels_keep_their_type_whatever_the_byte_order(tmp_path, dtype):
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    array = (ramp % 100).astype(dtype)
    image = read_image(nifti(tmp_path / "x.nii", array, header=header))
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image.array[0], array.T)


@pytest.mark.parametrize(
    ("stored", "found"), [(np.int16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_scaled_voxels_become_floats(tmp_path, stored, found):
    image = read_image(scaled(tmp_path / "x.nii", ramp.astype(stored), 0.25, -7))
    assert image.array.dtype == found
    np.testing.assert_allclose(image.array[0], ramp.T * 0.25 - 7)


@pytest.mark.parametrize(("name", "keep"), [("x.nii", -7), ("x.nii", 352), ("x.nii.gz", None)])
def test_a_truncated_file_is_refused_with_both_sizes(tmp_path, name, keep):
    nifti(tmp_path / "x.nii", ramp)
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / name).write_bytes(data[:keep] if keep else gzip.compress(data[:400]))
    found = len(data[:keep]) if keep else 400
    with pytest.raises(FileFormatError, match=rf"{name} is truncated: 592 bytes expected, {found} found"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("lost", [4, 60])
def test_a_gzip_stream_without_its_end_is_refused(tmp_path, lost):
    path = nifti(tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(FileFormatError, match=r"x.nii.gz is truncated: 1810 bytes expected"):
        read_image(path)


def test_a_damaged_gzip_stream_is_refused(tmp_path):
    path = nifti(tmp_path / "x.nii.gz", ramp)
    data = bytearray(path.read_bytes())
    data[-6] ^= 255
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="damaged: its gzip stream does not unpack"):
        read_image(path)
    path.write_bytes(b"\x1f\x8b\x08\x00" + b"\xff" * 99)
    with pytest.raises(FileFormatError, match="damaged: its gzip stream does not unpack"):
        write_labels(tmp_path / "m.nii.gz", Segmentation(ramp % 3, pixel_grid(ramp.shape), TWO), path)


def test_several_gzip_members_are_one_file(tmp_path):
    nifti(tmp_path / "x.nii", ramp)
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(data[:300]) + gzip.compress(data[300:]))
    np.testing.assert_array_equal(read_image(tmp_path / "y.nii.gz").array[0], ramp.T)


def test_an_unpacked_file_under_a_packed_name_is_read_by_its_content(tmp_path):
    nifti(tmp_path / "x.nii", ramp).rename(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "x.nii.gz").array[0], ramp.T)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, b"\0\0\0\0", "is not a NIfTI file: it starts with"),
        (42, b"\0\0", "header that is not valid: its shape is"),
        (42, b"\xff\xff", "header that is not valid: its shape is"),
        (70, b"\x07\x07", "header that is not valid: .*data code 1799"),
        (70, b"\x20\x00", "complex voxels"),
        (344, b"ni1\0", "header of a pair"),
        (344, b"xyz\0", "header that is not valid: .*magic"),
        (112, b"\0\0\x80\x3f\0\0\xc0\x7f", "header that is not valid: .*inter"),
    ],
)
def test_a_header_that_is_not_valid_is_refused(tmp_path, at, value, words):
    path = nifti(tmp_path / "x.nii", ramp)
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises((FileFormatError, DataError), match=words) as refusal:
        read_image(path)
    assert "x.nii" in str(refusal.value)


def test_a_file_shorter_than_a_header_is_refused(tmp_path):
    (tmp_path / "x.nii").write_bytes(b"\x5c\x01\0\0" + b"\0" * 96)
    with pytest.raises(FileFormatError, match="truncated: its header needs 348 bytes, the file holds 100"):
        read_image(tmp_path / "x.nii")


@pytest.mark.parametrize(("shape", "axes"), [((7,), 1), ((2, 2, 2, 2, 2), 5)])
def test_other_numbers_of_axes_are_refused(tmp_path, shape, axes):
    with pytest.raises(DataError, match=f"has {axes} axes"):
        read_image(nifti(tmp_path / "x.nii", np.zeros(shape, np.uint8)))


@pytest.mark.parametrize(
    ("shape", "channels", "space"),
    [
        ((4, 5), 1, (5, 4)),
        ((4, 5, 1), 1, (1, 5, 4)),
        ((4, 5, 6), 1, (6, 5, 4)),
        ((4, 5, 6, 1), 1, (6, 5, 4)),
        ((4, 5, 1, 2), 2, (1, 5, 4)),
        ((4, 5, 6, 2), 2, (6, 5, 4)),
        ((4, 5, 6, 1, 2), 2, (6, 5, 4)),
    ],
)
def test_axes_become_space_and_channels(tmp_path, shape, channels, space):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    image = silently(nifti(tmp_path / "x.nii.gz", array))
    assert image.array.shape == (channels, *space)
    np.testing.assert_array_equal(image.array.ravel(), array.ravel(order="F"))


def test_declared_channels_are_read_without_a_word_and_others_refused(tmp_path):
    path = nifti(tmp_path / "x.nii.gz", np.zeros((4, 5, 6, 3), np.uint8))
    assert read_image(path, channels=3).channels == 3
    with pytest.raises(DataError, match=r"x.nii.gz has 3 channels instead of 1"):
        read_image(path, channels=1)


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_the_world_is_millimetres(tmp_path, unit, scale):
    source = nibabel.Nifti1Image(ramp, np.diag([2.0, 3, 4, 1]))
    source.header.set_xyzt_units(unit)
    nibabel.save(source, tmp_path / "x.nii.gz")
    np.testing.assert_allclose(read_image(tmp_path / "x.nii.gz").grid.spacing, np.multiply((4, 3, 2), scale))


def test_a_slice_keeps_its_place_in_the_plane(tmp_path):
    affine = np.diag([-0.5, 0.7, 1, 1])
    affine[:2, 3] = 9, -8
    grid = read_image(nifti(tmp_path / "flat.nii.gz", ramp[0], affine)).grid
    np.testing.assert_allclose(grid.affine, [[0, -0.5, 9], [0.7, 0, -8], [0, 0, 1]], rtol=1e-6)

    upright = affine[[0, 2, 1, 3]]
    assert read_image(nifti(tmp_path / "upright.nii.gz", ramp[0], upright)).grid.spacing == pytest.approx((0.7, 0.5))


def test_a_singular_place_is_refused_by_name(tmp_path):
    path = nifti(tmp_path / "x.nii", ramp)
    data = bytearray(path.read_bytes())
    data[252:254] = b"\0\0"
    data[280:328] = bytes(48)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x.nii: the affine is singular"):
        read_image(path)


def test_a_broken_qform_is_refused_when_it_is_needed(tmp_path):
    path = nifti(tmp_path / "x.nii", ramp)
    data = bytearray(path.read_bytes())
    data[256:268] = np.full(3, 0.9, "<f4").tobytes()
    path.write_bytes(data)
    assert read_image(path).grid.shape == (6, 5, 4)
    data[254:256] = b"\0\0"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"x.nii has a header that is not valid: its qform is broken"):
        read_image(path)


def test_rounding_between_qform_and_sform_is_not_worth_a_word(tmp_path):
    source = nibabel.Nifti1Image(ramp, OBLIQUE)
    for shift, words in ((1e-3, 0), (0.5, 1)):
        moved = np.diag([2.0, 2, 2, 1])
        source.set_qform(moved, 1)
        moved[0, 3] += shift
        source.set_sform(moved, 1)
        nibabel.save(source, tmp_path / "x.nii.gz")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            image = read_image(tmp_path / "x.nii.gz")
        assert len(said) == words
        assert image.grid.affine[0, 3] == pytest.approx(shift)


def test_alpha_of_coloured_voxels_is_dropped_where_it_says_nothing(tmp_path):
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    array = np.zeros((3, 4, 5), kind)
    array["R"], array["A"] = 7, 255
    array["B"][1, 2, 3] = 9
    path = nifti(tmp_path / "x.nii", array)
    with pytest.warns(MambinoWarning, match="alpha is 255 everywhere and is dropped"):
        image = read_image(path, channels=3)
    assert image.array[2, 3, 2, 1] == 9
    array["A"][0, 0, 0] = 3
    assert read_image(nifti(path, array), channels=4).array[3, 0, 0, 0] == 3


def test_volumes_in_pixels_stay_in_pixels(tmp_path):
    write_labels(tmp_path / "m.nii.gz", Segmentation(ramp % 3, pixel_grid(ramp.shape), TWO))
    assert read_labels(tmp_path / "m.nii.gz", TWO).grid.unit == "pixel"


def test_very_long_axes_get_the_wider_header(tmp_path):
    long = np.zeros((1, 1, 40000), np.uint8)
    write_labels(tmp_path / "m.nii.gz", Segmentation(long, pixel_grid(long.shape, (1, 1, 1)), TWO))
    assert isinstance(nibabel.load(tmp_path / "m.nii.gz"), nibabel.Nifti2Image)
    assert read_labels(tmp_path / "m.nii.gz", TWO).grid.shape == (1, 1, 40000)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5)])
def test_scores_lie_on_the_grid_of_their_image(tmp_path, shape):
    like = nifti(tmp_path / "image.nii.gz", np.zeros(shape[::-1], np.int16), np.diag([2.0, 3, 4, 1]))
    grid = read_image(like).grid
    scores = np.random.default_rng(0).random((2, *shape))

    write_scores(tmp_path / "scores.nii.gz", scores, grid, like)
    back = read_image(tmp_path / "scores.nii.gz", channels=2)

    np.testing.assert_allclose(back.array.reshape(scores.shape), scores, atol=0.51 / 65535)
    assert nibabel.load(tmp_path / "scores.nii.gz").get_data_dtype() == np.uint16
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "scores.nii.gz").get_fdata().T.reshape(scores.shape), scores, atol=0.51 / 65535
    )
    assert back.array.dtype == np.float32
    if len(shape) == 3:
        np.testing.assert_array_equal(back.grid.affine, grid.affine)


def test_scores_above_one_have_their_own_slope(tmp_path):
    scores = np.linspace(0, np.log(25), 60, dtype=np.float32).reshape(1, 3, 4, 5)
    write_scores(tmp_path / "entropy.nii.gz", scores, pixel_grid((3, 4, 5)))
    np.testing.assert_allclose(silently(tmp_path / "entropy.nii.gz").array, scores, atol=0.51 * np.log(25) / 65535)


def silently(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MambinoWarning)
        return read_image(path)


def scaled(path, array, slope, inter):
    data = bytearray(nifti(path, array).read_bytes())
    data[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(data)
    return path
