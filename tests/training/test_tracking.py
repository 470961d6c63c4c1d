"""Trackers get what the log gets, once; one that fails does not stop a run; no path and no name of a case leaves."""

import json
import shutil
import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from mambino.cli.app import main
from mambino.core.options import TrainOptions
from mambino.core.records import record, write
from mambino.errors import FileFormatError, MambinoWarning, MissingExtraError
from mambino.preprocessing.store import Store
from mambino.training import tracking, train
from mambino.training.pretraining import pretrain
from mambino.training.tracking import SILENT, numbers_of, plain, tracked
from tests.training.test_pretraining import SHORT as LESSON
from tests.training.test_pretraining import folder as folder  # noqa: PLC0414 - a fixture
from tests.training.test_training import SHORT, lines, planned
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture
from tests.training.toys import case


class Server:
    """Stands in for MLflow and Weights & Biases: keeps what is sent."""

    def __init__(self):
        self.runs, self.titles, self.fails = {}, [], False

    def modules(self):
        tracking, mlflow, wandb = ModuleType("mlflow.tracking"), ModuleType("mlflow"), ModuleType("wandb")
        tracking.MlflowClient, wandb.init, wandb.Settings = lambda: Client(self), self.init, dict
        mlflow.entities = SimpleNamespace(
            Param=lambda key, value: (key, value), Metric=lambda key, value, _time, step: (step, key, value)
        )
        return {"mlflow": mlflow, "mlflow.tracking": tracking, "wandb": wandb}

    def begun(self, facts):
        self.runs[f"id{len(self.runs)}"] = {"facts": facts, "sent": [], "ended": 0}
        return f"id{len(self.runs) - 1}"

    def sent(self, run, numbers, step):
        if self.fails:
            raise ConnectionError("the server is away\nand more")
        self.runs[run]["sent"].append((step, numbers))

    def ended(self, run):
        self.runs[run]["ended"] += 1

    def init(self, **given):
        assert given["resume"] == "allow"
        assert given["settings"] == {**SILENT, "init_timeout": tracking.PATIENCE / 2}
        self.titles.append(given["name"])
        run = given["id"] or self.begun(given["config"])
        return SimpleNamespace(
            id=run, log=lambda numbers, step: self.sent(run, numbers, step), finish=lambda: self.ended(run)
        )


class Client:
    """What is called of MlflowClient."""

    def __init__(self, server):
        self.server = server

    def get_experiment_by_name(self, _name):
        return None

    def create_experiment(self, _name):
        return "1"

    def create_run(self, _experiment, **named):
        assert set(named) == {"run_name"}
        self.server.titles.append(named["run_name"])
        return SimpleNamespace(info=SimpleNamespace(run_id=self.server.begun({})))

    def log_batch(self, run, metrics=(), params=()):
        assert len(params) <= 100
        self.server.runs[run]["facts"].update(params)
        for step, name, value in metrics:
            self.server.sent(run, {name: value}, step)

    def set_terminated(self, run):
        self.server.ended(run)


@pytest.fixture
def server(monkeypatch):
    made = Server()
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def steps(run, name):
    return [(step, numbers[name]) for step, numbers in run["sent"] if name in numbers]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_gets_what_the_log_gets(work, server, name):
    train(work, replace(SHORT, log_to=(name,)))
    (run,) = server.runs.values()
    logged = lines(work / "runs" / "2d-unet-0")
    for key in ("loss", "rate", "dice"):
        assert steps(run, key) == [(line["step"], line[key]) for line in logged if line[key] is not None]
    assert steps(run, "structures/dark")[-1][1] == logged[-1]["per_label"]["dark"]
    assert run["ended"] == 1
    assert run["facts"]["network"] == "unet"
    assert run["facts"]["recipe.rate"] == (0.01 if name == "wandb" else "0.01")
    said = json.dumps(server.runs)
    assert str(work) not in said
    assert "toy_" not in said


def test_a_run_that_goes_on_sends_to_the_same_run_and_no_step_twice(work, server):
    options = replace(SHORT, log_to=("wandb", "mlflow"))
    train(work, replace(options, epochs=2))
    folder = work / "runs" / "2d-unet-0"
    shutil.copy(folder / "state.pt", work / "early.pt")
    train(work, replace(options, epochs=4, resume=True))
    shutil.copy(work / "early.pt", folder / "state.pt")  # as after a power cut
    (folder / "model.safetensors").unlink()
    train(work, replace(options, epochs=5, resume=True))
    assert len(server.runs) == 2
    logged = [line["step"] for line in lines(folder)]
    for run in server.runs.values():
        assert [step for step, _ in steps(run, "loss")] == logged
    assert len(logged) == 5


def test_a_run_that_is_complete_is_not_opened_again(work, server):
    train(work, replace(SHORT, log_to=("wandb",)))
    train(work, replace(SHORT, log_to=("wandb",), resume=True))
    assert [run["ended"] for run in server.runs.values()] == [1]


def test_a_run_that_is_killed_while_it_sends_leaves_the_step_out(tmp_path, server):
    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(tracking, "numbers_of", killed)
        with tracked(("wandb",), tmp_path, "title", {}) as tell:
            tell(epoch(1))
    with tracked(("wandb",), tmp_path, "title", {}) as tell:
        tell(epoch(1))
        tell(epoch(2))
    (run,) = server.runs.values()
    assert run["sent"] == [(2, {"loss": 0.5})]


@record
class Small:
    """An epoch."""

    number: int
    step: int
    loss: float = 0.5
    per_label: dict[str, float | None] | None = None


def epoch(step, **more):
    return Small(number=step, step=step, **more)


def test_names_of_structures_are_those_that_trackers_take():
    found = numbers_of(epoch(1, per_label={"tumour (left)/core": 0.5, "Läsion 2": 0.25, "none": None}))
    assert found == {"loss": 0.5, "structures/tumour _left__core": 0.5, "structures/Läsion 2": 0.25}


def test_a_tracker_that_does_not_answer_is_let_go(tmp_path, server, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    monkeypatch.setattr(server, "sent", lambda *_: answer.wait(30))
    with (  # noqa: PT031
        pytest.warns(MambinoWarning, match=r"nothing more is sent to mlflow: no answer for 0\.2 s") as seen,
        tracked(("mlflow",), tmp_path, "title", {}) as tell,
    ):
        tell(epoch(1))
        tell(epoch(2))
    assert len(seen) == 1
    assert not answer.is_set()
    answer.set()


def test_a_tracker_that_hangs_when_it_begins_costs_its_patience_and_no_other_tracker(tmp_path, server, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(tracking, "PATIENCE", 5.0)
    monkeypatch.setattr(server, "init", lambda **_: answer.wait(60))
    sys.modules["wandb"].init = server.init
    with (  # noqa: PT031
        pytest.warns(
            MambinoWarning, match="nothing more is sent to wandb: no answer for 5 s; log.jsonl goes on"
        ) as seen,
        tracked(("wandb", "mlflow"), tmp_path, "title", {}) as tell,
    ):
        tell(epoch(1))
        tell(epoch(2))
    assert not answer.is_set()
    answer.set()
    assert len(seen) == 1
    (run,) = server.runs.values()
    assert run["sent"] == [(1, {"loss": 0.5}), (2, {"loss": 0.5})]
    assert list(json.loads((tmp_path / "tracking.json").read_text())["ids"]) == ["mlflow"]


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_a_run_whose_tracker_hangs_has_its_log_and_its_model(work, server, monkeypatch, moment):
    answer = threading.Event()
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    if moment == "begins":
        sys.modules["wandb"].init = lambda **_: answer.wait(60)
    else:
        monkeypatch.setattr(server, "ended", lambda *_: answer.wait(60))
    with pytest.warns(MambinoWarning, match="nothing more is sent to wandb: no answer for 1 s") as seen:
        model = train(work, replace(SHORT, log_to=("wandb",)))
    assert not answer.is_set()
    answer.set()
    assert len([w for w in seen if "nothing more" in str(w.message)]) == 1
    assert model.exists()
    assert len(lines(work / "runs" / "2d-unet-0")) == 2


def test_a_tracker_that_fails_in_mid_run_keeps_what_it_has_and_is_told_again_when_the_run_goes_on(
    work, server, monkeypatch
):
    def fail_from_the_third_epoch_on(run, numbers, step):
        if run == "id0" and step > 2 * an_epoch:
            raise ConnectionError("the server is away")
        Server.sent(server, run, numbers, step)

    an_epoch = planned().configs["2d-unet"].recipe.steps
    options = replace(SHORT, log_to=("wandb", "mlflow"), epochs=4)
    monkeypatch.setattr(server, "sent", fail_from_the_third_epoch_on)
    with pytest.warns(MambinoWarning, match="nothing more is sent to wandb: the server is away") as seen:
        train(work, options)
    monkeypatch.undo()
    for name, module in server.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    train(work, replace(options, epochs=5, resume=True))
    assert len([w for w in seen if "nothing more" in str(w.message)]) == 1
    logged = [line["step"] for line in lines(work / "runs" / "2d-unet-0")]
    assert len(logged) == 5
    assert [step for step, _ in steps(server.runs["id0"], "loss")] == [*logged[:2], logged[4]]
    assert [step for step, _ in steps(server.runs["id1"], "loss")] == logged


PLANTED = ("HOME-OF-SOMEBODY", "PATIENT-7", "NAME-OF-A-CASE", "NAME-OF-THE-HOST")


def test_no_path_no_host_no_patient_and_no_case_is_sent(work, server, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    home = tmp_path / PLANTED[0]
    home.mkdir()
    monkeypatch.setattr("socket.gethostname", lambda: PLANTED[3])
    monkeypatch.setattr(sys, "argv", ["mambino", "train", str(home)])
    init = shutil.copy(train(work, replace(SHORT, epochs=1)), home / "start.safetensors")
    shutil.rmtree(work / "runs")
    write(replace(planned(), folder=str(home)), work / "plan.json")
    store = Store(work / "prepared" / "2d")
    one, origin = case(seed=9, name=PLANTED[2]), store.facts("toy_0").origin
    store.write(one.id, one.image, one.labels, replace(origin, patient=PLANTED[1]))
    train(work, replace(SHORT, init=init, log_to=("tensorboard", "mlflow", "wandb")))
    run = work / "runs" / "2d-unet-0"
    words = (*PLANTED, str(work), "toy_", sys.executable)
    assert PLANTED[2] in (run / "options.json").read_text()  # what is planted is there to be found
    assert PLANTED[0] in (run / "options.json").read_text()
    assert len(server.runs) == 2
    said = json.dumps([server.runs, server.titles])
    assert [word for word in words if word in said] == []
    assert server.titles == ["toys 2d-unet-0"] * 2
    (events,) = (run / "tensorboard").iterdir()
    assert b"2d-unet" in events.read_bytes()
    assert [word for word in words if word.encode() in events.read_bytes()] == []
    assert PLANTED[3] in events.name  # TensorBoard's own way, said on the page


def test_a_full_disk_ends_what_is_sent_and_nothing_else(tmp_path, server, monkeypatch):
    def full(*_):
        raise FileFormatError("tracking.json cannot be written: No space left on device")

    with tracked(("mlflow", "wandb"), tmp_path, "title", {}) as tell:
        monkeypatch.setattr(tracking, "write", full)
        with pytest.warns(  # noqa: PT031
            MambinoWarning, match="nothing more is sent to mlflow wandb: tracking.json cannot be"
        ) as seen:
            tell(epoch(1))
            tell(epoch(2))
    assert len(seen) == 1
    assert [run["sent"] for run in server.runs.values()] == [[], []]


def test_pretraining_tells_trackers_too(folder, tmp_path, server):
    options = replace(LESSON, log_to=("wandb",))
    pretrain(folder, tmp_path / "out", replace(options, epochs=1))
    pretrain(folder, tmp_path / "out", replace(options, resume=True))
    (run,) = server.runs.values()
    logged = lines(tmp_path / "out")
    assert steps(run, "accuracy") == [(line["step"], line["accuracy"]) for line in logged]
    assert len(logged) == 2
    assert run["facts"]["classes"] == 2
    assert str(tmp_path) not in json.dumps(server.runs)


def test_a_server_that_is_away_warns_once_and_training_goes_on(work, server):
    server.fails = True
    with pytest.warns(
        MambinoWarning, match="nothing more is sent to wandb: the server is away; log.jsonl goes on"
    ) as seen:
        model = train(work, replace(SHORT, log_to=("wandb",)))
    assert len([w for w in seen if "nothing more" in str(w.message)]) == 1
    assert model.exists()
    assert len(lines(work / "runs" / "2d-unet-0")) == 2


@pytest.mark.parametrize(
    ("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow.tracking"), ("tensorboard", "torch.utils.tensorboard")]
)
def test_what_is_not_installed_is_named_before_anything_is_learnt(work, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"--log-to {name} needs {name}, which is not installed") as caught:
        train(work, replace(SHORT, log_to=(name,)))
    assert caught.value.hint == f"pip install mambino[{name}]"
    assert not (work / "runs" / "2d-unet-0" / "model.safetensors").exists()
    train(work, SHORT)  # nothing is in the way


def test_event_files_hold_what_the_log_holds(work):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(work, replace(SHORT, log_to=("tensorboard",)))
    run = work / "runs" / "2d-unet-0"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = lines(run)
    assert [event.step for event in events.Scalars("loss")] == [line["step"] for line in logged]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in logged])


def test_event_files_of_a_run_that_goes_on_hold_each_epoch_and_the_options_once(work):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(work, replace(SHORT, epochs=2, log_to=("tensorboard",)))
    train(work, replace(SHORT, epochs=4, resume=True, log_to=("tensorboard",)))
    run = work / "runs" / "2d-unet-0"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = [line["step"] for line in lines(run)]
    assert len(logged) == 4
    assert [event.step for event in events.Scalars("loss")] == logged
    assert [len(events.Tensors(name)) for name in events.Tags()["tensors"]] == [1]


def test_an_unknown_tracker_is_refused(work, capsys):
    with pytest.raises(SystemExit):
        main(["train", str(work), "--log-to", "comet"])
    assert "comet" in capsys.readouterr().err


def test_without_trackers_nothing_is_written(tmp_path):
    with tracked((), tmp_path, "title", {}) as tell:
        tell(SimpleNamespace(step=1))
    assert list(tmp_path.iterdir()) == []


def test_facts_are_flat_and_hold_no_path(tmp_path):
    facts = {"a": {"b": 1, "c": (1, 2)}, "d": None, "e": tmp_path, "f": "text", "g": (tmp_path, 3)}
    assert plain(facts) == {"a.b": 1, "a.c": "1 2", "f": "text", "g": "3"}


def test_the_option_has_a_default():
    assert TrainOptions().log_to == ()
