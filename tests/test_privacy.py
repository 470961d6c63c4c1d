"""Nothing that tells of a patient, and no path of whoever trained, reaches what is written or said.

Planted in what goes in: attributes of DICOM, names of DICOM files, texts and extensions in NIfTI headers, patients of a
data set, and the folder that all of it lies in. Searched in every file that comes out, packed ones unpacked, in their
names, and in everything printed and logged.
"""

import gzip
import json
import logging
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mambino.cli.app import main
from mambino.selection import best
from mambino.weights.bundle import load
from tests.datasets import write_volumes
from tests.imageio.dicom.series import PLANTED, write_dicomdir, write_series
from tests.inference.test_predict_dicom import SHARED
from tests.selection import places
from tests.tiny import bright_bundle, know, saved, tiny_config

NOT_SHARED = tuple(value for name, value in PLANTED.items() if name not in SHARED)
NAME = "Nomen^Filename"
HEADER = "Nomen^Header"
PATIENT = "PLANTED-PATIENT-7"
HOME = "home-of-somebody"


def texts(file: Path) -> list[bytes]:
    """Return what a file holds, as it is and unpacked."""
    data = file.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        return [data, gzip.decompress(data)]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return [data, *(archive.read(name) for name in archive.namelist())]
    return [data]


def found(folder: Path, words: tuple[str, ...], said: str = "") -> list[str]:
    """Return where any of the words stands."""
    places = [f"said: {word}" for word in words if word in said]
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        held = texts(file) if file.is_file() else []
        places += [f"{name}: {word}" for word in words if word in name or any(word.encode() in text for text in held)]
    return places


@pytest.fixture
def run(capfd, caplog):
    """Return a function that runs a command and returns its exit code and all that it said, logs included."""
    caplog.set_level(logging.DEBUG)

    def call(*words) -> tuple[int, str]:
        caplog.clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return int(ended.value.code or 0), "".join(capfd.readouterr()) + caplog.text

    return call


@pytest.fixture
def scans(tmp_path):
    """Write one series as a folder, a zip and a DICOMDIR; files are named after the patient."""
    stored = 1024 + (np.random.default_rng(0).random((4, 9, 8)) > 0.8)
    files = write_series(tmp_path / "scan", stored, names=lambda n: f"{NAME} {n}.dcm")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    write_series(tmp_path / "medium" / "NOMEN", stored, names=lambda n: f"IM{n}")
    write_dicomdir(tmp_path / "medium", [["NOMEN", f"IM{n}"] for n in range(4)])
    return [tmp_path / "scan", tmp_path / "packed.zip", tmp_path / "medium" / "DICOMDIR"]


@pytest.mark.usefixtures("scans")
def test_what_is_planted_in_dicom_is_there_to_be_found(tmp_path):
    for folder in ("scan", "medium"):
        assert len(found(tmp_path / folder, tuple(PLANTED.values()))) == 4 * len(PLANTED)


@pytest.mark.parametrize("kind", ["mask", "seg", "rtstruct"])
def test_nothing_of_a_dicom_patient_leaves_prediction_and_evaluation(run, scans, tmp_path, monkeypatch, kind):
    know(monkeypatch)
    model = saved(tmp_path, bright_bundle(tiny_config(spacing=(2.5, 0.75, 0.5))))
    out = tmp_path / "out"
    words = (*PLANTED.values(), NAME)
    code, said = run("predict", model, *scans, "-o", out, "--format", kind, "--probabilities", "--json")
    assert (code, len(json.loads(said.partition("\n}")[0] + "\n}")["entries"])) == (0, 3)
    assert found(out, (*NOT_SHARED, NAME), said) == []
    made = sorted(out.glob("*.dcm"))
    assert len(made) == (0 if kind == "mask" else 3)
    for file in made:  # which holds the patient of its series, as DICOM demands
        file.unlink()
    assert found(out, words, said) == []
    if kind == "mask":
        code, said = run("evaluate", out, out, "-o", tmp_path / "report")
        assert code == 0
        assert found(tmp_path / "report", words, said) == []


@pytest.mark.parametrize("verb", ["check", "plan", "run", "predict"])
def test_nothing_of_a_dicom_patient_is_said_where_a_verb_refuses(run, scans, tmp_path, monkeypatch, verb):
    know(monkeypatch)
    model = saved(tmp_path, bright_bundle(tiny_config(spacing=(2.5, 0.75, 0.5))))
    sorted(scans[0].iterdir())[1].unlink()  # a gap
    given = [model, scans[0], "-o"] if verb == "predict" else [scans[0], *([] if verb == "check" else ["-o"])]
    code, said = run(verb, *given, *([] if verb == "check" else [tmp_path / "out"]))
    assert code in {3, 4}
    assert found(tmp_path / "out", (*PLANTED.values(), NAME), said) == []


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Take a data set with planted headers the whole path; return the folder that all lies in."""
    home = tmp_path_factory.mktemp(HOME)
    data = write_volumes(home / "data")
    for file in data.rglob("*.nii.gz"):
        image = nibabel.load(file)
        image.header["descrip"] = image.header["aux_file"] = HEADER.encode()
        image.header["db_name"] = HEADER.encode()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", HEADER.encode()))
        file.write_bytes(gzip.compress(image.to_bytes()))
    described = json.loads((data / "dataset.json").read_text())
    described["patients"] = {f"case_{n:02d}": f"{PATIENT}-{n}" for n in range(6)}
    (data / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(data), "-o", str(home / "work"), "--epochs", "1", "--minutes", "0.02"])
    assert not ended.value.code
    return home / "work"


def test_no_text_of_a_header_leaves_the_data(work):
    assert len(found(work.parent / "data", (HEADER,))) == 16
    assert found(work, (HEADER,)) == []


def test_bundles_predictions_and_reports_name_neither_patients_nor_folders(work):
    words = (PATIENT, HOME, str(work.parent))
    for name in ("predictions", "report"):
        assert found(work / name, words) == []
    bundles = sorted(work.glob("runs/*/*.safetensors"))
    assert {file.name for file in bundles} >= {"model.safetensors", "last.safetensors"}
    for file in bundles:
        assert [word for word in words if word.encode() in file.read_bytes()] == []
    (log,) = work.glob("runs/*/log.jsonl")
    assert [word for word in words if word in log.read_text()] == []
    assert load(bundles[0]).provenance.dataset == "data"


def test_what_best_chose_names_no_folder(tmp_path, monkeypatch):
    know(monkeypatch)
    (tmp_path / HOME).mkdir()
    folder = places.planned(tmp_path / HOME)
    for fold in range(2):
        places.trained(folder, 3, fold)
    best(folder)
    assert {file.name for file in (folder / "best").rglob("*")} >= {"case_00.nii.gz"}
    assert found(folder / "best", (HOME, str(tmp_path))) == []
    assert [word for word in (HOME, str(tmp_path)) if word in (folder / "best.json").read_text()] == []


def test_a_converted_bundle_names_its_file_and_no_folder(work, tmp_path):
    from mambino.weights.conversion import convert
    from tests.fuzz.records import _checkpoint

    (tmp_path / HOME).mkdir()
    _checkpoint(tmp_path / HOME / "c.pth")
    made = convert(tmp_path / HOME / "c.pth", tmp_path / "m.safetensors")
    data = made.bundle.read_bytes()
    assert b"c.pth" in data
    assert [word for word in (HOME, str(tmp_path), str(work.parent)) if word.encode() in data] == []
