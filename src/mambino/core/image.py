"""Voxels on a grid: images with channels, and segmentations with label numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.labels import Labels
from mambino.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Intensities on a grid.

    Attributes:
        array: [c, *s] voxels, in the type of the file, or float32 where the file scales them.
        grid: where they are; `s` is its shape.
    """

    array: NDArray[np.generic]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.grid.shape:
            raise DataError(f"an image of {self.array.shape[1:]} voxels does not fill a grid of {self.grid.shape}")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Label numbers on a grid.

    Attributes:
        array: [*s] integers, each of them a number of `labels`.
        grid: where they are.
        labels: what they mean.
    """

    array: NDArray[np.integer]
    grid: Grid
    labels: Labels

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise DataError(f"labels of {self.array.shape} voxels do not fill a grid of {self.grid.shape}")
        # Label numbers have no gaps, so the range tells; looking at every number takes 30 times as long.
        if self.array.size and (self.array.min() < 0 or self.array.max() > self.labels.numbers[-1]):
            unknown = sorted(set(np.unique(self.array).tolist()) - set(self.labels.numbers))
            raise DataError(f"label numbers {unknown[:5]} are not declared; known are {list(self.labels.numbers)}")
