"""PNG, JPEG, BMP and TIFF: stored sample values, palette indices as they are, no spacing.

Grids of these images count in pixels. The pages of a TIFF are the slowest axis of a volume.
"""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from mambino.core.grid import pixel_grid
from mambino.core.image import Image
from mambino.core.records import replacing
from mambino.errors import DataError, Error, FileFormatError, MambinoWarning, MissingExtraError
from mambino.imageio import itk
from mambino.imageio.limits import check_room

_MODES = {"1", "L", "P", "I;16", "I;16B", "I;16L", "I", "F", "RGB", "RGBA", "LA"}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, PIL.Image.DecompressionBombError)
_AGAIN = "copy or export the file again"
_PLAIN = "save it as PNG, or as TIFF without compression"


def read(path: Path) -> Image:
    """Read all channels: [c, y, x], or [c, pages, y, x] from a TIFF of several pages.

    An alpha channel that is the same everywhere is dropped, which is said.

    Raises:
        FileFormatError: damaged, or packed in a way that nothing here unpacks.
        DataError: pages of different sizes, or a colour space that is neither grey nor RGB.
        MissingExtraError: 16-bit colours in a PNG without the extra `itk`.
    """
    array = _tiff(path) if _is_tiff(path) else _picture(path)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    array = np.ascontiguousarray(_without_alpha(array, path)).astype(array.dtype.newbyteorder("="), copy=False)
    return Image(array, pixel_grid(array.shape[1:]))


def write(path: Path, array: NDArray[np.unsignedinteger], suffix: str) -> None:
    """Write [*s] labels as one sample a pixel.

    Raises:
        DataError: the format cannot hold them: lossy, too few bits, or no volumes.
        FileFormatError: the file cannot be written; nothing is left behind then.
    """
    if suffix in {".jpg", ".jpeg"}:
        raise DataError(f"{path}: JPEG changes label numbers when it packs them", "write .png")
    if suffix in {".tif", ".tiff"}:
        with replacing(path) as part:
            tifffile.imwrite(part, array, compression="zlib", photometric="minisblack", metadata=None)
        return
    bits = 8 if suffix == ".bmp" else 16
    if array.ndim != 2:
        raise DataError(f"{path}: {suffix} holds 2 axes, these labels have {array.ndim}", "write .tif or .nii.gz")
    if array.dtype.itemsize * 8 > bits:
        raise DataError(f"{path}: {suffix} holds {bits} bits a pixel, these labels need {array.dtype}", "write .tif")
    with replacing(path) as part:
        PIL.Image.fromarray(array).save(part)


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the pixels along each space axis, slowest first."""
    if _is_tiff(path):
        return read(path).grid.shape
    try:
        with PIL.Image.open(path) as picture:
            return picture.size[::-1]
    except _DAMAGE as error:
        raise FileFormatError(f"{path} cannot be read: {error}", _AGAIN) from None


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def _without_alpha(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if len(array) in {2, 4} and array.dtype.kind == "u" and np.ptp(array[-1]) == 0 and _has_alpha(path):
        warnings.warn(f"{path}: alpha is {array[-1].flat[0]} everywhere and is dropped", MambinoWarning, stacklevel=4)
        return array[:-1]
    return array


def _has_alpha(path: Path) -> bool:
    if not _is_tiff(path):
        return True
    with tifffile.TiffFile(path) as file:
        return file.series[0].keyframe.samplesperpixel in {2, 4}


def _picture(path: Path) -> NDArray[Any]:
    bits, colour = _png_kind(path)
    if bits == 16 and colour != 0:  # Pillow would cut them to 8 bits without a word
        return itk.read_pixels(path)
    try:
        with PIL.Image.open(path) as picture:
            mode = picture.mode
            check_room(path, 8 * picture.width * picture.height)
            array = np.array(picture)
    except DataError:
        raise
    except _DAMAGE as error:
        cause = "" if isinstance(error, PIL.UnidentifiedImageError) else f" ({error})"
        what = "is no picture of a known kind" if not cause else "is damaged or truncated"
        raise FileFormatError(f"{path} {what}{cause}", _AGAIN) from None
    if mode not in _MODES:
        raise DataError(f"{path} has the colour space {mode}; grey, palette and RGB are read", "save it as RGB")
    if bits in {2, 4} and colour == 0:  # Pillow stretches them over 0 to 255
        array //= 255 // (2**bits - 1)
    if bits == 16:
        array = array.astype(np.uint16)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _png_kind(path: Path) -> tuple[int, int]:
    """Return bits a sample and colour type of a PNG (0 grey, 2 RGB, 3 palette, 4 and 6 with alpha)."""
    with path.open("rb") as file:
        start = file.read(26)
    return (start[24], start[25]) if start[:4] == b"\x89PNG" and len(start) == 26 else (0, 0)


def _tiff(path: Path) -> NDArray[Any]:
    try:
        with tifffile.TiffFile(path) as file:
            _check_whole(file, path)
            series = _one_series(file, path)
            array = _samples(file, series, path)
            axes, page = _axes(series, array), series.keyframe
    except (Error, MemoryError):
        raise
    except Exception as error:  # a damaged file makes tifffile raise anything
        raise FileFormatError(f"{path} is damaged: {error or type(error).__name__}", _AGAIN) from None
    if _colour(page) not in {"MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR", "MASK"}:
        raise DataError(f"{path} has the colour space {_colour(page)}; grey, palette and RGB are read", _PLAIN)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {array.dtype} samples; real numbers are read", "store the magnitude")
    if len(axes) != array.ndim:
        raise FileFormatError(f"{path} is damaged: it has the axes {axes}, its pixels {array.ndim} of them", _AGAIN)
    return _arranged(array, axes, path)


def _check_whole(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file that ends before the last byte that its pages point to."""
    ends = [o + n for page in file.pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    size = path.stat().st_size
    if not ends:
        raise FileFormatError(f"{path} is damaged: it has no pages with pixels", _AGAIN)
    if max(ends) > size:
        raise FileFormatError(f"{path} is truncated: {max(ends)} bytes expected, {size} found", _AGAIN)


def _one_series(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    shapes = {series.shape for series in file.series}
    if len(file.series) > 1:
        raise DataError(
            f"{path} holds {len(file.series)} images of shapes {sorted(shapes)}; one is read",
            "save each as a file of its own",
        )
    return file.series[0]


def _axes(series: tifffile.TiffPageSeries, array: NDArray[Any]) -> str:
    """Name the axes. Four grey slices, which tifffile writes as planes of red, green, blue and alpha, are slices."""
    guessed = series.kind == "shaped" and series.axes == "SYX" and len(array) == 4
    return "ZYX" if guessed and np.ptp(array[3]) else str(series.axes)


def _samples(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> NDArray[Any]:
    """Unpack with tifffile, or with Pillow what tifffile needs another package for and Pillow reads right."""
    page = series.keyframe
    check_room(path, 2 * series.size * series.dtype.itemsize)
    try:
        array: NDArray[Any] = series.asarray()
    except (ValueError, ImportError) as error:  # zstd asks for a module of Python 3.14
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        if len(file.pages) * page.size != series.size or not _pillow_keeps(page):
            packing = tifffile.COMPRESSION(page.compression).name
            raise MissingExtraError(
                f"{path} is packed with {packing} ({page.dtype}), which needs the package imagecodecs",
                f"pip install imagecodecs, or {_PLAIN}",
            ) from None
        return _by_pillow(path, len(file.pages)).reshape(series.shape)  # which shows white as the largest
    if _colour(page) == "MINISWHITE" and array.dtype.kind in "bu":
        array = ~array if array.dtype.kind == "b" else (2**page.bitspersample - 1 - array).astype(array.dtype)
    return array


def _colour(page: Any) -> str:
    return tifffile.PHOTOMETRIC(page.photometric).name


def _pillow_keeps(page: tifffile.TiffPage) -> bool:
    kind, colour = page.dtype.name if page.dtype else "", _colour(page)
    if colour == "MINISWHITE":
        return page.bitspersample in {1, 8} and page.samplesperpixel == 1
    if page.bitspersample == 1 or colour in {"MINISBLACK", "PALETTE"}:
        return page.samplesperpixel == 1 and (kind in {"bool", "uint16", "float32"} or page.bitspersample == 8)
    return colour in {"RGB", "YCBCR"} and kind == "uint8" and page.planarconfig == tifffile.PLANARCONFIG.CONTIG


def _by_pillow(path: Path, pages: int) -> NDArray[Any]:
    with PIL.Image.open(path) as picture:
        frames = []
        for page in range(pages):
            picture.seek(page)
            frames.append(np.array(picture))
    return np.stack(frames)


def _arranged(array: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """Order the axes of a TIFF as channels, pages, y, x."""
    found = [(name, n) for name, n in zip(axes, array.shape, strict=True) if n > 1 or name in "YX"]
    array = array.reshape([n for _, n in found])
    names = [name for name, _ in found]
    channels = [i for i, name in enumerate(names) if name in "SC"]
    pages = [i for i, name in enumerate(names) if name not in "SCYX"]
    if len(channels) > 1 or len(pages) > 1 or not {"Y", "X"} <= set(names):
        raise DataError(f"{path} has the axes {axes} {array.shape}; pages, rows, columns and colours are read")
    array = np.transpose(array, [*channels, *pages, names.index("Y"), names.index("X")])
    return array if channels else array[None]
