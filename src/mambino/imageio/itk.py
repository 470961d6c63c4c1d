"""NRRD and MetaImage through SimpleITK (extra `itk`), and the few rasters that only it reads right.

ITK's world is LPS, ours RAS: the first two world rows change sign.
"""

import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Image
from mambino.core.records import replacing
from mambino.errors import DataError, FileFormatError, need
from mambino.imageio.headers import check_header
from mambino.imageio.limits import check_room


def read(path: Path) -> Image:
    """Read all channels; a fourth axis and vectors become channels.

    Raises:
        MissingExtraError: SimpleITK is not installed.
        FileFormatError: the file is damaged or of another kind.
        DataError: complex voxels, or a number of axes that no image of ours has.
    """
    itk = _itk(path, "reading")
    image = _open(itk, path)
    array = _array(itk, image, path)
    dim = min(3, image.GetDimension())
    if image.GetDimension() not in {2, 3, 4}:
        raise DataError(f"{path} has {image.GetDimension()} axes; images have 2 or 3, and one for channels")
    direction = np.asarray(image.GetDirection()).reshape([image.GetDimension()] * 2)[:dim, :dim]
    affine = np.eye(dim + 1)
    affine[:dim, :dim] = (direction * np.asarray(image.GetSpacing())[:dim])[:, ::-1]
    affine[:dim, dim] = image.GetOrigin()[:dim]
    affine[:2] *= -1
    try:
        grid = Grid(array.shape[1:], affine)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return Image(array, grid)


def read_pixels(path: Path) -> NDArray[np.generic]:
    """Read a picture as [c, y, x] in the type of the file."""
    itk = _itk(path, "reading 16-bit colours of")
    return _array(itk, _open(itk, path), path)


def write(path: Path, array: NDArray[np.generic], grid: Grid) -> None:
    """Write [*s] labels on `grid`, compressed."""
    itk = _itk(path, "writing")
    axes = grid.affine[:-1, :-1][:, ::-1] * np.where(np.arange(grid.dim) < 2, -1, 1)[:, None]
    spacing = np.linalg.norm(axes, axis=0)
    image = itk.GetImageFromArray(array)
    try:
        image.SetSpacing(spacing.tolist())
        image.SetOrigin((grid.affine[:-1, -1] * np.where(np.arange(grid.dim) < 2, -1, 1)).tolist())
        image.SetDirection((axes / spacing).ravel().tolist())
        with replacing(path) as part:
            itk.WriteImage(image, str(part), True)
            if not np.array_equal(itk.GetArrayFromImage(itk.ReadImage(str(part))), array, equal_nan=True):
                raise RuntimeError("the disk is full")  # of which ITK says nothing
    except RuntimeError as error:
        raise FileFormatError(
            f"{path} cannot be written: {_cause(error)}", "free some space, or write .nii.gz, which holds any grid"
        ) from None


def _itk(path: Path, doing: str) -> ModuleType:
    return need("SimpleITK", extra="itk", why=f"{doing} {path}")


def _open(itk: ModuleType, path: Path):  # type: ignore[no-untyped-def]  # SimpleITK has no types
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    check_header(path)
    try:
        reader = itk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        voxel = reader.GetNumberOfComponents() * _bytes_of(itk, reader.GetPixelID())
        check_room(path, 2 * math.prod(reader.GetSize()) * voxel)
        return reader.Execute()
    except RuntimeError as error:
        raise FileFormatError(f"{path} cannot be read: {_cause(error)}", "copy or export the file again") from None


def _bytes_of(itk: ModuleType, kind: int) -> int:
    """Return the bytes of a component of a pixel, from the name of its type: "16-bit signed integer"."""
    bits = re.search(r"\d+", itk.GetPixelIDValueAsString(kind))
    return int(bits[0]) // 8 if bits else 8


def _array(itk: ModuleType, image, path: Path) -> NDArray[np.generic]:  # type: ignore[no-untyped-def]
    array: NDArray[np.generic] = itk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise DataError(f"{path} holds complex voxels ({array.dtype})", "store the magnitude, or two real channels")
    if image.GetNumberOfComponentsPerPixel() > 1:
        return np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array if image.GetDimension() == 4 else array[None]


def _cause(error: RuntimeError) -> str:
    """Return the last line of ITK's report, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ITK ERROR: ") if lines else "unknown cause"
