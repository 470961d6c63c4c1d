"""DICOM in: a mask on the voxels of its series, and nothing of the patient in what is written or said."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial import KDTree

from mambino.cli.app import main
from mambino.core.options import PredictOptions
from mambino.inference import predict
from tests.imageio.dicom.series import AXES, PLANTED, world, write_series
from tests.tiny import bright_bundle, know, saved, tiny_config

SHAPE = (6, 9, 8)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path, bright_bundle(tiny_config(spacing=(2.5, 0.75, 0.5))))


def blob(seed=0):
    """Return stored values, 1025 where something is: 1 after rescaling, and what the tiny network finds."""
    found = np.random.default_rng(seed).random(SHAPE) > 0.8
    return np.where(found, 1025, 1024), found


def status(made):
    return [(entry.case, entry.status) for entry in made.entries]


@pytest.mark.parametrize("name", AXES)
def test_every_voxel_of_the_mask_lies_where_the_image_voxel_lies(tmp_path, name):
    spacing = (1.0, 1.0, 1.0)
    stored, found = blob()
    write_series(tmp_path / "scan", stored, name, spacing=spacing)
    config = tiny_config()
    made = predict(saved(tmp_path, bright_bundle(config), "plain"), tmp_path / "scan", tmp_path / "out")
    mask = nib.load(made.entries[0].file)
    marked = np.argwhere(np.asarray(mask.dataobj)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    assert len(marked) == found.sum()
    distance, partner = KDTree(marked).query([world(name, voxel, spacing) for voxel in np.argwhere(found)])
    assert distance.max() < 1e-4
    assert len(set(partner)) == len(marked)


def test_the_record_says_which_series_was_read(tmp_path, model):
    write_series(tmp_path / "scan/a", blob()[0], uid="1.2.3.1")
    write_series(tmp_path / "scan/b", blob(1)[0][:5], uid="1.2.3.2")
    made = predict(model, tmp_path / "scan", tmp_path / "out")
    assert made.entries[0].message == "series 1.2.3.1 (CT): 6 slices of 9x8; 1 other series left out"
    assert status(predict(model, tmp_path / "scan", tmp_path / "out")) == [("scan", "kept")]
    again = predict(model, tmp_path / "scan", tmp_path / "out", PredictOptions(series=("1.2.3.2",)))
    assert status(again) == [("scan", "untouched")]
    (tmp_path / "scan/b" / "0.dcm").write_bytes(b"")
    assert status(predict(model, tmp_path / "scan", tmp_path / "out")) == [("scan", "untouched")]


def test_a_bad_series_does_not_stop_the_others(tmp_path, model):
    write_series(tmp_path / "good", blob()[0])
    write_series(tmp_path / "bad", blob()[0])[3].unlink()
    made = predict(model, [tmp_path / "good", tmp_path / "bad"], tmp_path / "out")
    assert status(made) == [("bad", "failed"), ("good", "made")]
    assert "lacks 1 slices" in made.entries[0].message


def planted_in(folder: Path, said: str) -> list[str]:
    """Return where a planted attribute stands: in a file, in a name, or in what was said."""
    places = []
    for value in PLANTED.values():
        places += [f"said {value}"] if value in said else []
        for file in folder.rglob("*"):
            if value in str(file.relative_to(folder)) or (file.is_file() and value.encode() in file.read_bytes()):
                places.append(f"{file.name}: {value}")
    return places


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_of_the_patient_is_written_or_said(tmp_path, model, broken, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    # Hospitals name files after patients too.
    files = write_series(tmp_path / "scan", blob()[0], names=lambda n: f"Planted^Nomen {n}")
    if broken:
        files[2].unlink()
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(model), str(tmp_path / "scan"), "-o", str(tmp_path / "out"), "--json"])
    assert ended.value.code == (3 if broken else 0)
    out, err = capfd.readouterr()
    assert json.loads(out)["entries"][0]["case"] == "scan"
    assert planted_in(tmp_path / "out", out + err + caplog.text) == []
    assert planted_in(tmp_path / "scan", "") != []
