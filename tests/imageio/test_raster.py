"""Pictures give their stored samples; what would be cut or blurred on the way is refused."""

import errno
import sys

import numpy as np
import PIL.Image
import pytest
import tifffile

from mambino.core.grid import pixel_grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.errors import DataError, FileFormatError, MambinoWarning, MissingExtraError
from mambino.imageio import read_image, read_labels, write_labels
from tests.imageio.files import TWO, grey, png

steps = (np.arange(48).reshape(6, 8) * 5).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("last", [2, 300, 70000])
def test_labels_come_back_or_are_refused(tmp_path, suffix, last):
    labels = Labels(names={str(n): (n,) for n in range(1, last + 1)})
    array = np.zeros((5, 7), int)
    array[3, 4] = last
    made = Segmentation(array, pixel_grid((5, 7)), labels)
    path = tmp_path / f"mask{suffix}"
    if last > {".png": 65535, ".bmp": 255}.get(suffix, last):
        with pytest.raises(DataError, match=r"mask.* holds (8|16) bits a pixel, these labels need uint(16|32)"):
            write_labels(path, made)
        assert not list(tmp_path.iterdir())
        return
    write_labels(path, made)
    np.testing.assert_array_equal(read_labels(path, labels).array, array)
    assert read_image(path).array.dtype == np.min_scalar_type(last)


def test_pages_of_labels_come_back(tmp_path):
    array = np.arange(2 * 5 * 7).reshape(2, 5, 7) % 3
    made = Segmentation(array, pixel_grid((2, 5, 7)), TWO)
    write_labels(tmp_path / "mask.tif", made)
    back = read_labels(tmp_path / "mask.tif", TWO)
    np.testing.assert_array_equal(back.array, array)
    assert back.grid.unit == "pixel"
    with pytest.raises(DataError, match=r"\.png holds 2 axes, these labels have 3"):
        write_labels(tmp_path / "mask.png", made)


@pytest.mark.parametrize("planes", [3, 4])
def test_few_pages_of_labels_are_no_colours(tmp_path, planes):
    array = np.arange(planes * 35).reshape(planes, 5, 7) % 3
    write_labels(tmp_path / "mask.tif", Segmentation(array, pixel_grid(array.shape), TWO))
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.tif", TWO).array, array)


def test_jpeg_is_refused_for_masks(tmp_path):
    with pytest.raises(DataError, match="JPEG changes label numbers"):
        write_labels(tmp_path / "mask.jpg", Segmentation(grey(1), pixel_grid((6, 7)), TWO))


def test_a_mask_of_another_shape_than_its_picture_is_refused(tmp_path):
    like = png(tmp_path / "x.png", grey())
    mask = Segmentation(np.zeros((7, 6), int), pixel_grid((7, 6)), TWO)
    with pytest.raises(DataError, match=r"labels of \(7, 6\) voxels do not fill .*x.png of \(6, 7\)"):
        write_labels(tmp_path / "mask.png", mask, like)
    tifffile.imwrite(tmp_path / "x.tif", grey())
    with pytest.raises(DataError, match=r"do not fill .*x.tif of \(6, 7\)"):
        write_labels(tmp_path / "mask.png", mask, tmp_path / "x.tif")
    (tmp_path / "y.png").write_bytes(b"\x89PNG and nothing else that is needed")
    with pytest.raises(FileFormatError, match=r"y.png cannot be read"):
        write_labels(tmp_path / "mask.png", mask, tmp_path / "y.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_narrow_grey_gives_its_stored_numbers(tmp_path, bits):
    width, most = 8, 2**bits - 1
    stored = np.arange(6 * width).reshape(6, width) % (most + 1)
    (tmp_path / "x.png").write_bytes(png_bytes(stored, bits, colour=0))
    image = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(image.array[0], stored)
    assert image.array.dtype == np.uint8


def test_a_palette_gives_its_indices(tmp_path):
    picture = PIL.Image.fromarray(steps % 3).convert("P")
    picture = PIL.Image.new("P", (8, 6))
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    picture.putdata((steps % 3).ravel().tolist())
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "x.png", TWO).array, steps % 3)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_that_differs_is_kept_and_one_that_does_not_is_dropped(tmp_path, channels):
    array = np.stack([steps] * (channels - 1) + [np.full_like(steps, 9)], -1)
    path = png(tmp_path / "x.png", array)
    with pytest.warns(MambinoWarning, match="x.png: alpha is 9 everywhere and is dropped"):
        assert read_image(path).channels == channels - 1
    array[0, 0, -1] = 10
    np.testing.assert_array_equal(read_image(png(path, array)).array, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (6, 4)])
def test_sixteen_bit_colours_are_whole_or_refused(tmp_path, monkeypatch, colour, samples):
    stored = np.random.default_rng(0).integers(0, 65536, (6, 8, samples))
    (tmp_path / "x.png").write_bytes(png_bytes(stored, 16, colour=colour))
    image = read_image(tmp_path / "x.png")
    assert image.array.dtype == np.uint16
    assert image.grid.unit == "pixel"
    np.testing.assert_array_equal(image.array, np.moveaxis(stored, -1, 0))

    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match=r"16-bit colours of .*x.png needs the package SimpleITK") as refusal:
        read_image(tmp_path / "x.png")
    assert "mambino[itk]" in refusal.value.hint


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_samples_keep_their_type(tmp_path, dtype, order):
    array = (steps - np.min(steps)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", array, byteorder=order, compression="zlib")
    image = read_image(tmp_path / "x.tif")
    assert image.array.dtype == dtype
    np.testing.assert_array_equal(image.array[0], array)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colours_are_channels(tmp_path, planar):
    array = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array, np.moveaxis(array, -1, 0))


def test_tiff_pages_of_colours_are_a_volume_with_channels(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (5, 6, 8, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array, np.moveaxis(array, -1, 0))


def test_tiff_alpha_that_says_nothing_is_dropped(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (6, 8, 4)).astype(np.uint8)
    array[..., 3] = 255
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.warns(MambinoWarning, match="x.tif: alpha is 255 everywhere and is dropped"):
        assert read_image(tmp_path / "x.tif").channels == 3


@pytest.mark.parametrize("packing", ["tiff_lzw", "zstd", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "I;16", "F", "RGB", "P"])
def test_packed_tiffs_are_read_right(tmp_path, packing, mode):
    array = {"I;16": steps.astype(np.uint16) * 257, "F": steps * np.float32(0.3), "RGB": np.stack([steps] * 3, -1)}.get(
        mode, steps
    )
    picture = PIL.Image.fromarray(array)
    if mode == "P":
        picture = PIL.Image.new("P", (8, 6))
        picture.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
        picture.putdata(steps.ravel().tolist())
    picture.save(tmp_path / "x.tif", compression=packing)
    expected = np.moveaxis(array, -1, 0) if mode == "RGB" else array[None]
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array, expected)


def test_packed_pages_are_read_right(tmp_path):
    pages = [PIL.Image.fromarray(steps + n) for n in range(3)]
    pages[0].save(tmp_path / "x.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array[0], [steps, steps + 1, steps + 2])


def test_a_packing_that_nothing_here_reads_is_refused(tmp_path):
    PIL.Image.fromarray(np.stack([steps] * 3, -1)).save(tmp_path / "x.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        at = file.pages[0].tags["BitsPerSample"].valueoffset
    data[at : at + 6] = b"\x10\0" * 3
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(
        MissingExtraError, match=r"x.tif is packed with LZW \(uint16\), which needs the package imagecodecs"
    ):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("packing", ["raw", "group4"])
def test_white_is_the_largest_value_however_it_is_stored(tmp_path, packing):
    mask = steps > 100
    PIL.Image.fromarray(mask).save(tmp_path / "x.tif", compression=packing, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array[0], mask)
    tifffile.imwrite(tmp_path / "y.tif", 255 - steps, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "y.tif").array[0], steps)


def test_pages_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(steps)
        file.write(steps[:3])
    with pytest.raises(DataError, match=r"x.tif holds 2 images of shapes \[\(3, 8\), \(6, 8\)\]; one is read"):
        read_image(tmp_path / "x.tif")


def test_tiffs_of_other_kinds_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", steps.astype(np.complex64))
    with pytest.raises(DataError, match="holds complex64 samples; real numbers are read"):
        read_image(tmp_path / "x.tif")
    tifffile.imwrite(tmp_path / "y.tif", np.stack([steps] * 3, -1), photometric="cielab")
    with pytest.raises(DataError, match="has the colour space CIELAB; grey, palette and RGB are read"):
        read_image(tmp_path / "y.tif")
    tifffile.imwrite(tmp_path / "z.tif", np.zeros((2, 3, 6, 8), np.uint8), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(DataError, match=r"has the axes TZYX \(2, 3, 6, 8\); pages, rows, columns and colours are read"):
        read_image(tmp_path / "z.tif")
    PIL.Image.fromarray(np.stack([steps] * 4, -1), "CMYK").save(tmp_path / "c.jpg")
    with pytest.raises(DataError, match="has the colour space CMYK; grey, palette and RGB are read"):
        read_image(tmp_path / "c.jpg")


def test_damaged_pictures_are_refused_by_name(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    for name in ("x.png", "x.jpg", "x.bmp"):
        path = png(tmp_path / name, noise)
        path.write_bytes(path.read_bytes()[:-700])
        with pytest.raises(FileFormatError, match=rf"{name} is damaged or truncated"):
            read_image(path)
    tifffile.imwrite(tmp_path / "x.tif", noise)
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[:-9])
    with pytest.raises(
        FileFormatError, match=rf"x.tif is truncated: {len(data)} bytes expected, {len(data) - 9} found"
    ):
        read_image(tmp_path / "x.tif")
    (tmp_path / "y.tif").write_bytes(b"II*\0 nonsense")
    with pytest.raises(FileFormatError, match=r"y.tif is damaged"):
        read_image(tmp_path / "y.tif")
    (tmp_path / "z.png").write_bytes(b"some text")
    with pytest.raises(FileFormatError, match=r"z.png is no picture of a known kind"):
        read_image(tmp_path / "z.png")


def test_a_picture_under_the_suffix_of_another_is_read_by_its_content(tmp_path):
    png(tmp_path / "x.png", grey(9)).rename(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").array[0], grey(9))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, suffix):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", full)
    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(FileFormatError, match=rf"mask{suffix} cannot be written: No space left on device"):
        write_labels(tmp_path / f"mask{suffix}", Segmentation(grey(1), pixel_grid((6, 7)), TWO))
    assert not list(tmp_path.iterdir())


def png_bytes(stored, bits, *, colour):
    """Write a PNG by hand, in the depths that Pillow does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = stored.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in stored]
    else:
        spread = [((row[:, None] >> np.arange(bits)[::-1]) & 1).ravel() for row in stored]
        rows = [np.packbits(row.astype(np.uint8)).tobytes() for row in spread]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_tiff_without_pixels_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", grey())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        places = [file.pages[0].tags[name].offset for name in ("StripOffsets", "StripByteCounts")]
    data = bytearray((tmp_path / "x.tif").read_bytes())
    for at in places:
        data[at : at + 2] = (65000).to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"x.tif is damaged: it has no pages with pixels"):
        read_image(tmp_path / "x.tif")
