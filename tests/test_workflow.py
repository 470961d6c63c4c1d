"""The whole path stops at what cannot work, and says why."""

from dataclasses import replace
from pathlib import Path

import pytest

from mambino.core.dataset import Case, Dataset
from mambino.core.labels import Labels
from mambino.core.options import RunOptions, silent
from mambino.core.records import read, write
from mambino.errors import DataError, OptionError
from mambino.training.runs import Run
from mambino.training.state import _newest
from mambino.weights.bundle import info
from mambino.workflow import _folder, _plan_once, _train_options, chosen_configs, refuse_errors, run
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


def test_another_way_to_learn_changes_no_plan(tmp_path):
    edited = replace(PLAN, folder=str(tmp_path), dataset="edited")
    write(edited, tmp_path / "plan.json")
    write(RunOptions(recipe="umamba"), tmp_path / "run.json")
    options = RunOptions(recipe="nnunet", set=("rate=0.1",), loss=("dice=1",))
    assert _plan_once(tmp_path, tmp_path, options, silent) == edited


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (RunOptions(set=("speed=9",)), "--set speed: a recipe has no such value"),
        (RunOptions(loss=("dice",)), "--loss takes name=value, got 'dice'"),
        (RunOptions(recipe="nnunet", set=("rate=fast",)), "rate: "),
    ],
)
def test_what_a_recipe_cannot_be_is_said_before_cases_are_prepared(tmp_path, options, words):
    data, work, stages = write_pictures(tmp_path / "d", training=5, test=1), tmp_path / "work", []
    with pytest.raises(OptionError, match=words):
        run(data, work, replace(options, minutes=0.05, device="cpu"), on_stage=stages.append)
    assert stages == ["check", "plan"]
    assert not (work / "prepared").exists()


def test_the_whole_path_learns_by_the_recipe_asked_for_and_refuses_another_one_later(tmp_path):
    data, work = write_pictures(tmp_path / "d", training=5, test=1), tmp_path / "work"
    options = RunOptions(
        recipe="nnunet", set=("steps=2",), loss=("dice=2", "ce=1"), epochs=2, params=100_000, device="cpu"
    )
    run(data, work, options)
    folder = work / "runs" / "2d-unet-0"
    kept = read(Run, folder / "options.json")
    assert (kept.options.recipe, kept.options.set, kept.options.loss) == (options.recipe, options.set, options.loss)
    state = _newest(folder / "state.pt")
    assert state["numbers"]["step"] == 4
    groups = [group for group in state["optimiser"]["param_groups"] if group["params"]]
    assert {(group["momentum"], group["nesterov"], group["weight_decay"]) for group in groups} == {(0.99, True, 3e-5)}
    assert {name for kept in state["optimiser"]["state"].values() for name in kept} == {"momentum_buffer"}  # of SGD
    recipe = info(folder / "model.safetensors").config.recipe
    assert (recipe.optimiser, recipe.rate, recipe.loss) == ("sgd", 0.01, {"dice": 2.0, "ce": 1.0})
    before = (folder / "model.safetensors").read_bytes()
    run(data, work, replace(options, recipe="default", set=(), loss=()))  # need not be said again
    assert (folder / "model.safetensors").read_bytes() == before
    with pytest.raises(OptionError, match=r"holds a run with recipe\.optimiser sgd, now it is adam"):
        run(data, work, replace(options, recipe="lightm_unet"))
