"""A small valid file of every kind of image that is read, how it is damaged, and what reads it."""

import shutil
import zipfile
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import SimpleITK
import tifffile
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mambino.core.image import Image
from mambino.imageio import dicom, nifti, raster, read_image, read_labels, write_labels
from mambino.imageio.dicom.sources import files_of
from mambino.training.pretraining.pictures import Picture, read_picture
from tests.fuzz import mutations as damage
from tests.fuzz.kinds import Kind
from tests.imageio.dicom.series import values, write_dicomdir, write_enhanced, write_series
from tests.imageio.files import TWO
from tests.places import DATA

_VOLUME = np.random.default_rng(0).integers(-200, 900, (5, 6, 7)).astype(np.int16)
_PICTURE = np.random.default_rng(1).integers(0, 256, (9, 11, 3)).astype(np.uint8)
_MASK = (_PICTURE[..., 0] // 100).astype(np.uint8)
_ENCODED = ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless")


def kinds() -> list[Kind]:
    """Return every kind of image; those of real compressed DICOM only where the shared data lie."""
    encoded = [name for name in _ENCODED if (DATA / f"dicom/encodings/{name}.dcm").is_file()]
    return [
        Kind("nifti", "a.nii", partial(_nifti, kind=nibabel.Nifti1Image), damage.any_bytes, _read_volume),
        Kind("nifti gz", "a.nii.gz", _nifti, damage.gzipped(damage.any_bytes), _read_volume),
        Kind("nifti 2", "a.nii", partial(_nifti, kind=nibabel.Nifti2Image), damage.any_bytes, _read_volume),
        Kind("mgh", "a.mgz", partial(_nifti, kind=nibabel.MGHImage), damage.gzipped(damage.any_bytes), _read_volume),
        Kind("nifti mask", "a.nii.gz", _nifti_mask, damage.gzipped(damage.any_bytes), _read_mask),
        Kind("png", "a.png", partial(_picture, array=_PICTURE), damage.png, _read_colours),
        Kind(
            "png grey 16",
            "a.png",
            partial(_picture, array=_PICTURE[..., 0].astype(np.uint16)),
            damage.png,
            _read_picture,
        ),
        Kind("png colour 16", "a.png", _png_colour_16, damage.png, _read_picture),
        Kind("png mask", "a.png", partial(_picture, array=_MASK), damage.png, _read_mask),
        Kind("jpeg", "a.jpg", partial(_picture, array=_PICTURE), damage.any_bytes, _read_colours),
        Kind("bmp", "a.bmp", partial(_picture, array=_PICTURE), damage.any_bytes, _read_colours),
        Kind("tiff", "a.tif", partial(_tiff, array=_PICTURE, photometric="rgb"), damage.any_bytes, _read_picture),
        Kind("tiff pages", "a.tif", partial(_tiff, array=_VOLUME, compression="zlib"), damage.any_bytes, _read_picture),
        Kind("tiff big", "a.tif", partial(_tiff, array=_VOLUME, bigtiff=True), damage.any_bytes, _read_picture),
        Kind("nrrd", "a.nrrd", _itk, damage.text_fields, _read_volume),
        Kind("nrrd plain", "a.nrrd", partial(_itk, packed=False), damage.text_fields, _read_volume),
        Kind("nrrd apart", "a.nhdr", partial(_itk, packed=False), damage.text_fields, _read_volume),
        Kind("mha", "a.mha", _itk, damage.text_fields, _read_volume),
        Kind("mha plain", "a.mha", partial(_itk, packed=False), damage.text_fields, _read_volume),
        Kind("mhd", "a.mhd", partial(_itk, packed=False), damage.text_fields, _read_volume),
        Kind("dicom", "a.dcm", _slice, damage.any_bytes, _read_dicom),
        Kind("dicom deflated", "a.dcm", partial(_slice, deflated=True), damage.any_bytes, _read_dicom),
        Kind("dicom frames", "a.dcm", _frames, damage.any_bytes, _read_dicom),
        *(Kind(name, "a.dcm", partial(_encoded, name=name), damage.any_bytes, _read_dicom) for name in encoded),
        Kind("dicom zip", "a.zip", _zip, damage.zipped(damage.any_bytes), _read_dicom),
        Kind("dicomdir", "DICOMDIR", _dicomdir, damage.any_bytes, _read_dicomdir),
    ]


def _nifti(path: Path, kind: type = nibabel.Nifti1Image) -> None:
    voxels = _VOLUME.T if kind is not nibabel.MGHImage else _VOLUME.T.astype(np.float32)
    nibabel.save(kind(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def _nifti_mask(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image((_VOLUME.T % 3).astype(np.uint8), np.eye(4)), path)


def _picture(path: Path, array: np.ndarray) -> None:
    PIL.Image.fromarray(array).save(path)


def _png_colour_16(path: Path) -> None:
    image = SimpleITK.GetImageFromArray(_PICTURE.astype(np.uint16) * 200, isVector=True)
    SimpleITK.WriteImage(image, str(path))


def _tiff(path: Path, array: np.ndarray, **options) -> None:
    tifffile.imwrite(path, array, **options)


def _itk(path: Path, packed: bool = True) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(_VOLUME), str(path), packed)


def _slice(path: Path, deflated: bool = False) -> None:
    def change(made: Dataset, _: int) -> None:
        if deflated:
            made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_series(path.parent, values((1, 7, 6)), names=lambda _: path.name, change=change)


def _frames(path: Path) -> None:
    write_enhanced(path, values((3, 7, 6)))


def _encoded(path: Path, name: str) -> None:
    shutil.copyfile(DATA / f"dicom/encodings/{name}.dcm", path)


def _zip(path: Path) -> None:
    files = write_series(path.parent / "series", values((2, 7, 6)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"series/{file.name}")
    shutil.rmtree(path.parent / "series")


def _dicomdir(path: Path) -> None:
    write_series(path.parent / "IMAGES", values((2, 7, 6)), names=lambda n: f"I{n}")
    write_dicomdir(path.parent, [["IMAGES", "I0"], ["IMAGES", "I1"]])


def _read_volume(path: Path) -> Image:
    """Read an image; where it is NIfTI, also take its shape alone and write a mask like it."""
    image = read_image(path)
    if path.name.endswith((".nii", ".nii.gz", ".mgz")):
        nifti.shape_of(path)
    return image


def _read_picture(path: Path) -> None:
    raster.shape_of(path)
    read_image(path)


def _read_colours(path: Path) -> None:
    """Read as `pretrain` does, and then as all others do."""
    try:
        read_picture(Picture(path, 0))
    finally:
        _read_picture(path)


def _read_mask(path: Path) -> None:
    mask = read_labels(path, TWO)
    write_labels(path.with_name(f"written-{path.name}"), mask, like=path)


def _read_dicom(path: Path) -> None:
    dicom.read(path, headers=True)


def _read_dicomdir(path: Path) -> None:
    with files_of(path) as files:
        assert all(path.parent in file.parents for file in files)
    dicom.read(path)
