"""Processes that learn together learn what one learns; they stop, go on, refuse and fail as one."""

import copy
import os
import re
import signal
import sys
from dataclasses import replace

import pytest
import torch

from mambino.cli.console import guard
from mambino.core.labels import Labels
from mambino.core.options import TrainOptions
from mambino.core.plan import NetworkSpec
from mambino.core.records import write
from mambino.errors import ToldError
from mambino.models import build
from mambino.training import train
from mambino.training.loop import epochs
from mambino.training.processes import ALONE, processes
from mambino.training.state import State, optimiser
from mambino.training.terms import IGNORED, TERM, Seen, dice
from mambino.weights.bundle import load
from tests.training.pairs import launched
from tests.training.test_training import lines, planned
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture
from tests.training.toys import TWO, case, course

STEPS = 20
PARTLY = Labels(names={"dark": (1,), "bright": (2,)}, ignore=3)
REGIONS = Labels(names={"any": (1, 2), "bright": (2,)}, paint=(1, 2))
SHORT = TrainOptions(epochs=4, folds=3, threads=1, precision="float32", device="cpu", validate_every=1)


def kind(labels, optimiser, dim=2, batch=3):
    """Return what one of the comparisons learns: from an odd batch, on several scales, augmented."""
    out = 2 if labels.has_regions else 3
    features = (4, 8, 8) if dim == 2 else (4, 8)
    network = NetworkSpec(name="unet", dim=dim, in_channels=1, out_channels=out, options={"features": features})
    recipe = {"steps": STEPS, "augmentation": "full", "optimiser": optimiser, "deep_supervision": True}
    changes = {"dim": dim, "batch": batch, "patch": (32, 32) if dim == 2 else (16, 16, 16), "network": network}
    return labels, {**changes, "mirror": (0, 1), "recipe": recipe}


KINDS = {
    "sgd": kind(PARTLY, "sgd"),
    "adamw": kind(PARTLY, "adamw"),
    "regions": kind(REGIONS, "sgd"),
    "volumes": kind(TWO, "sgd", dim=3, batch=2),
}


def learnt(name, all_):
    """Learn for some steps; return the state and the epochs."""
    labels, changes = KINDS[name]
    shape = (40, 36) if changes["dim"] == 2 else (20, 18, 20)
    cases = [case(shape, i) for i in range(5)]
    if labels.ignore is not None:
        for one in cases[::2]:  # unequal shares of what is known
            one.labels[(slice(0, 20),) * len(shape)] = labels.ignore
    what = course(changes, cases=cases, labels=labels, epochs=1, held_out=cases[:3], processes=all_)
    what = replace(what, patches=replace(what.patches, processes=all_))
    torch.manual_seed(0)
    network = build(what.config.network)
    average = copy.deepcopy(network).requires_grad_(False)
    state = State(network=network, average=average, optimiser=optimiser(network, what.config.recipe))
    return state, list(epochs(state, what))


def tensors(state):
    return {
        f"{whose}.{name}": tensor.detach().clone()
        for whose in ("network", "average")
        for name, tensor in getattr(state, whose).named_parameters()
    }


def learn_in_each(folder):
    """Learn every kind; run in each of two processes."""
    torch.set_num_threads(1)
    with processes(torch.device("cpu")) as all_:
        torch.save([term(*one, all_) for one in TERMS], folder / f"terms.{all_.rank}")
        for name in KINDS:
            state, seen = learnt(name, all_)
            found = {
                "tensors": tensors(state),
                "loss": seen[-1].loss,
                "dice": seen[-1].dice,
                "labels": dict(seen[-1].per_label),
            }
            torch.save(found, folder / f"{name}.{all_.rank}")


def program(path, call):
    """Write a program of one call of this module."""
    path.write_text(f"from pathlib import Path\nfrom tests.training.test_together import *\n{call}\n")
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    done = launched(program(folder / "pair.py", f"learn_in_each(Path({str(folder)!r}))"))
    assert done.returncode == 0, done.stderr
    return {name: [torch.load(folder / f"{name}.{rank}") for rank in range(2)] for name in (*KINDS, "terms")}


def joined(found, names):
    return torch.cat([found[name].flatten() for name in names])


def apart(one, other, names):
    """Return how far two sets of tensors are apart, as a share of their size."""
    return ((joined(one, names) - joined(other, names)).norm() / joined(one, names).norm()).item()


def idle(name):
    """Tell whether a tensor is the bias of a convolution with a norm behind it, which takes the bias away again.

    Its gradient is nothing but rounding, and AdamW makes a step of any gradient. One process that meets the
    samples of a batch in another order leaves these biases just as far apart.
    """
    return name.endswith(".conv.bias")


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_learn_what_one_learns(pair, name):
    state, seen = learnt(name, ALONE)
    alone = tensors(state)
    fresh = build(KINDS[name][1]["network"])
    names = [key for key in alone if not (name == "adamw" and idle(key))]
    assert len(names) > len(alone) / 2
    one, two = pair[name]
    assert apart(alone, one["tensors"], names) < 1e-5
    assert all(torch.equal(one["tensors"][key], two["tensors"][key]) for key in alone)
    assert one["loss"] == two["loss"] == pytest.approx(seen[-1].loss, rel=1e-5)
    assert one["dice"] == two["dice"] == pytest.approx(seen[-1].dice, abs=1e-3)
    assert one["labels"] == pytest.approx(dict(seen[-1].per_label), abs=1e-3)
    before = {f"network.{key}": tensor.detach() for key, tensor in fresh.named_parameters()}
    assert apart(alone, before, list(before)) > 1e-2  # there is something to be equal about


def test_a_share_that_is_learnt_from_by_itself_is_told_apart(monkeypatch):
    """The tolerance is no accident: means over shares, which a plain mean of gradients gives, are far outside of it."""

    def of_shares(seen):
        parts = [replace(seen, logits=seen.logits[i::2], target=seen.target[i::2]) for i in range(2)]
        return sum(dice(part) * len(part.target) for part in parts) / len(seen.target)

    alone = tensors(learnt("sgd", ALONE)[0])
    monkeypatch.setitem(TERM, "dice", of_shares)
    assert apart(alone, tensors(learnt("sgd", ALONE)[0]), list(alone)) > 1e-4


TERMS = [(name, labels, batch) for name in TERM for labels in (TWO, REGIONS) for batch in (True, False)]
WEIGHTS = {"bright": 3.0}


def term(name, labels, batch_dice, all_):
    """Return a term of three images, and its gradient in those of one process."""
    torch.manual_seed(3)
    logits = torch.randn(3, 2 if labels.has_regions else 3, 12, 10)
    target = torch.randint(0, 3, (3, 12, 10))
    target[0, :7] = IGNORED
    logits, target = logits[all_.rank :: all_.count].requires_grad_(), target[all_.rank :: all_.count]
    value = TERM[name](Seen(logits, target, labels, batch_dice, WEIGHTS))
    value.backward()
    return value.item(), logits.grad


@pytest.mark.parametrize("number", range(len(TERMS)), ids=lambda i: f"{TERMS[i][0]}-{i % 4}")
def test_every_term_of_a_loss_is_that_of_the_whole_batch(pair, number):
    value, gradient = term(*TERMS[number], ALONE)
    assert gradient.abs().max() > 1e-6
    for rank, found in enumerate(pair["terms"]):
        assert found[number][0] == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(found[number][1], gradient[rank::2], rtol=1e-4, atol=1e-8)


def stop_and_refuse(work):
    """Refuse a batch that cannot be shared, then learn until the other process is asked to end; run in each."""
    rank = int(os.environ["RANK"])
    (work / f"pid{rank}").write_text(str(os.getpid()))
    code = guard(lambda: str(train(work / "single", SHORT)) and 0)
    (work / f"code{rank}").write_text(str(code))

    def press(epoch):
        if epoch.number == 2:
            os.kill(int((work / "pid1").read_text()), signal.SIGTERM)

    try:
        train(work, SHORT, on_epoch=press)
    except (KeyboardInterrupt, ToldError) as error:
        (work / f"end{rank}").write_text(type(error).__name__)


def test_a_run_of_two_is_stopped_by_one_and_gone_on_with_by_one(work):
    write(planned(batch=3), work / "plan.json")
    (work / "single").mkdir()
    write(planned(batch=1), work / "single" / "plan.json")
    (work / "single" / "prepared").symlink_to(work / "prepared")
    done = launched(program(work / "stop.py", f"stop_and_refuse(Path({str(work)!r}))"))
    assert done.returncode == 0, done.stderr
    assert [(work / f"code{rank}").read_text() for rank in range(2)] == ["2", "0"]
    assert done.stderr.count("a batch of 1 cannot be shared by 2 processes") == 1
    assert [(work / f"end{rank}").read_text() for rank in range(2)] == ["Stopped", "ToldError"]
    run = work / "runs" / "2d-unet-0"
    assert not (run / "model.safetensors").exists()
    assert [line["number"] for line in lines(run)] == [1, 2]

    seen = []
    resumed = load(train(work, replace(SHORT, resume=True), on_epoch=seen.append))
    assert [epoch.number for epoch in seen] == [3, 4]
    (work / "runs").rename(work / "runs-two")
    alone = load(train(work, SHORT))
    assert resumed.provenance.steps == alone.provenance.steps
    one, other = dict(alone.network.named_parameters()), dict(resumed.network.named_parameters())
    assert apart(one, other, [name for name in one if not idle(name)]) < 1e-5


def test_the_command_shows_and_writes_once(work):
    words = ["-m", "mambino", "train", work, "--epochs", 2, "--folds", 3, "--threads", 1, "--precision", "float32"]
    done = launched(*words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"epoch +(\d+)/2", done.stderr) == ["1", "2"]
    assert done.stdout.splitlines() == [f"model: {work / 'runs' / '2d-unet-0' / 'model.safetensors'}"]
    assert [line["number"] for line in lines(work / "runs" / "2d-unet-0")] == [1, 2]


def fail_in_one(work, how):
    """Let the second process alone fail in its third batch; run in each of two."""
    from mambino.errors import DataError
    from mambino.training.sampling import Patches

    draw = Patches.__call__

    def fail(self, number):
        if self.processes.rank and number == 2:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("case toy_9: its prepared voxels cannot be read", hint="prepare it again")
        return draw(self, number)

    Patches.__call__ = fail
    sys.exit(guard(lambda: str(train(work, SHORT)) and 0))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "raised"])
def test_a_process_that_fails_ends_the_others_with_a_word(work, how):
    done = launched(program(work / "fail.py", f"fail_in_one(Path({str(work)!r}), {how!r})"))
    assert done.returncode != 0
    assert "another process of this run has ended or cannot be reached" in done.stderr
    assert done.stderr.count("error: case toy_9") == (how == "raised")
    assert load(train(work, replace(SHORT, resume=True))).provenance.steps == 16
