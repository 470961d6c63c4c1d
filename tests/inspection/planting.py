"""Small data sets to plant faults in, written without the package that is tested."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mambino.core.findings import Findings
from mambino.core.options import CheckOptions
from mambino.inspection import check

Change = Callable[[NDArray[Any]], NDArray[Any]]

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def volumes(folder: Path, *, labels: dict[str, Any] | None = None) -> Path:
    """Write five training and two test cases of 12 x 10 x 8 voxels (x, y, z) with the labels 1 and 2."""
    describe(folder, {"0": "MRI"}, labels or {"background": 0, "head": 1, "tail": 2}, ".nii.gz")
    for part, count in (("Tr", 5), ("Ts", 2)):
        for number in range(count):
            rng = np.random.default_rng([number, len(part), ord(part[1])])
            save(folder / f"images{part}/{part}_{number}_0000.nii.gz", rng.integers(0, 900, (12, 10, 8), np.int16))
            mask = np.zeros((12, 10, 8), np.uint8)
            mask[3:6, 3:7, 2 : 3 + number], mask[6:9, 3:7, 2:5] = 1, 2
            save(folder / f"labels{part}/{part}_{number}.nii.gz", mask)
    return folder


def pictures(folder: Path, *, labels: dict[str, Any] | None = None, ending: str = ".png") -> Path:
    """Write five training and two test pictures of 32 x 24 grey pixels with the label 1."""
    describe(folder, {"0": "grey"}, labels or {"background": 0, "lesion": 1}, ending)
    for part, count in (("Tr", 5), ("Ts", 2)):
        for number in range(count):
            rng = np.random.default_rng([number, ord(part[1])])
            image = rng.integers(0, 256, (24, 32), np.uint8)
            draw(folder / f"images{part}/{part}_{number}_0000{ending}", image)
            mask = np.zeros((24, 32), np.uint8)
            mask[6:18, 8 : 20 + number] = 1
            draw(folder / f"labels{part}/{part}_{number}{ending}", mask)
    return folder


def describe(folder: Path, channels: dict[str, str], labels: dict[str, Any], ending: str) -> None:
    """Write dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"channel_names": channels, "labels": labels, "numTraining": 5, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(facts))


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    """Write a NIfTI file from an array (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def draw(path: Path, array: NDArray[Any], **options: Any) -> None:
    """Write a picture from an array (y, x) or (y, x, colour)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def change(path: Path, by: Change, dtype: Any = None) -> None:
    """Change the voxels of a file."""
    if path.suffix == ".png":
        array = by(np.array(PIL.Image.open(path)))
        path.unlink()
        draw(path, array.astype(dtype or array.dtype))
        return
    old = nib.load(path)
    array = by(np.asarray(old.dataobj))
    affine = old.affine
    path.unlink()
    save(path, array.astype(dtype or array.dtype), affine)


def move(path: Path, affine: NDArray[Any]) -> None:
    """Give a NIfTI file another affine."""
    array = np.asarray(nib.load(path).dataobj)
    path.unlink()
    save(path, array, affine)


def found(folder: Path) -> Findings:
    """Check without a second process."""
    return check(folder, CheckOptions(workers=1))


def repaired(folder: Path, copy: Path) -> Findings:
    """Check with repair, without a second process."""
    return check(folder, CheckOptions(workers=1, repair=True, output=copy))


def kinds(findings: Findings) -> set[str]:
    """Return the kinds of all findings."""
    return {finding.kind for finding in findings.findings}


def subset(source: Path, folder: Path, training: int, test: int) -> Path:
    """Copy the first cases of a shared data set."""
    folder.mkdir(parents=True)
    shutil.copyfile(source / "dataset.json", folder / "dataset.json")
    for part, count in (("Tr", training), ("Ts", test)):
        masks = sorted((source / f"labels{part}").iterdir())[:count]
        for mask in masks:
            case = mask.name.partition(".")[0]
            for file in (mask, *(source / f"images{part}").glob(f"{case}_0*")):
                to = folder / file.relative_to(source)
                to.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, to)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def image(folder: Path, case: str = "Tr_1") -> Path:
    """Return the image file of a case."""
    return next((folder / f"images{case[:2]}").glob(f"{case}_0000.*"))


def mask(folder: Path, case: str = "Tr_1") -> Path:
    """Return the mask file of a case."""
    return next((folder / f"labels{case[:2]}").glob(f"{case}.*"))


def truncate(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def crop(path: Path) -> None:
    """Take two slices off a volume."""
    change(path, lambda a: a[:-2])


def recolour(path: Path) -> None:
    """Paint a mask red on black."""
    grey = np.array(PIL.Image.open(path))
    draw(path, np.stack([grey * 255, grey * 0, grey * 0], -1))


def compress(path: Path, quality: int = 60) -> None:
    """Send a black and white mask through JPEG and store what comes out as PNG."""
    lossy = path.with_suffix(".jpg")
    draw(lossy, np.array(PIL.Image.open(path)) * np.uint8(255), quality=quality)
    draw(path, np.array(PIL.Image.open(lossy)))
    lossy.unlink()


def poison(path: Path) -> None:
    """Put NaN and both infinities into a volume."""

    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[0, 0, :3] = np.nan, np.inf, -np.inf
        return array

    change(path, spoil)


def stretch(path: Path, by: float) -> None:
    """Multiply the spacing of a volume."""
    move(path, np.diag([by, by, 2 * by, 1.0]))


def turn(path: Path) -> None:
    """Store a volume as if its x and y ran the other way."""
    move(path, np.diag([-1.0, -1.0, 2.0, 1.0]))


def tile(path: Path) -> None:
    """Make a volume four times as long."""
    change(path, lambda a: np.tile(a, (4, 1, 1)))


def disagree(path: Path) -> None:
    """Give a volume a qform that is not its sform."""
    volume = nib.load(path)
    array = np.asarray(volume.dataobj)
    new = nib.Nifti1Image(array, AFFINE)
    new.set_qform(np.diag([1.0, 1.0, 3.0, 1.0]), 1)
    new.set_sform(AFFINE, 1)
    path.unlink()
    nib.save(new, path)


def double(folder: Path) -> None:
    """Make the last training case a copy of the first."""
    for path in (image(folder, "Tr_4"), mask(folder, "Tr_4")):
        shutil.copyfile(path.parent / path.name.replace("_4", "_0"), path)
