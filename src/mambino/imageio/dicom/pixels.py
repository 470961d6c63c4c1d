"""Voxels of a series: decoded, rescaled, padding replaced.

What is stored plainly or run-length encoded is decoded by pydicom, which refuses pixels that are cut short; JPEG,
JPEG-LS and JPEG 2000 by SimpleITK, without plug-ins.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.machine import memory
from mambino.errors import DataError, FileFormatError, need
from mambino.imageio.dicom.codestreams import stated_size
from mambino.imageio.dicom.headers import Frame, Series, quietly

_PLAIN = {
    "",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
}
_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32)


def voxels(series: Series, frames: tuple[Frame, ...]) -> NDArray[np.generic]:
    """Return [z, y, x] real values of the frames, in their order.

    Integers where every slope is 1 and every intercept whole, in the smallest type that holds what the files may
    store, or what they do store; else float32. Padding becomes the lowest value of the rest.

    Raises:
        MissingExtraError: SimpleITK is not installed and pixels are compressed.
        FileFormatError: pixels that cannot be decoded, or are fewer than the header says.
        DataError: the volume is larger than the memory.
    """
    dtype = _type(frames)
    _check_memory(series, frames, dtype)
    array = np.empty((len(frames), *frames[0].shape), dtype)
    padded = np.zeros(array.shape, bool) if any(frame.padding for frame in frames) else None
    for slices, (values, scaled) in _decoded(series, frames):
        for place, frame in slices:
            piece = values[frame.number]
            real = piece if scaled else piece.astype(np.float64) * frame.slope + frame.intercept
            array[place] = real if dtype == np.float32 else np.rint(real)
            if padded is not None and frame.padding:
                ends = [v * frame.slope + frame.intercept if scaled else v for v in frame.padding]
                padded[place] = (piece >= min(ends)) & (piece <= max(ends))
    if padded is not None and padded.any() and not padded.all():
        array[padded] = array[~padded].min()
    fits = dtype == np.int32 and array.min() >= -(2**15) and array.max() < 2**15
    return array.astype(np.int16) if fits else array


def _type(frames: tuple[Frame, ...]) -> np.dtype[Any]:
    if any(frame.slope != 1 or frame.intercept != round(frame.intercept) for frame in frames):
        return np.dtype(np.float32)
    low = min(frame.intercept - (2 ** (frame.stored[0] - 1) if frame.stored[1] else 0) for frame in frames)
    high = max(frame.intercept + 2 ** (frame.stored[0] - frame.stored[1]) - 1 for frame in frames)
    fitting = (kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return np.dtype(next(fitting, np.float64))


def _check_memory(series: Series, frames: tuple[Frame, ...], dtype: np.dtype[Any]) -> None:
    size = len(frames) * frames[0].shape[0] * frames[0].shape[1] * (dtype.itemsize + 1) / 2**30
    if size > memory():
        raise DataError(
            f"{series} needs {size:.1f} GiB, this machine has {memory():.1f} GiB to spare",
            "read it on a machine with more memory",
        )


def _decoded(
    series: Series, frames: tuple[Frame, ...]
) -> Iterator[tuple[list[tuple[int, Frame]], tuple[NDArray[Any], bool]]]:
    """Yield the slices of each file with its pixels [frames, y, x], and whether these are real values already."""
    by_file: dict[Path, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(frames):
        by_file.setdefault(frame.file, []).append((place, frame))
    for file, slices in by_file.items():
        first = slices[0][1]
        if first.syntax in _PLAIN:
            values, scaled = _by_pydicom(series, file, first), False
        else:
            values, scaled = _by_itk(series, file, [frame for _, frame in slices]), True
        if values.shape[1:] != first.shape or len(values) <= max(frame.number for _, frame in slices):
            raise _undecodable(series, first)
        yield slices, (values, scaled)


def _by_pydicom(series: Series, file: Path, frame: Frame) -> NDArray[Any]:
    import pydicom

    with quietly():
        try:
            header = pydicom.dcmread(file, force=True)
            if not frame.syntax:
                header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            values: NDArray[Any] = np.asarray(header.pixel_array)
            unused = int(header.BitsAllocated) - int(header.get("BitsStored") or header.BitsAllocated)
        except Exception:  # damaged pixels make pydicom raise anything
            raise _undecodable(series, frame) from None
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    # Older scanners keep overlays in the bits above the stored ones; shifting up and down fills them with the sign.
    values = np.right_shift(np.left_shift(values, unused), unused) if unused else values
    return values.reshape(-1, *values.shape[-2:])


def _by_itk(series: Series, file: Path, frames: list[Frame]) -> NDArray[Any]:
    itk = need("SimpleITK", extra="dicom", why=f"decoding {series}")
    if len({(frame.slope, frame.intercept) for frame in frames}) > 1:
        raise DataError(
            f"{series} is compressed, and its frames are rescaled each in its own way", "export it uncompressed"
        )
    _check_sizes(series, file, frames[0])
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        values: NDArray[Any] = itk.GetArrayFromImage(itk.ReadImage(str(file), imageIO="GDCMImageIO"))
    except RuntimeError:
        raise _undecodable(series, frames[0]) from None
    return values.reshape(-1, *values.shape[-2:])


def _check_sizes(series: Series, file: Path, frame: Frame) -> None:
    """Refuse a file whose compressed frames are of another size than its header says."""
    import pydicom

    with quietly():
        try:
            header = pydicom.dcmread(file, force=True)
            count = int(header.get("NumberOfFrames") or 1)
            stated = {
                stated_size(data) for data in pydicom.encaps.generate_frames(header.PixelData, number_of_frames=count)
            }
        except Exception:  # damaged pixels make pydicom raise anything
            raise _undecodable(series, frame) from None
    if stated != {frame.shape}:
        raise _undecodable(series, frame)


def _undecodable(series: Series, frame: Frame) -> FileFormatError:
    import pydicom

    with quietly():
        syntax = pydicom.uid.UID(frame.syntax).name if frame.syntax else "no transfer syntax"
    return FileFormatError(
        f"{series} holds pixels that cannot be decoded, or fewer than its header says ({syntax})",
        "copy or export the series again, uncompressed where that is possible",
    )
