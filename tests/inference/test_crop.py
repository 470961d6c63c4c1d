"""Windows over the body alone: the same mask inside, background outside, and the same for all who look at a case."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mambino import inference
from mambino.core.options import PredictOptions
from mambino.core.plan import Normalise
from mambino.core.records import read
from mambino.errors import OptionError
from mambino.inference import predict
from mambino.inference.ledger import Predictions
from tests.tiny import bright_bundle, know, saved, tiny_config

SHAPE = (60, 50, 40)
BODY = PredictOptions(crop="body")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.fixture
def scan(tmp_path) -> Path:
    """A bright body, and far from it a thin bright board."""
    voxels = np.random.default_rng(0).uniform(0, 0.1, SHAPE).astype(np.float32)
    voxels[10:30, 8:30, 10:30] = 1
    voxels[:, 48] = 1
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([4.0, 4.0, 4.0, 1.0])), path)
    return path


def bundle(folder, name="model", **changes):
    config = tiny_config(**{"spacing": (4.0,) * 3, "normalise": (Normalise(scheme="none"),), **changes})
    return saved(folder, bright_bundle(config), name)


def mask_of(made):
    assert made.entries[0].status == "made", made.entries[0].message
    return nib.load(made.entries[0].file)


@pytest.mark.parametrize("slices", [False, True])
def test_the_mask_is_the_same_in_the_body_and_empty_outside(tmp_path, scan, slices):
    view = {"dim": 2, "spacing": (4.0, 4.0), "slice_axis": 1} if slices else {}
    model = bundle(tmp_path, **view)
    whole = mask_of(predict(model, scan, tmp_path / "whole"))
    part = mask_of(predict(model, scan, tmp_path / "part", BODY))
    assert part.shape == SHAPE
    np.testing.assert_array_equal(part.affine, whole.affine)
    whole, part = np.asarray(whole.dataobj), np.asarray(part.dataobj)
    assert whole[:, 48].all()
    assert not part[:, 48].any()
    np.testing.assert_array_equal(part[:, :40], whole[:, :40])


def test_mapped_files_and_parts_change_no_voxel(tmp_path, scan, monkeypatch):
    model = bundle(tmp_path, spacing=(3.0, 3.5, 3.5))
    free = mask_of(predict(model, scan, tmp_path / "free", BODY))
    seen = []

    def halves(prepared, *_):
        rows, columns = seen.append(prepared.cropped.shape) or prepared.cropped.shape[1:]
        return [((0, rows // 2), (0, columns)), ((rows // 2, rows), (0, columns))]

    monkeypatch.setattr("mambino.inference.case.fits", lambda *_: False)
    monkeypatch.setattr("mambino.inference.case.parts_of", halves)
    tight = mask_of(predict(model, scan, tmp_path / "tight", BODY))
    assert np.prod(seen[0]) < np.prod(SHAPE)
    np.testing.assert_array_equal(np.asarray(tight.dataobj), np.asarray(free.dataobj))


def test_configurations_that_look_differently_look_at_the_same_box(tmp_path, scan, monkeypatch):
    one = bundle(tmp_path, "one", orientation="LPS")
    other = bundle(tmp_path, "other", dim=2, spacing=(4.0, 4.0), slice_axis=2, orientation="RAI")
    monkeypatch.setattr(inference, "expanded", lambda paths, options: (tuple((path,) for path in paths), options))
    options = PredictOptions(crop="body", probabilities=True)
    mask_of(predict([one, other], scan, tmp_path / "both", options))
    shares = []
    for model in (one, other):
        mask_of(predict(model, scan, tmp_path / model.stem, options))
        shares.append(np.asarray(nib.load(tmp_path / model.stem / "probabilities" / "scan.nii.gz").dataobj))
    np.testing.assert_allclose(shares[0], shares[1], atol=2e-5)
    both = np.asarray(nib.load(tmp_path / "both" / "probabilities" / "scan.nii.gz").dataobj)
    np.testing.assert_allclose(both, shares[0], atol=2e-5)
    assert (both[..., 0][:, 48] > 0.9999).all()  # written in 16 bits


def test_it_is_recorded_and_counts_as_another_way_to_predict(tmp_path, scan):
    model = bundle(tmp_path)
    predict(model, scan, tmp_path / "out", BODY)
    assert read(Predictions, tmp_path / "out" / "predict.json").options.crop == "body"
    assert predict(model, scan, tmp_path / "out", BODY).entries[0].status == "kept"
    assert predict(model, scan, tmp_path / "out").entries[0].status == "untouched"


def test_pictures_have_no_body(tmp_path):
    model = bundle(tmp_path, dim=2, spacing=(1.0, 1.0))
    Picture.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(OptionError, match="--crop body is for volumes, the bundle takes pictures") as caught:
        predict(model, tmp_path / "photo.png", tmp_path / "out", BODY)
    assert caught.value.hint == "leave --crop out"
