"""Voxels to files and back: the one place that imports image libraries.

What a file is follows from its first bytes, and from its suffix where these say nothing.
"""

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.core.records import replacing
from mambino.core.scratch import Room
from mambino.errors import DataError, FileFormatError
from mambino.imageio import codes as coding

Format = Literal["nifti", "raster", "itk", "dicom"]

FORMATS: dict[str, Format] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mgz": "nifti",
    ".mgh": "nifti",
    ".png": "raster",
    ".jpg": "raster",
    ".jpeg": "raster",
    ".bmp": "raster",
    ".tif": "raster",
    ".tiff": "raster",
    ".nrrd": "itk",
    ".nhdr": "itk",
    ".mha": "itk",
    ".mhd": "itk",
}
SUFFIXES = tuple(FORMATS)
"""What `read_image` reads, lower case; the last two lines of formats need the extra `itk`."""

FROM_DICOM = "convert the series to NIfTI first, for example with dcm2niix -z y -o FOLDER SERIES"
_DICOM = {".dcm", ".dicom", ".ima"}
_ZIP = b"PK\x03\x04"
_DEEP = 1000  # entries of a folder that are looked at, to say what it holds
_SIGNATURES: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x89PNG", "raster"),
    (0, b"\xff\xd8\xff", "raster"),
    (0, b"II*\0", "raster"),
    (0, b"MM\0*", "raster"),
    (0, b"II+\0", "raster"),
    (0, b"MM\0+", "raster"),
    (0, b"NRRD0", "itk"),
    (128, b"DICM", "dicom"),
    (344, b"n+1\0", "nifti"),
    (344, b"ni1\0", "nifti"),
    (4, b"n+2\0", "nifti"),
    (4, b"ni2\0", "nifti"),
)


def suffix(path: Path) -> str:
    """Return the whole suffix in lower case: ".nii.gz", ".png"; the last part alone of one that is not known."""
    name = path.name.lower()
    return next((known for known in SUFFIXES if name.endswith(known)), path.suffix.lower())


def mask_suffix(path: Path) -> str:
    """Return the suffix that the mask of an image gets: as the image where that keeps numbers and place."""
    kind = "" if path.is_dir() else suffix(path)
    if kind in {".tif", ".tiff"}:
        return kind  # which may hold pages
    return ".png" if FORMATS.get(kind) == "raster" else ".nii.gz"


def read_image(path: Path, *, channels: int | None = None, whose: str = "", room: Room | None = None) -> Image:
    """Read all channels of one file, in the type of the file, or float32 where the file scales them.

    Args:
        path: of the file; of DICOM, the folder, zip or DICOMDIR of a series.
        channels: how many there must be. If None, an axis that becomes channels is warned about.
        whose: who says so, for the message: "the data set heart has (MRI)".
        room: for the voxels of a NIfTI file, which are then for reading only; others are in memory.

    Raises:
        FileFormatError: missing, damaged, truncated, or of a kind that is not read.
        DataError: what the file holds is no image of ours, or has another number of channels.
        MissingExtraError: another package reads it.
    """
    path = Path(path)
    image = _read(path, declared=channels is not None, room=room)
    if channels is not None and image.channels != channels:
        source = f", the number that {whose}" if whose else ""
        raise DataError(
            f"{path} has {image.channels} channels instead of {channels}{source}",
            "give images with the channels of the training data, in its order",
        )
    return image


def read_labels(path: Path, labels: Labels, codes: dict[str, int] | None = None) -> Segmentation:
    """Read a mask as label numbers, in the smallest unsigned type.

    Numbers stored as floats are taken where they are whole; `codes` translates grey values and colours.

    Raises:
        DataError: a value that is not whole, that no code names, or that `labels` does not declare.
        FileFormatError: as for images.
    """
    path = Path(path)
    image = _read(path, declared=True)
    array = coding.check_known(coding.decode(image.array, codes, path), labels, path)
    return Segmentation(array, image.grid, labels)


def write_labels(path: Path, segmentation: Segmentation, like: Path | None = None) -> None:
    """Write a mask in the smallest unsigned type; the suffix of `path` chooses the format.

    Args:
        path: of the file; its folder is made where missing.
        segmentation: label numbers.
        like: the image that it belongs to. A NIfTI mask gets its geometry from that header bit by bit:
            shape, affine, both codes, units and spacing.

    Raises:
        DataError: `like` has another shape, or the format cannot hold the numbers.
        FileFormatError: the file cannot be written; nothing is left behind then.
    """
    path, kind = Path(path), _writable(Path(path))
    array = segmentation.array.astype(coding.smallest(int(segmentation.array.max())), copy=False)
    nifti_like = _check_like(path, array.shape, like)
    if kind == "raster":
        from mambino.imageio import raster

        raster.write(path, array, suffix(path))
    elif kind == "itk":
        from mambino.imageio import itk

        itk.write(path, array, segmentation.grid)
    else:
        from mambino.imageio import nifti

        nifti.write(path, array, segmentation.grid, nifti_like)


def write_scores(path: Path, array: NDArray[np.floating], grid: Grid, like: Path | None = None) -> None:
    """Write [k, *s] scores, 0 or more, in 16 bits: a fourth axis of a NIfTI file, or float16 `scores` in an .npz file.

    NIfTI has no float16; its numbers are whole, with the slope that makes the largest 65535: exact to 8e-6 of it, where
    float16 is to 2e-4. Every viewer applies the slope.

    Raises:
        DataError: the scores do not lie on `grid`, or the suffix is of another format.
        FileFormatError: the file cannot be written; nothing is left behind then.
    """
    path = Path(path)
    if array.shape[1:] != grid.shape:
        raise DataError(f"{path}: scores of {array.shape[1:]} voxels do not fill a grid of {grid.shape}")
    if path.suffix.lower() == ".npz":
        with replacing(path) as part:
            np.savez_compressed(part, scores=array.astype(np.float16))
        return
    if suffix(path) not in {".nii", ".nii.gz"}:
        raise DataError(f"{path}: scores are written as .nii.gz or .npz, not as {suffix(path)}", "choose one of these")
    from mambino.imageio import nifti

    top = max(1.0, float(array.max(initial=0.0)))
    nifti.write(path, array, grid, _check_like(path, grid.shape, like), slope=top / np.iinfo(np.uint16).max)


def _read(path: Path, *, declared: bool, room: Room | None = None) -> Image:
    try:
        kind = _format(path)
        if kind == "nifti":
            from mambino.imageio import nifti

            return nifti.read(path, declared=declared, room=room)
        if kind == "raster":
            from mambino.imageio import raster

            return raster.read(path)
        if kind == "dicom":
            from mambino.imageio import dicom

            return dicom.read(path).image
        from mambino.imageio import itk

        return itk.read(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except MemoryError:
        raise DataError(f"{path} needs more memory than is left", "read it on a machine with more memory") from None


def _format(path: Path) -> Format:
    """Tell what a file is, or refuse it."""
    if path.is_dir():
        if holds_dicom(path):
            return "dicom"
        raise FileFormatError(f"{path} is a folder, not an image", "name a file in it")
    kind = "dicom" if is_dicom(path) else _signed(path) or FORMATS.get(suffix(path))
    if path.stat().st_size == 0:
        raise FileFormatError(f"{path} is empty", "copy or export the file again")
    if kind is None:
        known = ", ".join(SUFFIXES)
        raise FileFormatError(
            f"{path} has the format {suffix(path) or 'without a suffix'}, which is not read",
            f"convert it to one of {known}",
        )
    return kind


def check_readable(path: Path) -> None:
    """Refuse a path that `read_image` would refuse by what kind of file it is.

    Raises:
        FileFormatError: missing, empty, a folder, or of a kind that is not read.
    """
    try:
        _format(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, by its mark or its suffix, or a zip; one that cannot be read is neither."""
    try:
        return suffix(path) in _DICOM or _signed(path) == "dicom" or _is_zip(path)
    except OSError:
        return False


def holds_dicom(folder: Path) -> bool:
    """Tell whether a folder, with all below it, is a source of DICOM: it holds some, and no more images of others."""
    files = [file for file in islice(folder.rglob("*"), _DEEP) if file.is_file() and not file.name.startswith(".")]
    dicom = sum(is_dicom(file) and suffix(file) != ".zip" for file in files)
    return dicom > sum(suffix(file) in FORMATS for file in files)


def _is_zip(path: Path) -> bool:
    if suffix(path) != ".zip":
        return False
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def _signed(path: Path) -> Format | None:
    with path.open("rb") as file:
        start = file.read(352)
    return next((kind for at, mark, kind in _SIGNATURES if start[at : at + len(mark)] == mark), None)


def _unreadable(path: Path, error: OSError) -> FileFormatError:
    return FileFormatError(f"{path} cannot be read: {error.strerror or error}", "check the path and its permissions")


def _writable(path: Path) -> Format:
    kind = suffix(path)
    if kind not in {".nii", ".nii.gz", ".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".nrrd", ".mha"}:
        raise DataError(
            f"{path}: masks are not written as {kind or 'a file without a suffix'}", "choose .nii.gz, .png or .tif"
        )
    return FORMATS[kind]


def _check_like(path: Path, shape: tuple[int, ...], like: Path | None) -> Path | None:
    """Refuse an image of another shape; return it where its header can be copied."""
    if like is None:
        return None
    like = Path(like)
    try:
        kind = _format(like)
        if kind == "nifti":
            from mambino.imageio import nifti

            found = nifti.shape_of(like)
        elif kind == "raster":
            from mambino.imageio import raster

            found = raster.shape_of(like)
        else:
            found = _read(like, declared=True).grid.shape
    except OSError as error:
        raise _unreadable(like, error) from None
    if found != shape:
        raise DataError(f"{path}: labels of {shape} voxels do not fill {like} of {found}")
    return like if kind == "nifti" else None
