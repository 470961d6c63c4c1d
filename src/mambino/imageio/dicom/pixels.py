"""Voxels of a series: decoded, rescaled, padding replaced.

What is stored plainly or run-length encoded is decoded by pydicom, which refuses pixels that are cut short; JPEG,
JPEG-LS and JPEG 2000 by SimpleITK, without plug-ins.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.errors import FileFormatError, need
from mambino.imageio.dicom.codestreams import stated_size
from mambino.imageio.dicom.headers import Frame, Series, quietly
from mambino.imageio.limits import check_room

_PLAIN = {
    "",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
}
_CT = "1.2.840.10008.5.1.4.1.1.2"
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
    check_room(series, len(frames) * frames[0].shape[0] * frames[0].shape[1] * (dtype.itemsize + 1))
    array = np.empty((len(frames), *frames[0].shape), dtype)
    padded = np.zeros(array.shape, bool) if any(frame.padding for frame in frames) else None
    for slices, values in _decoded(series, frames):
        for place, frame in slices:
            piece = values[frame.number]
            real = piece.astype(np.float64) * frame.slope + frame.intercept
            array[place] = real if dtype == np.float32 else np.rint(real)
            if padded is not None and frame.padding:
                padded[place] = (piece >= frame.padding[0]) & (piece <= frame.padding[1])
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


def _decoded(series: Series, frames: tuple[Frame, ...]) -> Iterator[tuple[list[tuple[int, Frame]], NDArray[Any]]]:
    """Yield the slices of each file, and the stored values of all its frames [frames, y, x]."""
    by_file: dict[Path, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(frames):
        by_file.setdefault(frame.file, []).append((place, frame))
    for file, slices in by_file.items():
        first = slices[0][1]
        decode = _by_pydicom if first.syntax in _PLAIN else _by_itk
        values = decode(series, file, first)
        if values.shape[1:] != first.shape or len(values) <= max(frame.number for _, frame in slices):
            raise _undecodable(series, first)
        yield slices, values


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


def _by_itk(series: Series, file: Path, frame: Frame) -> NDArray[Any]:
    """Decode compressed frames, each from a file of its own that states nothing but its pixels.

    So no decoder sees the other attributes: the rescaling, which is ours to do, and lengths that a damaged file states.
    """
    import pydicom

    itk = need("SimpleITK", extra="dicom", why=f"decoding {series}")
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    with quietly(), TemporaryDirectory(prefix="mambino-") as scratch:
        try:
            header = pydicom.dcmread(file, force=True)
            count = int(header.get("NumberOfFrames") or 1)
            parts = pydicom.encaps.generate_frames(header.PixelData, number_of_frames=count)
            return np.stack([_plane(itk, header, data, frame, Path(scratch) / "frame.dcm") for data in parts])
        except Exception:  # damaged pixels make pydicom raise anything, and SimpleITK RuntimeError
            raise _undecodable(series, frame) from None


def _plane(itk: ModuleType, header: Any, data: bytes, frame: Frame, scratch: Path) -> NDArray[Any]:
    """Decode one compressed frame; raise where its size is not the one that the header states."""
    import pydicom

    if stated_size(data) != frame.shape:
        raise ValueError("another size")
    alone = pydicom.Dataset()
    alone.file_meta = pydicom.dataset.FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = pydicom.uid.UID(frame.syntax)
    alone.SOPClassUID, alone.SOPInstanceUID = _CT, "1.2.3"
    alone.SamplesPerPixel, alone.PhotometricInterpretation = 1, "MONOCHROME2"
    alone.Rows, alone.Columns = frame.shape
    alone.BitsAllocated, alone.BitsStored, signed = header.BitsAllocated, frame.stored[0], frame.stored[1]
    alone.HighBit, alone.PixelRepresentation = frame.stored[0] - 1, int(signed)
    alone.PixelData = pydicom.encaps.encapsulate([data])
    alone["PixelData"].VR = "OB"
    alone.save_as(scratch, enforce_file_format=True)
    values: NDArray[Any] = itk.GetArrayFromImage(itk.ReadImage(str(scratch), imageIO="GDCMImageIO"))
    return values.reshape(frame.shape)


def _undecodable(series: Series, frame: Frame) -> FileFormatError:
    import pydicom

    with quietly():
        syntax = pydicom.uid.UID(frame.syntax).name if frame.syntax else "no transfer syntax"
    return FileFormatError(
        f"{series} holds pixels that cannot be decoded, or fewer than its header says ({syntax})",
        "copy or export the series again, uncompressed where that is possible",
    )
