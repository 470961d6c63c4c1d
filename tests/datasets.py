"""Small data sets made on the spot: blobs that a small network learns within seconds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image as Picture


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with a bright and a dark ball on noise, and the mask that says where they are."""
    random = np.random.default_rng(seed)
    image = random.normal(100, 5, shape)
    mask = np.zeros(shape, np.uint8)
    index = np.indices(shape)
    for label, brightness in ((1, 60), (2, -60)):
        radius = min(shape) / 5
        centre = [random.uniform(radius + 1, n - radius - 1) for n in shape]
        inside = sum((i - c) ** 2 for i, c in zip(index, centre, strict=True)) < radius**2
        mask[inside] = label
        image[inside] = 100 + brightness + random.normal(0, 5, int(inside.sum()))
    return image, mask


def write_volumes(
    folder: Path, *, training: int = 6, test: int = 2, shape: tuple[int, int, int] = (16, 20, 24)
) -> Path:
    """Write a 3D data set in nnU-Net's layout; return its folder."""
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    for i in range(training + test):
        part = "Tr" if i < training else "Ts"
        image, mask = blobs(shape, i)
        for kind, array in ((f"images{part}", image.astype(np.float32)), (f"labels{part}", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            name = f"case_{i:02d}_0000.nii.gz" if kind.startswith("images") else f"case_{i:02d}.nii.gz"
            nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), affine), folder / kind / name)
    return _describe(folder, training, ".nii.gz")


def write_pictures(folder: Path, *, training: int = 6, test: int = 2, shape: tuple[int, int] = (64, 64)) -> Path:
    """Write a 2D grey data set in nnU-Net's layout; return its folder."""
    for i in range(training + test):
        part = "Tr" if i < training else "Ts"
        image, mask = blobs(shape, i)
        for kind, array in ((f"images{part}", image.clip(0, 255).astype(np.uint8)), (f"labels{part}", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            name = f"case_{i:02d}_0000.png" if kind.startswith("images") else f"case_{i:02d}.png"
            Picture.fromarray(array).save(folder / kind / name)
    return _describe(folder, training, ".png")


def _describe(folder: Path, training: int, ending: str) -> Path:
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright": 1, "dark": 2},
        "numTraining": training,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
