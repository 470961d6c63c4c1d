"""Images to files, without loss and in their own type: what a repaired data set is written with."""

from pathlib import Path

import numpy as np

from mambino.core.image import Image
from mambino.core.records import replacing
from mambino.errors import DataError
from mambino.imageio import FORMATS, suffix


def write_image(path: Path, image: Image, like: Path | None = None) -> None:
    """Write all channels of an image; the suffix of `path` chooses the format.

    Args:
        path: .nii, .nii.gz, .png, .tif, .nrrd or .mha.
        image: what to write.
        like: a NIfTI file whose geometry is copied bit by bit.

    Raises:
        DataError: the format cannot hold the image: its type, its axes or its channels.
        FileFormatError: the file cannot be written; nothing is left behind then.
    """
    kind, single = suffix(path), image.array[0] if image.channels == 1 else image.array
    if kind in {".nii", ".nii.gz"}:
        from mambino.imageio import nifti

        nifti.write(path, single, image.grid, like if like and FORMATS.get(suffix(like)) == "nifti" else None)
    elif kind in {".nrrd", ".mha"} and image.channels == 1:
        from mambino.imageio import itk

        itk.write(path, single, image.grid)
    elif kind in {".tif", ".tiff"} or (kind == ".png" and _fits_png(image)):
        _write_picture(path, image)
    else:
        raise DataError(
            f"{path}: {kind} does not hold {image.channels} channels of {image.array.dtype} on {image.grid.dim} axes",
            "write .nii.gz or .tif",
        )


def _fits_png(image: Image) -> bool:
    colours = image.channels in {1, 3} and image.array.dtype == np.uint8
    return image.grid.dim == 2 and (colours or (image.channels == 1 and image.array.dtype == np.uint16))


def _write_picture(path: Path, image: Image) -> None:
    array = image.array[0] if image.channels == 1 else np.ascontiguousarray(np.moveaxis(image.array, 0, -1))
    import PIL.Image
    import tifffile

    with replacing(path) as part:
        if suffix(path) == ".png":
            PIL.Image.fromarray(array).save(part)
            return
        photometric = "rgb" if image.channels == 3 else "minisblack"
        planar = "contig" if image.channels > 1 else None
        tifffile.imwrite(part, array, compression="zlib", photometric=photometric, planarconfig=planar, metadata=None)
