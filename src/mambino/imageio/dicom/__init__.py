"""DICOM series to volumes (extra `dicom`): files, a header pass, one series by rule, its order and grid, its voxels.

Messages name a series by its UID, modality and numbers. What may tell of a patient, free text and the names of
files below the given path included, stays out of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambino.core.image import Image
from mambino.imageio.dicom.choice import chosen
from mambino.imageio.dicom.geometry import placed
from mambino.imageio.dicom.headers import Frame, full_header, header_pass
from mambino.imageio.dicom.pixels import voxels
from mambino.imageio.dicom.sources import files_of

__all__ = ["Volume", "read"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One series as an image.

    Attributes:
        image: one channel.
        sentence: which series it is, and what else was there.
        frames: one a slice, in the order of the image.
        headers: all attributes but the pixels, by the UID of the file; empty where nobody asked for them.
    """

    image: Image
    sentence: str
    frames: tuple[Frame, ...]
    headers: dict[str, Any]


def read(path: Path, series: str | None = None, *, headers: bool = False) -> Volume:
    """Read one series of a folder, a zip, a DICOMDIR or a file.

    Args:
        path: where any number of series may lie mixed, in subfolders too.
        series: UID of the one to read; if None the largest that is a volume, see `choice.chosen`.
        headers: keep the attributes, which DICOM results refer to.

    Raises:
        MissingExtraError: pydicom is not installed, or SimpleITK where pixels are compressed.
        FileFormatError: an archive that is refused, or a file that cannot be decoded.
        DataError: no such series, or one that is no volume: the message names it and the values.
    """
    with files_of(path) as files:
        found = header_pass(files, path)
        picked = chosen(found, path, series)
        frames, grid = placed(picked.series)
        array = voxels(picked.series, frames)
        files_by_uid = {frame.uid: frame.file for frame in frames} if headers else {}
        kept = {uid: full_header(file) for uid, file in files_by_uid.items()}
    return Volume(Image(array[None], grid), picked.sentence, frames, kept)
