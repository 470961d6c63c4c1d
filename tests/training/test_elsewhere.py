"""Trainings on a cluster end with the weights of those here, also where a worker dies in the middle of one."""

import multiprocessing
import os
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import distributed
import pytest
import torch

from mambino import training, workflow
from mambino.core.cluster import Caller, ClusterError, meeting_place
from mambino.core.locks import alone_in, holder
from mambino.core.options import TrainOptions
from mambino.errors import DataError, MambinoWarning, OptionError
from mambino.training import elsewhere, train
from mambino.training.elsewhere import _order, _path, _train, train_all
from mambino.training.state import has_state
from mambino.weights.bundle import load
from tests.clusters import two_workers, until, workers_with
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


class Slow(distributed.WorkerPlugin):
    """Makes workers look at each step whether they are waited for, and wait after each epoch."""

    name = "slow"

    def setup(self, worker):  # noqa: ARG002 - Dask's
        elsewhere.LOOK_EVERY = 0.0
        original = elsewhere.dump

        def dump(said, **options):
            time.sleep(0.2)
            return original(said, **options)

        elsewhere.dump = dump


class Listener(Caller):
    """Keeps what it is told in a file, without a cluster; waits after each epoch."""

    __slots__ = ()

    def tell(self, text):
        with (self.place / f"told-{os.getpid()}").open("a") as file:
            file.write(text.replace("\n", " ") + "\n")
        time.sleep(0.05)

    def heard(self, number):
        file = self.place / f"told-{number}"
        return file.read_text().splitlines() if file.exists() else []


def train_slowly(order, caller):
    """What a process does that counts as dead while it is alive."""
    elsewhere.LOOK_EVERY = 0.0
    (caller.place / "answer").write_text(str(_train(order, caller)))


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


def test_ctrl_c_stops_what_workers_have_begun_and_the_run_goes_on_to_the_same_weights(work):
    long = replace(FOUR, fold=0, epochs=25)
    expected = weights(train(work, long))
    (work / "runs").rename(work / "runs-here")
    folder, pressed = work / "runs" / "2d-unet-0", []

    def press(epoch):
        if epoch.number == 2:
            pressed.append(epoch)
            os.kill(os.getpid(), signal.SIGINT)

    with two_workers() as address, workers_with(address, Slow()):
        with pytest.raises(KeyboardInterrupt):
            train(work, replace(long, scheduler=address), on_epoch=press)
        until(lambda: not holder(folder))
        assert len(pressed) == 1
        assert has_state(folder / "state.pt")
        assert not (folder / "model.safetensors").exists()
        assert 2 <= len(lines(folder)) < 25
        made = train(work, replace(long, scheduler=address, resume=True))
    for name, tensor in weights(made).items():
        assert torch.equal(tensor, expected[name]), name
    assert [line["number"] for line in lines(folder)] == list(range(1, 26))


def test_what_a_run_started_from_is_told_by_its_worker(work):
    first = train(work, SHORT)
    first.parent.rename(work / "before")
    told, runs = [], []
    asked = replace(SHORT, init=work / "before" / first.name)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as here:
        train(work, replace(asked, scheduler=here.scheduler_address), on_init=told.append)
        shutil.rmtree(work / "runs")
        train_all([(work, asked)], here.scheduler_address, on_init=told.append, on_run=runs.append)
    assert [started.network for started in told] == ["unet", "unet"]
    assert len(told[0].loaded) > 3
    assert runs == ["2d-unet-0"]


def test_a_folder_that_another_program_trains_in_is_refused(work):
    with (
        alone_in(work / "runs" / "2d-unet-0"),
        pytest.raises(OptionError, match=rf"2d-unet-0 is in use: process {os.getpid()} on .* writes there$"),
    ):
        train(work, SHORT)
    train(work, SHORT)


def test_a_worker_that_counts_as_dead_leaves_its_run_to_the_other(work):
    long = replace(FOUR, fold=0, epochs=25)
    expected = weights(train(work, long))
    (work / "runs").rename(work / "runs-here")
    order = _order(work, long)
    with meeting_place(work) as place:
        (place / "begun-0-a").touch()
        first = Listener("", place, "begun-0-*", 1)
        process = multiprocessing.get_context("spawn").Process(target=train_slowly, args=(order, first))
        process.start()
        until(lambda: len(first.heard(process.pid)) >= 2)
        (place / "begun-0-b").touch()
        second = Listener("", place, "begun-0-*", 2)
        answer = _train(order, second)
        process.join()
        said, other = second.heard(os.getpid()), (place / "answer").read_text()
    assert other.startswith("run 2d-unet-0: the worker on ")
    assert other.endswith("counts as dead, and another has begun with what it was at")
    assert said[0].startswith(f"2d-unet-0 wait process {process.pid} on ")
    assert len(said) < 25
    for name, tensor in weights(answer).items():
        assert torch.equal(tensor, expected[name]), name
    assert [line["number"] for line in lines(order.folder)] == list(range(1, 26))


def test_a_run_that_nobody_waits_for_is_saved_and_ends(work, monkeypatch):
    monkeypatch.setattr(elsewhere, "LOOK_EVERY", 0.0)
    order = _order(work, replace(SHORT, epochs=50))
    answer = _train(order, Caller("", work / "gone", "begun-0-*", 1))
    assert isinstance(answer, ClusterError)
    assert str(answer).startswith("run 2d-unet-0: the worker on ")
    assert answer.hint == "its state is saved: add --resume to go on"
    assert has_state(order.folder / "state.pt")
    assert not (order.folder / "model.safetensors").exists()


def test_waiting_for_another_program_is_spoken_of(work, monkeypatch):
    def tasks(_scheduler, _work, jobs, _place, *, hear):
        hear("2d-unet-0\nwait\nprocess 7 on there")
        return nullcontext((name, work / "model") for name in jobs)

    monkeypatch.setattr(elsewhere, "tasks", tasks)
    with pytest.warns(MambinoWarning, match="^run 2d-unet-0 waits: process 7 on there trains it$"):
        train_all([(work, SHORT)], "tcp://here:1")


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
    answer = _train(order, Caller("", work, "nothing-*", 0))
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
