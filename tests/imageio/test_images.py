"""An image is read back as it was written, in its own type, or refused in a sentence."""

import numpy as np
import pytest

from mambino.core.grid import pixel_grid
from mambino.core.image import Image
from mambino.errors import DataError
from mambino.imageio import read_image
from mambino.imageio.images import write_image

PICTURE, VOLUME = pixel_grid((6, 7)), pixel_grid((4, 6, 7), (3.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "grid"),
    [
        ("a.png", 1, "u1", PICTURE),
        ("a.png", 3, "u1", PICTURE),
        ("a.png", 1, "u2", PICTURE),
        ("a.tif", 1, "f4", PICTURE),
        ("a.tif", 3, "u1", PICTURE),
        ("a.tif", 1, "i2", pixel_grid((5, 6, 7))),
        ("a.nii.gz", 1, "i2", VOLUME),
        ("a.nii.gz", 2, "f4", VOLUME),
        ("a.nii", 1, "u1", VOLUME),
    ],
)
def test_images_are_read_back_as_they_were_written(name, channels, dtype, grid, tmp_path):
    array = np.random.default_rng(0).integers(0, 250, (channels, *grid.shape)).astype(dtype)
    write_image(tmp_path / name, Image(array, grid))
    back = read_image(tmp_path / name, channels=channels)
    assert back.array.dtype == array.dtype
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.grid.affine, grid.affine)


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "grid"),
    [("a.png", 1, "f4", PICTURE), ("a.png", 1, "u1", VOLUME), ("a.jpg", 1, "u1", PICTURE), ("a.mha", 2, "u1", VOLUME)],
)
def test_what_a_format_does_not_hold_is_refused(name, channels, dtype, grid, tmp_path):
    image = Image(np.zeros((channels, *grid.shape), dtype), grid)
    with pytest.raises(DataError, match=f"does not hold {channels} channels of {image.array.dtype}"):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())
