"""A picture shows the voxels where they are: its pixels, its outlines, its shape in the world."""

import base64
import io
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from mambino.core.grid import Grid, pixel_grid
from mambino.core.labels import Labels
from mambino.evaluation.overlay import COLOURS, colours, find_images, outline, overlay, png
from mambino.evaluation.pairing import Masks

ONE = Labels(names={"one": (1,)})


def opened(uri: str) -> np.ndarray:
    with Picture.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture)


def volume(shape: tuple[int, int, int], spacing: tuple[float, float, float], *, flip: bool = False) -> Grid:
    """A grid whose fastest axis runs to the right (RAS), or to the left where `flip`."""
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.diag(spacing[::-1]))
    if flip:
        affine[0] *= -1
    return Grid(shape, affine)


@given(shape=st.sampled_from([(3, 5, 1), (4, 2, 3), (1, 7, 4)]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_a_png_holds_the_pixels_it_was_made_of(shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    with Picture.open(io.BytesIO(png(array))) as picture:
        assert (np.asarray(picture).reshape(shape) == array).all()


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_an_outline_is_as_long_as_the_border_of_the_mask(seed):
    mask = np.random.default_rng(seed).random((6, 7)) < 0.5
    padded = np.pad(mask, 1).astype(int)
    border = sum(int(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    assert sum(int(n) for n in re.findall(r"[hv](\d+)", outline(mask))) == border


def test_one_pixel_has_four_sides():
    mask = np.zeros((3, 3), bool)
    mask[1, 2] = True
    assert outline(mask) == "M2 1h1M2 2h1M2 1v1M3 1v1"


def test_colours_begin_again_after_the_last():
    assert colours(len(COLOURS) + 1)[-1] == COLOURS[0]


def test_the_prediction_is_filled_and_the_truth_outlined():
    made, true = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    made[1, 1], true[2, 3] = 1, 1
    shown = overlay("a", Masks(made, true, pixel_grid((4, 5))), ONE, ())
    fill = opened(shown.fill)
    assert fill.shape == (4, 5, 4)
    assert np.argwhere(fill[..., 3]).tolist() == [[1, 1]]
    assert [contour.path for contour in shown.contours] == ["M3 2h1M3 3h1M3 2v1M4 2v1"]
    assert (shown.image, shown.caption) == (None, "")


def test_a_picture_is_cut_to_its_structures():
    mask = np.zeros((400, 400), np.uint8)
    mask[100:200, 300:310] = 1
    shown = overlay("a", Masks(mask, mask, pixel_grid((400, 400))), ONE, ())
    assert (shown.rows, shown.columns) == (75 + 100 + 75, 24 + 10 + 24)


def test_a_volume_is_shown_by_its_fullest_slice_in_the_shape_of_the_body():
    true = np.zeros((6, 8, 10), np.uint8)
    true[4, 2:6, 1:3] = 1
    true[2, 0, 0] = 1
    shown = overlay("a", Masks(true, true, volume((6, 8, 10), (3.0, 2.0, 1.0))), ONE, ())
    assert shown.caption == "axial slice 5 of 6, patient's right on the left"
    assert (shown.rows, shown.columns) == (8, 10)
    assert shown.aspect == pytest.approx(10 / 16)


@pytest.mark.parametrize(
    ("spacing", "plane"), [((1, 1, 1), "axial"), ((5, 1, 1), "axial"), ((1, 5, 1), "coronal"), ((1, 1, 5), "sagittal")]
)
def test_a_volume_is_looked_at_across_its_coarsest_axis(spacing, plane):
    mask = np.ones((5, 6, 7), np.uint8)
    caption = overlay("a", Masks(mask, mask, volume((5, 6, 7), tuple(map(float, spacing)))), ONE, ()).caption
    assert caption.startswith(plane)


def test_the_right_of_the_patient_is_on_the_left_however_it_is_stored():
    mask = np.zeros((3, 6, 6), np.uint8)
    mask[1, 1, 0] = 1  # right of the patient where voxels run to the left
    stored = overlay("a", Masks(mask, mask, volume((3, 6, 6), (1.0, 1.0, 1.0), flip=True)), ONE, ())
    turned = mask[..., ::-1]
    other = overlay("a", Masks(turned, turned, volume((3, 6, 6), (1.0, 1.0, 1.0))), ONE, ())
    place = np.argwhere(opened(stored.fill)[..., 3])[0]
    assert place[1] == 0
    assert (opened(stored.fill) == opened(other.fill)).all()


def test_images_are_found_by_case_and_colours_by_their_names(tmp_path):
    folder = tmp_path / "imagesTs"
    folder.mkdir()
    for name in ("a_0000.png", "a_0001.png", "a_0002.png", "ab_0000.png"):
        (folder / name).touch()
    assert [path.name for path in find_images(folder, "a")] == ["a_0000.png"]
    facts = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "x": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert [path.name for path in find_images(folder, "a")] == ["a_0000.png", "a_0001.png", "a_0002.png"]
    assert find_images(folder, "nobody") == ()


def test_a_large_image_is_embedded_small_and_in_grey(tmp_path):
    array = np.tile(np.linspace(0, 255, 1500).astype(np.uint8), (900, 1))
    Picture.fromarray(array).save(tmp_path / "a.png")
    mask = np.ones((900, 1500), np.uint8)
    shown = overlay("a", Masks(mask, mask, pixel_grid((900, 1500))), ONE, (tmp_path / "a.png",))
    image = opened(shown.image)
    assert image.shape == (640, 640)
    assert (image[0, 0], image[0, -1]) == (0, 255)
    assert (shown.rows, shown.columns) == (900, 1500)


def test_an_image_that_does_not_fit_is_left_out(tmp_path):
    path = Path(tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), path)
    mask = np.ones((5, 4, 4), np.uint8)
    assert overlay("a", Masks(mask, mask, volume((5, 4, 4), (1.0, 1.0, 1.0))), ONE, (path,)).image is None
    fits = np.ones((4, 4, 4), np.uint8)
    shown = overlay("a", Masks(fits, fits, volume((4, 4, 4), (1.0, 1.0, 1.0))), ONE, (path,))
    assert not opened(shown.image).any()  # nothing finite to show
