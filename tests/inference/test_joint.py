"""Bundles that look at images differently are averaged by their probabilities, on the grid of the image."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mambino.core.best import Best, Contender, Member
from mambino.core.grid import pixel_grid
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.core.records import write
from mambino.core.report import Statistic
from mambino.core.scratch import on_disk
from mambino.imageio import read_image, read_labels
from mambino.inference import predict
from mambino.inference.joint import probabilities
from mambino.preprocessing.reduction import likeliest
from mambino.weights.bundle import digest
from tests.tiny import know, saved, tiny_bundle, tiny_config

CPU = torch.device("cpu")
LABELS = Labels(names={"organ 1": (1,)})
VIEWS = (tiny_config(3, spacing=(1.5, 1.25, 1.0)), tiny_config(2, slice_axis=1, spacing=(2.0, 1.5)))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.fixture
def image(tmp_path):
    affine = np.array([[-1.0, 0, 0, 20], [0, 0, 1.25, -7], [0, 1.5, 0, 3], [0, 0, 0, 1]])
    path = tmp_path / "scans" / "a.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.random.default_rng(3).random((11, 13, 9)).astype(np.float32), affine), path)
    return path


@pytest.fixture
def record(tmp_path):
    """Return a best.json of two bundles for volumes and one for slices."""
    members = []
    for i, (view, name) in enumerate(((VIEWS[0], "3d"), (VIEWS[0], "3d"), (VIEWS[1], "2d"))):
        path = saved(tmp_path / "runs", tiny_bundle(view, seed=i), f"{name}-{i}")
        members.append(Member(config=name, fold=i, bundle=path.relative_to(tmp_path), sha256=digest(path)))
    one = Contender(name="2d+3d", configs=("2d", "3d"), dice=Statistic(cases=0), labels={}, seconds=1.0, chosen=True)
    found = Best(
        dataset="d", members=tuple(members), cases=1, contenders=(one,), cleaned=one.dice, reason="", versions={}
    )
    return write(found, tmp_path / "best.json")


def shares(path, bundles, **changes):
    return probabilities(read_image(path), bundles, PredictOptions(**changes), CPU)


def test_each_configuration_weighs_the_same(image, record, tmp_path):
    made = predict(record, image, tmp_path / "out", PredictOptions(probabilities=True))
    assert made.entries[0].status == "made"
    slices = shares(image, [tiny_bundle(VIEWS[1], seed=2)])
    volumes = shares(image, [tiny_bundle(VIEWS[0], seed=0), tiny_bundle(VIEWS[0], seed=1)])
    mean = (slices + volumes) / 2
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "a.nii.gz", LABELS).array, mean.argmax(0))
    written = read_image(tmp_path / "out" / "probabilities" / "a.nii.gz", channels=2).array
    np.testing.assert_allclose(written, mean, atol=2e-5)  # written in 16 bits
    np.testing.assert_allclose(mean.sum(0), 1, atol=1e-5)


def test_disagreement_between_configurations_is_what_uncertainty_tells(image, record, tmp_path):
    made = predict(record, image, tmp_path / "out", PredictOptions(uncertainty=True))
    assert made.entries[0].doubt.mutual_information > 0
    assert (tmp_path / "out" / "entropy" / "a.nii.gz").is_file()


def test_mapped_files_and_parts_change_no_voxel(image, record, tmp_path, monkeypatch):
    predict(record, image, tmp_path / "out")
    monkeypatch.setattr("mambino.inference.case.fits", lambda *_: False)
    monkeypatch.setattr("mambino.inference.joint.parts_of", lambda p, *_: halves(p.cropped.shape[1:]))
    predict(record, image, tmp_path / "again")
    first, again = (read_labels(tmp_path / x / "a.nii.gz", LABELS).array for x in ("out", "again"))
    np.testing.assert_array_equal(first, again)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["a.nii.gz", "predict.json"]


def halves(shape):
    rows, columns = shape
    return [((0, rows // 2), (0, columns)), ((rows // 2, rows), (0, columns))]


def test_probabilities_are_the_same_on_disk(image, tmp_path):
    bundle, given = tiny_bundle(VIEWS[0]), read_image(image)
    with on_disk(tmp_path) as room:
        mapped = probabilities(given, [bundle], PredictOptions(), CPU, room)
        np.testing.assert_array_equal(mapped, probabilities(given, [bundle], PredictOptions(), CPU))
        assert isinstance(mapped, np.memmap)


def test_regions_are_painted_where_their_mean_probability_is_above_one_half():
    labels = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))
    first, second = np.array([[0.9, 0.6, 0.1], [0.9, 0.2, 0.9]]), np.array([[0.9, 0.6, 0.2], [0.2, 0.1, 0.9]])
    shares = [one.astype(np.float32)[:, None] for one in (first, second)]
    assert likeliest(shares, pixel_grid((1, 3)), labels).array.tolist() == [[2, 1, 2]]
