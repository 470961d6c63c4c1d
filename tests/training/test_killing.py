"""A run that was killed, or whose files were damaged, ends with the weights of one that was left alone."""

import errno
import os
import random
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

from mambino.core.options import TrainOptions
from mambino.core.plan import Plan
from mambino.core.records import write
from mambino.errors import FileFormatError, MambinoWarning
from mambino.training import state as states
from mambino.training import train
from mambino.training.divergence import DivergedError
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


def interrupted(work, after):
    """Train until some epoch, as if the power had failed then."""

    class PowerError(Exception):
        pass

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
