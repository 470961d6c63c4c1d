"""A run that was killed, or whose files were damaged, ends with the weights of one that was left alone."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mambino import training
from mambino.core.options import TrainOptions
from mambino.core.plan import Plan
from mambino.core.records import write
from mambino.errors import FileFormatError, MambinoWarning
from mambino.training import loop, train
from mambino.training import state as states
from mambino.training.divergence import DivergedError
from mambino.training.schedule import WARM
from mambino.weights.bundle import load
from tests.models.cases import CASES, sides, spec
from tests.places import ROOT
from tests.training.test_training import lines, planned, tensors
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture
from tests.training.toys import config

EACH = TrainOptions(epochs=4, folds=3, device="cpu", precision="float32", validate_every=1, threads=1)
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import mambino.training as training
from mambino.models import build
from tests.training.test_killing import EACH
training.SAVE_EVERY = 0.0
print("ready", flush=True)
training.train(Path(sys.argv[1]), replace(EACH, epochs=int(sys.argv[2]), resume=True))
"""


@pytest.fixture
def alone(work, monkeypatch):
    """Train once without a break, and put the result aside; saved after every epoch."""
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    model = train(work, EACH)
    (work / "runs").rename(work / "runs-alone")
    return tensors(work / "runs-alone" / model.relative_to(work / "runs"))


def same(model, wanted):
    found = tensors(model)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], x) for name, x in wanted.items())


def started(work, epochs):
    """Start the run in a process of its own; return it once it has imported all it needs."""
    command = [sys.executable, "-c", PROGRAM, str(work), str(epochs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def killed(work, epochs, times, seed, longest=0.6):
    """Kill the run so many times at random moments, then let it end; return how often there was something to kill."""
    moments, kills = random.Random(seed), 0
    while kills < times and not list((work / "runs").glob("*/model.safetensors")):
        with started(work, epochs) as process:
            time.sleep(moments.uniform(0.02, longest))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    with started(work, epochs) as process:
        assert process.wait() == 0
    return kills


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(work, alone):
    assert killed(work, 4, times=3, seed=0)
    assert same(work / "runs" / "2d-unet-0" / "model.safetensors", alone)
    assert [line["number"] for line in lines(work / "runs" / "2d-unet-0")] == [1, 2, 3, 4]


class PowerError(Exception):
    """The power fails."""


def interrupted(work, after):
    """Train until some epoch, as if the power had failed then."""

    def fail(epoch):
        if epoch.number == after:
            raise PowerError

    with pytest.raises(PowerError):
        train(work, EACH, on_epoch=fail)
    return work / "runs" / "2d-unet-0" / "state.pt"


@pytest.mark.parametrize("damage", ["short", "empty", "changed", "gone"])
def test_a_damaged_state_is_replaced_by_the_one_before(work, alone, damage):
    path = interrupted(work, 4)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"short": data[:middle], "empty": b"", "changed": changed}[damage])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = train(work, replace(EACH, resume=True))
    words = [str(one.message) for one in said if one.category is MambinoWarning]
    assert len(words) == (damage != "gone")
    assert all("going on from the state saved before it" in text for text in words)
    assert same(model, alone)


@pytest.mark.parametrize("name", ["state.pt", "state-before.pt", "last.safetensors", "best.safetensors", "log.jsonl"])
@pytest.mark.parametrize("kept", [0.0, 0.9])
@pytest.mark.filterwarnings("ignore:.*going on from the state saved before it")
def test_whatever_file_a_power_cut_leaves_short_the_run_goes_on(work, alone, name, kept):
    path = interrupted(work, 3).with_name(name)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert same(train(work, replace(EACH, resume=True)), alone)
    if name != "log.jsonl":
        assert [line["number"] for line in lines(path.parent)] == [1, 2, 3, 4]


def test_options_that_a_power_cut_leaves_short_are_named(work):
    path = interrupted(work, 1).with_name("options.json")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileFormatError, match=r"options\.json is not valid JSON|options\.json is not a valid run"):
        train(work, replace(EACH, resume=True))


TIMED = replace(EACH, epochs=None, minutes=0.05, validate_every=0)


@pytest.fixture
def clock(monkeypatch):
    """Let time pass by steps and starts alone: 20 ms a step; return what more the first steps and a start take."""
    now, slow, build, learn = [0.0], {"start": 0.0, "first": 0.0}, training.build, loop._learn
    done = [0]

    def start(spec):
        now[0] += slow["start"]
        done[0] = 0
        return build(spec)

    def step(*given):
        now[0] += 0.02 + slow["first"] * (done[0] < WARM)
        done[0] += 1
        learn(*given)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(training, "build", start)
    monkeypatch.setattr(loop, "_learn", step)
    return slow


def numbers(work):
    return torch.load(work / "runs" / "2d-unet-0" / "state.pt", weights_only=True)["numbers"]


def cut_off(work, options):
    """Train with a budget of time until the power fails, after an epoch of whose end the file of the state knows."""

    def fail(epoch):
        if numbers(work)["total"] or epoch.number == 35:
            raise PowerError

    with pytest.raises(PowerError):
        train(work, options, on_epoch=fail)


@pytest.mark.usefixtures("clock")
def test_a_number_of_steps_is_kept_as_soon_as_it_is_settled(work):
    """No state is saved for its age within these few seconds; the one with the number is."""
    cut_off(work, TIMED)
    assert 0 < numbers(work)["step"] < numbers(work)["total"] < 155


def test_a_run_with_a_budget_of_time_does_as_many_steps_however_often_it_is_started(work, clock, monkeypatch):
    """Starting again takes time, and first steps are slow: neither takes steps from a run that has settled them."""
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    cut_off(work, TIMED)
    shutil.copytree(work / "runs", work / "runs-cut")
    model = train(work, replace(TIMED, resume=True))
    wanted, steps = tensors(model), load(model).provenance.steps
    shutil.rmtree(work / "runs")
    (work / "runs-cut").rename(work / "runs")
    clock.update(start=0.5, first=0.3)  # a sixth of the budget, and fifteen times as long
    for _ in range(2):
        cut_off(work, replace(TIMED, resume=True))
    assert train(work, replace(TIMED, resume=True)) == model
    assert load(model).provenance.steps == steps
    assert same(model, wanted)


def test_where_both_states_are_damaged_the_run_says_so(work, monkeypatch):
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    path = interrupted(work, 3)
    for each in (path, states.before(path)):
        each.write_bytes(each.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="are not those that were written"):
        train(work, replace(EACH, resume=True))


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(work, alone, monkeypatch):
    write_bytes, written = Path.write_bytes, []

    def fill(path, data):
        if path.name.endswith("state.pt"):
            written.append(path)
            if len(written) == 3:
                write_bytes(path, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fill)
        with pytest.raises(FileFormatError, match=r"state\.pt cannot be written: No space left"):
            train(work, EACH)
    assert not list((work / "runs" / "2d-unet-0").glob(".part-*"))
    assert same(train(work, replace(EACH, resume=True)), alone)


class Failing(nn.Module):
    """A network with a layer that overflows at one call, or from it on."""

    def __init__(self, network, at, *, forever=False):
        super().__init__()
        self.network, self.layer, self.divisor = network, Overflow(at, forever=forever), network.divisor

    def forward(self, x):
        return self.network(self.layer(x))


class Overflow(nn.Module):
    def __init__(self, at, *, forever):
        super().__init__()
        self.calls, self.at, self.forever = 0, at, forever

    def forward(self, x):
        self.calls += self.training or torch.is_grad_enabled()
        hit = self.calls >= self.at if self.forever else self.calls == self.at
        return x * float("inf") if hit else x


@pytest.fixture
def failing(monkeypatch):
    """Have `train` build a network that overflows at some step."""
    build = __import__("mambino.training", fromlist=["build"]).build

    def put(at, *, forever=False):
        monkeypatch.setattr("mambino.training.build", lambda spec: Failing(build(spec), at, forever=forever))
        monkeypatch.setattr("mambino.training.save", lambda *_: None)
        monkeypatch.setattr("mambino.training.runs.save", lambda *_: None)
        monkeypatch.setattr("mambino.training.ship", lambda *_, **__: None)

    return put


def test_an_infinite_loss_goes_back_once_and_on_at_half_the_rate(work, failing, monkeypatch):
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    failing(at=11)  # step 11 of 16, in the third epoch
    seen = []
    with pytest.warns(MambinoWarning, match="going on from step 8 of the last saved state, at half the rate"):
        train(work, EACH, on_epoch=seen.append)
    assert [e.number for e in seen] == [1, 2, 3, 4]
    run = work / "runs" / "2d-unet-0"
    assert [line["number"] for line in lines(run)] == [1, 2, 3, 4]
    assert torch.load(run / "state.pt", weights_only=True)["numbers"]["setbacks"] == 1


def test_a_second_infinite_loss_ends_the_run_with_the_layer_and_its_numbers(work, failing):
    failing(at=6, forever=True)
    with (
        pytest.warns(MambinoWarning, match="going on from step 0"),
        pytest.raises(DivergedError, match=r"output of layer \(Overflow\): float32, none of 512 finite, from float32"),
    ):
        train(work, EACH)


@pytest.mark.slow
def test_thirty_kills_over_a_run_change_nothing(work, monkeypatch):
    monkeypatch.setattr("mambino.training.SAVE_EVERY", 0.0)
    epochs = 200
    wanted = tensors(train(work, replace(EACH, epochs=epochs)))
    (work / "runs").rename(work / "runs-alone")
    assert killed(work, epochs, times=30, seed=1) == 30
    assert same(work / "runs" / "2d-unet-0" / "model.safetensors", wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, dim in CASES if dim == 2])
def test_every_network_survives_being_killed(work, name):
    one = config(patch=sides(name, 2), network=replace(spec(name, 2), in_channels=1))
    plan = Plan(
        **{f: getattr(planned(), f) for f in Plan.__slots__} | {"default": f"2d-{name}", "configs": {f"2d-{name}": one}}
    )
    write(plan, work / "plan.json")
    wanted = tensors(train(work, replace(EACH, epochs=30)))
    (work / "runs").rename(work / "runs-alone")
    assert killed(work, 30, times=3, seed=2, longest=1.5)
    assert same(work / "runs" / f"2d-{name}-0" / "model.safetensors", wanted)
