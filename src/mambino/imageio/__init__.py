"""Voxels to files and back: the one place that imports image libraries."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nrrd", ".nhdr", ".mha", ".mhd")


def suffix(path: Path) -> str: ...


def mask_suffix(path: Path) -> str: ...


def read_image(path: Path, *, channels: int | None = None) -> Image: ...


def read_labels(path: Path, labels: Labels, codes: dict[str, int] | None = None) -> Segmentation: ...


def write_labels(path: Path, segmentation: Segmentation, like: Path | None = None) -> None: ...


def write_scores(path: Path, array: NDArray[np.floating], grid: Grid, like: Path | None = None) -> None: ...
