"""The whole path stops at what cannot work, and says why."""

from dataclasses import replace
from pathlib import Path

import pytest

from mambino.core.dataset import Case, Dataset
from mambino.core.labels import Labels
from mambino.core.options import RunOptions, silent
from mambino.core.records import write
from mambino.errors import DataError, OptionError
from mambino.workflow import _folder, _plan_once, _train_options, chosen_configs, refuse_errors
from tests.core.test_plan import PLAN
from tests.datasets import write_pictures


def test_data_with_errors_go_no_further(tmp_path):
    data = write_pictures(tmp_path / "d")
    (data / "labelsTr" / "case_00.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="has 1 errors, first: case_00") as caught:
        refuse_errors(data)
    assert caught.value.hint.startswith(f"mambino check {data} lists all of them")


def test_sound_data_pass(tmp_path):
    refuse_errors(write_pictures(tmp_path / "d"))


def test_networks_are_chosen_from_the_plan():
    assert chosen_configs(PLAN, RunOptions()) == ("2d-unet",)
    with pytest.raises(OptionError, match="the plan has no configuration 2d-lightm_unet"):
        chosen_configs(PLAN, RunOptions(models=("lightm_unet",)))


def test_test_masks_lie_in_one_folder():
    cases = [Case(id=name, images=(Path("i"),), label=Path(folder) / name) for name, folder in (("a", "x"), ("b", "y"))]
    with pytest.raises(DataError, match="test masks lie in 2 folders, expected one: x, y"):
        _folder(cases)


def test_trackers_are_for_training_and_change_no_plan(tmp_path):
    edited = replace(PLAN, folder=str(tmp_path), dataset="edited")
    write(edited, tmp_path / "plan.json")
    write(RunOptions(seed=3), tmp_path / "run.json")
    options = RunOptions(seed=3, log_to=("mlflow",))
    assert _plan_once(tmp_path, tmp_path, options, silent) == edited
    data = Dataset(name="", folder=tmp_path, channels=(), labels=Labels(names={"any": (1,)}), training=())
    assert _train_options(tmp_path, "2d-unet", options, data).log_to == ("mlflow",)
