"""Trainings on a cluster end with the weights of those here, also where a worker dies in the middle of one."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import distributed
import pytest
import torch

from mambino import training, workflow
from mambino.core.options import TrainOptions
from mambino.errors import DataError, OptionError
from mambino.training import elsewhere, train
from mambino.training.elsewhere import _order, _path, _train, train_all
from mambino.weights.bundle import load
from tests.clusters import two_workers, workers_with
from tests.training.test_training import SHORT, lines
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.slow  # processes of a cluster, some of which are killed

FOUR = replace(SHORT, epochs=4, validate_every=1, device="cpu", fold="all-folds")


class Dying(distributed.WorkerPlugin):
    """Saves after each epoch, and kills the worker at the third epoch of fold 1, once."""

    name = "dying"

    def __init__(self, folder):
        self.folder = folder

    def setup(self, worker):  # noqa: ARG002 - Dask's
        training.SAVE_EVERY = 0.0
        original = elsewhere.dump

        def dump(epoch, **options):
            if epoch.number == 3 and not (self.folder / "died").exists():
                (self.folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(epoch, **options)

        elsewhere.dump = dump


def weights(path):
    return load(path).network.state_dict()


@pytest.mark.slow
def test_folds_on_a_cluster_survive_a_worker_and_are_those_made_here(work, tmp_path_factory):
    here = train(work, FOUR)
    expected = [weights(path) for path in here]
    (work / "runs").rename(work / "runs-here")
    told, epochs = [], []
    with two_workers() as address, workers_with(address, Dying(tmp_path_factory.mktemp("notes"))):
        made = train(
            work, replace(FOUR, scheduler=address), on_fold=lambda *one: told.append(one), on_epoch=epochs.append
        )
        again = train(work, replace(FOUR, scheduler=address))
    assert made == again == here
    for path, before in zip(made, expected, strict=True):
        for name, tensor in weights(path).items():
            assert torch.equal(tensor, before[name]), name
        assert [line["number"] for line in lines(path.parent)] == [1, 2, 3, 4]
        assert not path.with_name("options.json").read_text().count("tcp://")
    assert set(told) == {(f"2d-unet-{fold}", fold, 3) for fold in range(3)}
    assert {epoch.number for epoch in epochs} == {1, 2, 3, 4}
    assert sorted(path.name for path in work.iterdir() if path.name.startswith(".")) == []


def test_nothing_to_train_needs_no_cluster():
    assert train_all([], "tcp://127.0.0.1:9") == ()


def test_runs_with_one_folder_are_refused(work):
    with pytest.raises(OptionError, match=r"several of 2 runs have the folder .*2d-unet-0$"):
        train_all([(work, SHORT), (work, SHORT)], "tcp://127.0.0.1:9")


def test_a_run_that_is_there_is_refused_before_anything_is_sent(work):
    train(work, replace(SHORT, epochs=1))
    with pytest.raises(OptionError, match="already holds a run"):
        train_all([(work, SHORT)], "tcp://127.0.0.1:9")


def test_an_error_names_its_run_and_keeps_its_hint(work):
    (work / "plan.json").rename(work / "moved.json")
    with pytest.raises(DataError, match="holds no plan"):
        _order(work, SHORT)
    (work / "moved.json").rename(work / "plan.json")
    order = _order(work, TrainOptions(fold=7, folds=3))
    answer = _train(order, lambda _: None)
    assert str(answer).startswith("run 2d-unet-7: ")
    with pytest.raises(type(answer)) as caught:
        _path(answer)
    assert caught.value is answer


def test_the_whole_path_trains_its_networks_at_once(tmp_path, monkeypatch):
    stages, asked = [], []

    def train_all(runs, scheduler, *, on_run, on_epoch):
        asked.append((runs, scheduler))
        on_run("3d-unet-0")
        on_epoch(SimpleNamespace(number=1))
        return tuple(work / "model" for work, _ in runs)

    monkeypatch.setattr(workflow, "train_all", train_all)
    epochs, wanted = [], {"a": SHORT, "b": FOUR}
    made = workflow._trained(tmp_path, wanted, "tcp://here:1", stages.append, epochs.append)
    assert asked == [([(tmp_path, SHORT), (tmp_path, FOUR)], "tcp://here:1")]
    assert made == {"a": tmp_path / "model", "b": tmp_path / "model"}
    assert stages == ["train 3d-unet-0"]
    assert [epoch.number for epoch in epochs] == [1]
