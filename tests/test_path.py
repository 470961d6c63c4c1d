"""The whole path, every verb, as a user goes it: from a folder of images to masks, scores and a page."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

import mambino
from mambino.cli.app import dispatch, main
from mambino.ops.selective_scan.operator import path
from mambino.weights.bundle import info
from tests.datasets import write_pictures, write_volumes


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Walk the path once through the command line; return data and work folders."""
    root = tmp_path_factory.mktemp("path")
    data, work = write_volumes(root / "blobs"), root / "work"
    assert dispatch(["run", str(data), "-o", str(work), "--epochs", "2", "--minutes", "0.05"]) in (None, 0)
    return data, work


def test_it_leaves_what_it_promises(walked):
    _, work = walked
    for name in ("fingerprint.json", "plan.json", "predictions/predict.json", "report/report.json", "report/cases.csv"):
        assert (work / name).is_file(), name
    runs = list((work / "runs").glob("[!.]*"))
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
    assert dispatch(["run", str(data), "-o", str(work), "--epochs", "2", "--minutes", "0.05"]) in (None, 0)
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
    ways = [row for row in json.loads(capsys.readouterr().out)["paths"] if row["operator"] == "selective scan"]
    assert [row["path"] for row in ways if row["used"] and row["device"] == "cpu"] == [path("cpu")]
    assert "chunked torch" in {row["path"] for row in ways}
    assert all(row["milliseconds"] > 0 for row in ways)


def test_all_folds_in_two_and_three_dimensions_are_compared_and_the_best_predicts(tmp_path, capsys):
    data, work = write_volumes(tmp_path / "blobs", test=1), tmp_path / "work"
    assert dispatch(["plan", str(data), "-o", str(work), "--model", "unet"]) in (None, 0)
    assert dispatch(["preprocess", str(work), "--dims", "2", "3"]) in (None, 0)
    for dim in ("2d", "3d"):
        words = ["train", str(work), "--config", dim, "--model", "unet", "--fold", "all-folds", "--folds", "2"]
        assert dispatch([*words, "--epochs", "1", "--minutes", "0.03"]) in (None, 0)
    said = capsys.readouterr()
    assert "== 3d-unet-1: fold 1, 2 of 2" in said.err
    assert said.out.splitlines()[-2:] == [str(work / "runs" / f"3d-unet-{k}" / "model.safetensors") for k in (0, 1)]
    assert dispatch(["best", str(work)]) in (None, 0)
    assert f"mambino predict {work / 'best.json'} IMAGES -o MASKS" in capsys.readouterr().out
    assert dispatch(["predict", str(work / "best.json"), str(data / "imagesTs"), "-o", str(tmp_path / "masks")]) == 0
    assert (tmp_path / "masks" / "case_06.nii.gz").is_file()
    assert len(json.loads((work / "best.json").read_text())["contenders"]) == 3


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Let two networks compete on pictures; return the command and the work folder."""
    root = tmp_path_factory.mktemp("compared")
    data, work = write_pictures(root / "blobs"), root / "work"
    words = ["run", str(data), "-o", str(work), "--models", "unet", "lightm_unet", "--epochs", "1", "--minutes", "0.05"]
    assert dispatch(words) in (None, 0)
    return words, work


def test_several_networks_are_all_scored_and_the_chosen_one_is_named(compared, capsys):
    words, work = compared
    assert dispatch([*words, "--json"]) in (None, 0)
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((work / "report" / "report.json").read_text())
    networks = {candidate["network"]: candidate for candidate in report["choice"]["candidates"]}
    assert list(networks) == ["unet", "lightm_unet"]
    [chosen] = [c for c in networks.values() if c["chosen"]]
    [other] = [c for c in networks.values() if not c["chosen"]]
    assert chosen["validation"] >= other["validation"]
    assert (report["choice"]["cases"], report["choice"]["made_by"]) == ("test", chosen["config"])
    assert report["model"]["networks"] == [chosen["network"]]
    assert chosen["test"] == report["summary"][-1]["metrics"]["dice"]["mean"]
    for c in networks.values():
        header = info(work / "runs" / f"{c['config']}-0" / "model.safetensors")
        assert (c["parameters"], c["validation"]) == (header.parameters, header.provenance.score)
    second = json.loads((work / f"report-{other['config']}" / "report.json").read_text())
    assert second["summary"][-1]["metrics"]["dice"]["mean"] == other["test"]
    assert second["choice"]["made_by"] == other["config"]
    assert len(list((work / f"predictions-{other['config']}").glob("*.png"))) == 2
    assert f"Masks made by <b>{chosen['network']}</b>" in (work / "report" / "report.html").read_text()


def test_the_outcome_is_printed_with_every_network(compared, capsys):
    words, _ = compared
    assert dispatch(words) in (None, 0)
    said = capsys.readouterr().out.splitlines()
    assert any("no network has learnt from them" in line for line in said)
    rows = [line.split() for line in said if line.startswith(("unet", "lightm_unet"))]
    assert [row[:2] for row in rows] == [["unet", "2d-unet"], ["lightm_unet", "2d-lightm_unet"]]
    assert sum(row[-1] == "chosen" for row in rows) == 1


def test_masks_of_other_weights_are_made_again(compared):
    words, work = compared
    path = work / "predictions" / "predict.json"
    record = json.loads(path.read_text())
    for entry in record["entries"]:
        entry["made_by"] = "other weights"
    path.write_text(json.dumps(record))
    assert dispatch(words) in (None, 0)
    assert {entry["status"] for entry in json.loads(path.read_text())["entries"]} == {"made"}


def test_pictures_go_the_same_way(compared):
    _, work = compared
    assert json.loads((work / "report" / "report.json").read_text())["unit"] == "pixel"
    assert sorted(p.name for p in (work / "predictions").glob("*.png")) == ["case_06.png", "case_07.png"]


def test_without_test_images_the_report_says_on_what_it_rests(tmp_path, capsys):
    data, work = write_pictures(tmp_path / "blobs", test=0), tmp_path / "work"
    assert dispatch(["run", str(data), "-o", str(work), "--epochs", "1", "--minutes", "0.05"]) in (None, 0)
    sentence = "these are the held-out training cases, by which its training was watched"
    assert sentence in capsys.readouterr().out
    assert sentence in (work / "report" / "report.html").read_text()
    choice = json.loads((work / "report" / "report.json").read_text())["choice"]
    assert (choice["cases"], choice["candidates"][0]["test"]) == ("held out", None)


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
        "check": lambda: mambino.check(data, mambino.CheckOptions(repair=True, output=file / "copy", workers=1)),
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
    dispatch(["run", str(data), "-o", str(work), "--epochs", "1", "--minutes", "0.05"])
    Picture.new("RGB", (64, 64)).save(tmp_path / "colour.png")
    capsys.readouterr()
    bundle = work / "runs" / "2d-unet-0" / "model.safetensors"
    code, said = exit_code(capsys, "predict", bundle, tmp_path / "colour.png", "-o", tmp_path / "out")
    assert code == 3
    assert "colour.png has 3 channels instead of 1, the number that the bundle takes (MRI)" in said
