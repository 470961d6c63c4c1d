"""Images and segmentations fill their grids and hold what they declare."""

import numpy as np
import pytest

from mambino.core.grid import pixel_grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.errors import DataError


def test_an_image_fills_its_grid():
    assert Image(np.zeros((2, 3, 4)), pixel_grid((3, 4))).channels == 2
    with pytest.raises(DataError, match=r"an image of \(3, 5\) voxels does not fill a grid of \(3, 4\)"):
        Image(np.zeros((2, 3, 5)), pixel_grid((3, 4)))


def test_a_segmentation_fills_its_grid_with_known_numbers():
    labels = Labels(names={"a": (1,)})
    with pytest.raises(DataError, match=r"labels of \(3, 5\) voxels do not fill a grid of \(3, 4\)"):
        Segmentation(np.zeros((3, 5), int), pixel_grid((3, 4)), labels)
    with pytest.raises(DataError, match=r"label numbers \[7\] are not declared; known are \[0, 1\]"):
        Segmentation(np.full((3, 4), 7), pixel_grid((3, 4)), labels)
