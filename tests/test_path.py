"""The whole path, every verb, as a user goes it: from a folder of images to masks, scores and a page."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

import mambino
from mambino.cli.app import dispatch, main
from tests.datasets import write_pictures, write_volumes


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Walk the path once through the command line; return data and work folders."""
    root = tmp_path_factory.mktemp("path")
    data, work = write_volumes(root / "blobs"), root / "work"
    assert dispatch(["run", str(data), "-o", str(work), "--epochs", "2", "--params", "60000"]) in (None, 0)
    return data, work


def test_it_leaves_what_it_promises(walked):
    _, work = walked
    for name in ("fingerprint.json", "plan.json", "predictions/predict.json", "report/report.json", "report/cases.csv"):
        assert (work / name).is_file(), name
    runs = list((work / "runs").iterdir())
    assert [run.name for run in runs] == ["3d-unet-0"]
    for name in ("log.jsonl", "state.pt", "model.safetensors", "options.json"):
        assert (runs[0] / name).is_file(), name
    page = (work / "report" / "report.html").read_text()
    assert "bright" in page
    assert "Not for clinical use" in page


def test_masks_lie_on_the_grid_of_their_images(walked):
    data, work = walked
    for case in ("case_06", "case_07"):
        image = nib.load(data / "imagesTs" / f"{case}_0000.nii.gz")
        mask = nib.load(work / "predictions" / f"{case}.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.get_data_dtype() == np.uint8


def test_it_goes_on_where_it_stopped(walked):
    data, work = walked
    before = (work / "runs" / "3d-unet-0" / "model.safetensors").read_bytes()
    assert dispatch(["run", str(data), "-o", str(work), "--epochs", "2", "--params", "60000"]) in (None, 0)
    assert (work / "runs" / "3d-unet-0" / "model.safetensors").read_bytes() == before


def test_a_bundle_needs_nothing_else(walked, tmp_path, capsys):
    data, work = walked
    bundle = tmp_path / "alone.safetensors"
    bundle.write_bytes((work / "runs" / "3d-unet-0" / "model.safetensors").read_bytes())
    image = data / "imagesTs" / "case_06_0000.nii.gz"
    assert dispatch(["predict", str(bundle), str(image), "-o", str(tmp_path / "out"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["entries"][0]["status"] == "made"
    same = (work / "predictions" / "case_06.nii.gz").read_bytes()
    assert (tmp_path / "out" / "case_06.nii.gz").read_bytes() == same


def test_info_models_and_doctor_speak_json(walked, capsys):
    _, work = walked
    bundle = work / "runs" / "3d-unet-0" / "model.safetensors"
    dispatch(["info", str(bundle), "--json"])
    assert json.loads(capsys.readouterr().out)["config"]["network"]["name"] == "unet"
    dispatch(["models", "--json"])
    assert "lightm_unet" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    dispatch(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["paths"]


def test_pictures_go_the_same_way_with_the_other_network(tmp_path):
    data, work = write_pictures(tmp_path / "blobs"), tmp_path / "work"
    code = dispatch([
        "run",
        str(data),
        "-o",
        str(work),
        "--epochs",
        "1",
        "--models",
        "lightm_unet",
        "--params",
        "140000",
    ])
    assert code in (None, 0)
    report = json.loads((work / "report" / "report.json").read_text())
    assert report["unit"] == "pixel"
    assert sorted(p.name for p in (work / "predictions").glob("*.png")) == ["case_06.png", "case_07.png"]


def exit_code(capsys, *words) -> tuple[int, str]:
    """Run the program as the shell would; return its exit code and what it wrote to the error stream."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code, capsys.readouterr().err


def test_a_plan_for_another_data_set_is_refused(walked, tmp_path, capsys):
    data, work = walked
    other = write_pictures(tmp_path / "other")
    text = (work / "plan.json").read_text().replace(json.dumps(str(data))[1:-1], json.dumps(str(other))[1:-1])
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plan.json").write_text(text)
    code, said = exit_code(capsys, "preprocess", tmp_path / "work")
    assert code == 3
    assert f"error: the plan is for another data set: its name blobs, but {other} has other\n" in said
    assert f"plan again: mambino plan {other} -o WORK" in said


def test_a_plan_with_a_typo_is_named(walked, tmp_path, capsys):
    _, work = walked
    (tmp_path / "plan.json").write_text((work / "plan.json").read_text().replace('"batch"', '"bacth"'))
    code, said = exit_code(capsys, "preprocess", tmp_path)
    assert code == 4
    assert "bacth: Unexpected keyword argument" in said
    assert f"correct it, or remove it and plan again: mambino plan DATA -o {tmp_path}" in said


def test_a_bad_image_does_not_stop_the_others(walked, tmp_path, capsys):
    data, work = walked
    folder = tmp_path / "images"
    folder.mkdir()
    whole = (data / "imagesTs" / "case_06_0000.nii.gz").read_bytes()
    (folder / "a_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "b_0000.nii.gz").write_bytes(whole)
    bundle = work / "runs" / "3d-unet-0" / "model.safetensors"
    code, said = exit_code(capsys, "predict", bundle, folder, "-o", tmp_path / "out")
    assert code == 3
    assert "1 cases could not be segmented: a" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.nii.gz", "predict.json"]
    code, said = exit_code(
        capsys, "predict", bundle, folder / "b_0000.nii.gz", tmp_path / "c.nii.gz", "-o", tmp_path / "o"
    )
    assert code == 3
    assert "c.nii.gz cannot be read: No such file or directory" in said
    assert (tmp_path / "o" / "b.nii.gz").exists()
    code, said = exit_code(capsys, "predict", bundle, tmp_path / "c.nii.gz", "-o", tmp_path / "o")
    assert code == 4
    assert "c.nii.gz cannot be read: No such file or directory" in said


@pytest.mark.parametrize("verb", ["check", "plan", "preprocess", "train", "predict"])
def test_an_output_that_cannot_be_written_is_one_error(walked, tmp_path, verb):
    data, done = walked
    work, file = tmp_path / "work", tmp_path / "file"
    shutil.copytree(done, work, ignore=shutil.ignore_patterns("runs", "prepared") if verb == "preprocess" else None)
    shutil.rmtree(work / "runs", ignore_errors=True)
    for blocked in (file, work / {"preprocess": "prepared"}.get(verb, "runs")):
        blocked.write_text("in the way")  # a file where a folder should be stops the superuser too
    bundle, image = done / "runs" / "3d-unet-0" / "model.safetensors", data / "imagesTs" / "case_06_0000.nii.gz"
    verbs = {
        "check": lambda: mambino.check(data, mambino.CheckOptions(repair=file / "copy", workers=1)),
        "plan": lambda: mambino.plan(data, file / "work", mambino.PlanOptions(device="cpu", workers=1)),
        "preprocess": lambda: mambino.preprocess(work, mambino.PreprocessOptions(workers=1)),
        "train": lambda: mambino.train(work, mambino.TrainOptions(epochs=1)),
        "predict": lambda: mambino.predict(bundle, image, file / "out"),
    }
    with pytest.raises(mambino.FileFormatError, match=r"cannot be written: (Not a directory|File exists)") as caught:
        verbs[verb]()
    assert "choose another output folder" in caught.value.hint


def test_a_picture_in_colour_is_refused_by_a_grey_network(tmp_path, capsys):
    from PIL import Image as Picture

    data, work = write_pictures(tmp_path / "blobs", training=5, test=1), tmp_path / "work"
    dispatch(["run", str(data), "-o", str(work), "--epochs", "1", "--params", "130000"])
    Picture.new("RGB", (64, 64)).save(tmp_path / "colour.png")
    capsys.readouterr()
    bundle = work / "runs" / "2d-unet-0" / "model.safetensors"
    code, said = exit_code(capsys, "predict", bundle, tmp_path / "colour.png", "-o", tmp_path / "out")
    assert code == 3
    assert "colour.png has 3 channels instead of 1, the number that the bundle takes (MRI)" in said
