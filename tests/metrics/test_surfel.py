"""The surface between voxels has the area of the published table, whatever the spacing."""

import warnings

import numpy as np
import pytest

from mambino.metrics.surfel import surfels


def all_codes(dim: int) -> np.ndarray:
    """One block of 2 voxels a side for each code, bit i for corner i."""
    return np.stack([(code >> np.arange(2**dim) & 1).astype(bool).reshape((2,) * dim) for code in range(2**2**dim)])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 3.0), (1.0, 1.0, 1.0), (1.0, 2.0, 3.5), (3.3, 0.6, 0.6)])
def test_every_code_has_the_area_of_the_published_table(spacing):
    utils = pytest.importorskip("monai.metrics.utils")
    dim = len(spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table, kernel = utils.get_code_to_measure_table(list(spacing))
    weights = np.asarray(kernel).reshape((2,) * dim)
    for block in all_codes(dim):
        expected = float(table[int((weights * block).sum())])
        assert surfels(block, spacing).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", [(2.0, 3.0), (1.0, 2.0, 3.5)])
def test_inside_and_outside_have_one_surface(spacing):
    for block in all_codes(len(spacing)):
        assert surfels(block, spacing) == pytest.approx(surfels(~block, spacing))


def test_a_flat_wall_has_its_area():
    mask = np.zeros((6, 5, 4), bool)
    mask[:3] = True
    areas = surfels(mask, (2.0, 0.5, 3.0))
    assert areas.shape == (5, 4, 3)
    assert areas.sum() == pytest.approx(4 * 0.5 * 3 * 3.0)
    assert areas[2] == pytest.approx(1.5)
    assert not areas[[0, 1, 3, 4]].any()


def test_one_voxel_is_an_octahedron_with_its_corners_on_the_faces():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    assert surfels(mask, (1.0, 1.0, 1.0)).sum() == pytest.approx(np.sqrt(3))


def test_one_pixel_is_a_diamond():
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    assert surfels(mask, (2.0, 2.0)).sum() == pytest.approx(4 * np.sqrt(2))


def test_a_ball_has_nearly_the_area_of_a_sphere():
    index = np.indices((41, 41, 41)) - 20
    area = surfels((index**2).sum(axis=0) < 15**2, (1.0, 1.0, 1.0)).sum()
    assert area == pytest.approx(4 * np.pi * 15**2, rel=0.1)  # half-way crossings leave steps, which add area
