"""The loop learns, is repeatable, goes on as if it had never stopped, ends on time, and says when it diverges."""

import time
from itertools import islice

import pytest
import torch
from torch import nn

from mambino.errors import Error
from mambino.training.loop import Epoch, epochs, finished
from mambino.training.sampling import Batch
from mambino.training.state import load_state, save_state
from tests.training.toys import Toy, course, fresh


class LateError(Exception):
    """Stops a loop."""


def weights(state):
    return torch.cat([p.detach().reshape(-1) for m in (state.network, state.average) for p in m.parameters()])


def trained(what, seed=0):
    state = fresh(what.config.recipe, seed)
    return state, list(epochs(state, what))


def test_a_toy_is_learnt():
    _, seen = trained(course({"recipe": {"steps": 40, "rate": 0.02}}, epochs=2))
    assert seen[-1].dice > 0.9
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].best == max(e.dice for e in seen if e.dice is not None)


def test_epochs_say_how_far_they_are():
    what = course({"recipe": {"steps": 3}}, epochs=4)
    state, seen = trained(what)
    assert [(e.number, e.of, e.step) for e in seen] == [(1, 4, 3), (2, 4, 6), (3, 4, 9), (4, 4, 12)]
    assert seen[-1].seconds_left == 0
    assert all(isinstance(e, Epoch) and e.memory_gib > 0 for e in seen)
    assert seen[-1].rate < seen[0].rate
    assert seen[-1].dice is not None
    assert set(seen[-1].per_label) == {"dark", "bright"}
    assert finished(state)
    assert state.progress == pytest.approx(1)


def test_equal_seeds_give_equal_weights_with_and_without_workers():
    changes = {"recipe": {"augmentation": "full"}, "mirror": (0, 1)}
    one, two = trained(course(changes))[0], trained(course(changes, workers=2))[0]
    other = trained(course(changes, seed=1))[0]
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(tmp_path, stop):
    what = course({"recipe": {"augmentation": "light"}}, epochs=2)
    whole, expected = trained(what)
    state, calls = fresh(what.config.recipe), []

    def check():
        calls.append(state.step)
        if state.step == stop:
            raise LateError

    with pytest.raises(LateError):
        list(epochs(state, what, check=check))
    save_state(state, tmp_path / "state.pt")
    again = fresh(what.config.recipe, 5)
    load_state(again, tmp_path / "state.pt")
    rest = list(epochs(again, what))
    assert torch.equal(weights(again), weights(whole))
    assert [(e.number, e.loss, e.dice) for e in rest] == [(e.number, e.loss, e.dice) for e in expected[-len(rest) :]]


def test_three_epochs_can_be_taken_from_a_long_run():
    state = fresh(course().config.recipe)
    assert [e.number for e in islice(epochs(state, course(epochs=1000)), 3)] == [1, 2, 3]


class Slow:
    """Batches that take a while, so that the time of a step hardly varies."""

    def __init__(self, make, seconds):
        self.make, self.seconds = make, seconds

    def __call__(self, number):
        time.sleep(self.seconds)
        return self.make(number)


def slowed(seconds, **more):
    what = course({"recipe": {"steps": 10}}, **more)
    return type(what)(**{n: getattr(what, n) for n in what.__slots__} | {"patches": Slow(what.patches, seconds)})


def test_a_time_budget_is_used_up_and_no_more():
    what = slowed(0.02, budget=3.0, epochs=None)
    begin = time.perf_counter()
    state, seen = trained(what)
    assert 1.8 < time.perf_counter() - begin < 3.3  # a busy machine may settle on few steps, or cut the last
    assert state.progress > 0.85
    assert seen[-1].rate < 0.3 * what.config.recipe.rate
    assert seen[-1].dice is not None


def test_epochs_are_the_limit_where_they_end_before_the_time():
    state, seen = trained(slowed(0.0, budget=60.0, epochs=2))
    assert (state.step, len(seen)) == (20, 2)


def test_patience_counts_down_from_the_best():
    seen = trained(course({"recipe": {"steps": 2, "rate": 1e-12}}, epochs=5, patience=3, validate_every=1))[1]
    assert [e.patience_left for e in seen] == [3, 2, 1, 0, 0]
    assert [e.improved for e in seen] == [True, False, False, False, False]


def test_nothing_held_out_means_no_validation():
    seen = trained(course(held_out=[]))[1]
    assert all(e.dice is None and e.best is None for e in seen)


class Astray(nn.Module):
    """Divides by zero in its second layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 1), Infinite()

    def forward(self, x):
        return self.two(self.one(x))


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0


class Steep(nn.Module):
    """Is finite, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return (self.one(x) * 0).clamp(min=0).sqrt()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            Astray,
            r"the loss is not finite at step 1 .*first value that is not finite is in the output of two \(Infinite\)",
        ),
        (Steep, r"the gradient is not finite at step 1 .* in the gradient of one\."),
    ],
)
def test_divergence_names_its_place(network, words):
    what = course()
    with pytest.raises(Error, match=words):
        list(epochs(fresh(what.config.recipe, network=network()), what))


def test_infinite_images_and_parameters_are_named():
    what = course()
    bad = type(what)(**{n: getattr(what, n) for n in what.__slots__} | {"patches": infinite})
    with pytest.raises(Error, match="in the images of the batch"):
        list(epochs(fresh(what.config.recipe), bad))
    state = fresh(what.config.recipe)
    nn.init.constant_(state.network.last.bias, float("nan"))
    with pytest.raises(Error, match=r"in the parameter last\.bias"):
        list(epochs(state, what))


def infinite(_number):
    return Batch(torch.full((2, 1, 16, 16), float("inf")), torch.zeros(2, 16, 16, dtype=torch.int64))


class Deep(Toy):
    """Offers two scales."""

    calls = 0

    def scales(self, x):
        type(self).calls += 1
        logits = self.forward(x)
        return logits, nn.functional.avg_pool2d(logits, 2), nn.functional.avg_pool2d(logits, 4)


def test_scales_are_learnt_from_where_the_recipe_says_so():
    for deep in (True, False):
        Deep.calls = 0
        what = course({"recipe": {"deep_supervision": deep}}, epochs=1, held_out=[])
        list(epochs(fresh(what.config.recipe, network=Deep()), what))
        assert Deep.calls == 4 * deep
