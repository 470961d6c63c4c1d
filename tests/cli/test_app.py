"""The command line parses, prints and exits as promised."""

import json

import pytest
import torch

from mambino.cli.app import dispatch, main
from mambino.core.options import PreprocessOptions, RunOptions
from tests.datasets import write_pictures


def exit_code(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def test_check_of_a_sound_data_set_ends_with_0(tmp_path, capsys):
    assert exit_code("check", write_pictures(tmp_path / "d")) == 0
    assert "0 errors" in capsys.readouterr().out


def test_check_of_a_broken_one_ends_with_3_and_speaks_json(tmp_path, capsys):
    data = write_pictures(tmp_path / "d")
    (data / "labelsTr" / "case_00.png").write_bytes(b"no picture")
    assert exit_code("check", data, "--json") == 3
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert any(finding["case"] == "case_00" for finding in findings)


def test_a_repaired_copy_is_written_where_output_says(tmp_path, capsys):
    data, copy = write_pictures(tmp_path / "d"), tmp_path / "copy"
    (data / "labelsTr" / "case_00.png").write_bytes(b"no picture")
    assert exit_code("check", data) == 3
    assert f"mambino check {data} --repair -o COPY" in capsys.readouterr().out
    assert exit_code("check", data, "--repair", "-o", copy) == 0
    said = capsys.readouterr().out
    assert "repaired  case_00: left out" in said
    assert f"repaired copy written to {copy}" in said
    assert exit_code("check", copy) == 0


def test_a_copy_of_a_sound_data_set_is_said_to_be_clean(tmp_path, capsys):
    data, copy = write_pictures(tmp_path / "d"), tmp_path / "copy"
    assert exit_code("check", data, "--repair", "--output", copy) == 0
    assert f"nothing needed repair; a clean copy was written to {copy}" in capsys.readouterr().out
    assert (copy / "labelsTr" / "case_00.png").is_file()


def test_repair_and_its_folder_belong_together(tmp_path, capsys):
    data = write_pictures(tmp_path / "d")
    for words, what in (
        (("--repair",), "--repair needs a folder for the copy"),
        (("-o", tmp_path / "copy"), "names a folder for the copy, and --repair was not given"),
    ):
        assert exit_code("check", data, *words) == 2
        said = capsys.readouterr().err
        assert what in said
        assert f"mambino check {data} --repair -o COPY" in said
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("make", ["empty", "text", "images only"])
def test_folders_that_are_no_data_sets_are_refused(tmp_path, capsys, make):
    folder = tmp_path / "d"
    folder.mkdir()
    if make == "text":
        (folder / "notes.txt").write_text("hello")
    if make == "images only":
        write_pictures(folder)
        for name in ("labelsTr", "labelsTs"):
            for path in (folder / name).iterdir():
                path.unlink()
            (folder / name).rmdir()
    assert exit_code("plan", folder, "-o", tmp_path / "w") == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert not (tmp_path / "w" / "plan.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="steps are timed where there is a GPU")
def test_a_plan_for_a_device_that_is_not_here_says_that_nothing_was_timed(tmp_path, capsys):
    data = write_pictures(tmp_path / "d")
    assert exit_code("plan", data, "-o", tmp_path / "w", "--device", "cuda", "--model", "unet") == 0
    assert "not timed" in capsys.readouterr().out


def test_an_unknown_option_is_a_usage_error(capsys):
    assert exit_code("train", "work", "--epoch", "3") == 2
    assert "--epoch" in capsys.readouterr().err


def test_an_option_out_of_range_is_a_usage_error(tmp_path, capsys):
    assert exit_code("plan", tmp_path, "-o", tmp_path, "--minutes", "-1") == 2
    assert "--minutes" in capsys.readouterr().err


def test_predict_needs_a_bundle_and_an_image(capsys):
    assert exit_code("predict", "image.png") == 2
    assert "predict needs at least one bundle (.safetensors) and one image, got 0 and 1" in capsys.readouterr().err


def test_training_without_a_plan_says_what_is_missing(tmp_path, capsys):
    assert exit_code("train", tmp_path) == 3
    assert "holds no plan.json" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--models", "a", "b"], ["--models", "a", "--models", "b"]])
def test_lists_are_given_in_one_go_or_one_by_one(monkeypatch, words):
    seen = []
    monkeypatch.setattr("mambino.workflow.run", lambda *args, **_: seen.append(args[2]) or _stop())
    with pytest.raises(KeyboardInterrupt):
        dispatch(["run", "d", *words, "-o", "w"])
    assert seen == [RunOptions(models=("a", "b"))]
    monkeypatch.setattr("mambino.preprocessing.preprocess", lambda *args, **_: seen.append(args[1]) or _stop())
    with pytest.raises(KeyboardInterrupt):
        dispatch(["preprocess", "w", "--dims", "2", "3"])
    assert seen[1] == PreprocessOptions(dims=(2, 3))


def test_the_whole_path_takes_the_options_of_a_recipe(monkeypatch):
    seen = []
    monkeypatch.setattr("mambino.workflow.run", lambda *args, **_: seen.append(args[2]) or _stop())
    words = ["--recipe", "nnunet", "--set", "rate=0.1", "steps=9", "--loss", "dice=1", "ce=0.5"]
    with pytest.raises(KeyboardInterrupt):
        dispatch(["run", "d", "-o", "w", *words])
    assert seen == [RunOptions(recipe="nnunet", set=("rate=0.1", "steps=9"), loss=("dice=1", "ce=0.5"))]
    assert exit_code("run", "d", "-o", "w", "--recipe", "nnunet3") == 2


def test_help_says_how_lists_are_given(capsys):
    exit_code("run", "--help")
    assert "--models unet lightm_unet" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    monkeypatch.setattr("mambino.planning.plan", lambda *_, **__: _stop())
    assert exit_code("plan", "d", "-o", "w") == 130
    assert "interrupted" in capsys.readouterr().err


def test_our_own_mistakes_show_where_they_are(monkeypatch, capsys):
    monkeypatch.setattr("mambino.planning.plan", lambda *_, **__: 1 // 0)
    assert exit_code("plan", "d", "-o", "w") == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "this is a bug in mambino" in said


def _stop() -> None:
    raise KeyboardInterrupt


def test_cost_prints_counts_and_takes_one_side_for_all(capsys):
    assert exit_code("cost", "lightm_unet", "--dim", 3, "--size", 32) == 0
    said = capsys.readouterr().out
    assert "5.016 M" in said
    assert "claimed: 1.87 M, 457.62 G for 2 images at 128 x 128 x 128" in said
    assert exit_code("cost", "lightm_unet", "--size", "32x32", "--channels", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["network"]["dim"], found["parameters"]) == ([32, 32], 2, 5011765)


def test_options_of_a_network_are_counted_as_set(capsys):
    words = ("cost", "umamba_enc", "--size", "320x320", "--classes", 14)
    features = "features=32,64,128,256,512,512,512"
    assert exit_code(*words, "--set", features, "mixer=scan", "kernels=" + ",".join(["[3,3]"] * 7), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 47015538
    assert found["network"]["options"]["patch"] == [320, 320]
    assert exit_code(*words, "--set", "width") == 2
    assert "--set takes name=value, got 'width'" in capsys.readouterr().err


def test_a_size_that_is_none_is_refused(capsys):
    assert exit_code("cost", "unet", "--size", "wide") == 2
    assert "a size is numbers with x between them, got 'wide'" in capsys.readouterr().err
    assert exit_code("cost", "unet", "--size", "64x64", "--dim", 3) == 2
    assert "--size 64x64 has 2 axes, but --dim is 3" in capsys.readouterr().err
