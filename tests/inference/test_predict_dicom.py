"""DICOM in: a mask on the voxels of its series, and nothing of the patient in what is written or said."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
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


def planted_in(folder: Path, said: str, planted=PLANTED) -> list[str]:
    """Return where a planted attribute stands: in a file, in a name, or in what was said."""
    places = []
    for value in planted.values():
        places += [f"said {value}"] if value in said else []
        for file in folder.rglob("*"):
            if value in str(file.relative_to(folder)) or (file.is_file() and value.encode() in file.read_bytes()):
                places.append(f"{file.name}: {value}")
    return places


SHARED = {"PatientName", "PatientID", "PatientBirthDate", "ReferringPhysicianName", "AccessionNumber"}
"""What DICOM demands of every object of a study: it is in a SEG, and nowhere else."""


@pytest.mark.parametrize("kind", ["seg", "seg-labelmap", "rtstruct"])
def test_an_object_shares_the_patient_with_its_source_and_nothing_else_does(tmp_path, model, kind, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    write_series(tmp_path / "scan", blob()[0], names=lambda n: f"Planted^Nomen {n}")
    words = ["predict", str(model), str(tmp_path / "scan"), "-o", str(tmp_path / "out"), "--format", kind, "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    said = "".join(capfd.readouterr()) + caplog.text
    (made,) = (tmp_path / "out").glob("*.dcm")
    assert planted_in(tmp_path / "out", said, {k: v for k, v in PLANTED.items() if k not in SHARED}) == []
    for keyword in SHARED:
        assert str(pydicom.dcmread(made)[keyword].value) == PLANTED[keyword]
    made.unlink()
    assert planted_in(tmp_path / "out", said) == []


def test_a_dicom_result_is_made_once_and_names_its_bundle(tmp_path, model):
    write_series(tmp_path / "scan", blob()[0])
    codes = tmp_path / "codes.toml"
    codes.write_text('[labels."organ 1"]\ntype = ["10200004", "SCT", "Liver"]\n')
    options = PredictOptions(format="seg", codes=codes, probabilities=True)
    made = predict(model, tmp_path / "scan", tmp_path / "out", options)
    assert made.entries[0].file == tmp_path / "out/scan.seg.dcm"
    assert (tmp_path / "out/probabilities/scan.nii.gz").exists()
    segment = pydicom.dcmread(made.entries[0].file).SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    said = str(segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    assert "model" in said
    assert made.bundles[0] in said
    assert status(predict(model, tmp_path / "scan", tmp_path / "out", options)) == [("scan", "kept")]
    assert str(tmp_path) not in (tmp_path / "out/predict.json").read_text()
    codes.write_text('[labels."organ 1"]\ntype = ["64033007", "SCT", "Kidney"]\n')
    assert status(predict(model, tmp_path / "scan", tmp_path / "out", options)) == [("scan", "untouched")]
    predict(model, tmp_path / "scan", tmp_path / "out")
    again = predict(model, tmp_path / "scan", tmp_path / "out", options)
    assert "is of another format than the one on record" in again.entries[0].message


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_series_that_no_object_can_refer_to_does_not_stop_the_others(tmp_path, model, kind):
    write_series(tmp_path / "bad", blob()[0], change=lambda made, n: setattr(made, "StudyInstanceUID", f"1.2.{n}"))
    write_series(tmp_path / "gone", blob()[0], change=lambda made, _: made.__delattr__("StudyInstanceUID"))
    write_series(tmp_path / "good", blob()[0])
    options = PredictOptions(format=kind)
    made = predict(model, [tmp_path / name for name in ("bad", "gone", "good")], tmp_path / "out", options)
    assert status(made) == [("bad", "failed"), ("gone", "failed"), ("good", "made")]
    assert [path.name for path in (tmp_path / "out").glob("*.dcm")] == [f"good.{kind}.dcm"]


def test_other_images_get_no_dicom_result(tmp_path, model):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4)), path)
    made = predict(model, path, tmp_path / "out", PredictOptions(format="seg"))
    assert "case scan is not DICOM, which a DICOM result refers to" in made.entries[0].message


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
