"""The loop learns, is repeatable, goes on as if it had never stopped, ends on time, and says when it diverges."""

import time
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from mambino.errors import Error
from mambino.training.loop import Epoch, epochs, finished
from mambino.training.precision import Precision
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


class Between(nn.Module):
    """Divides by zero between its layers, in a part of its own."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = Dividing(), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.last(self.inner(x))


class Dividing(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 1), nn.Identity()

    def forward(self, x):
        return self.two(self.one(x) / 0)


class Ending(Dividing):
    """Divides by zero after its last layer."""

    def forward(self, x):
        return self.two(self.one(x)) / 0


class Coarse(nn.Module):
    """Is finite on its finest scale, and not on the other one."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 1), Infinite()

    def forward(self, x):
        return self.one(x)

    def scales(self, x):
        return self.forward(x), self.two(self.forward(x)[..., ::2, ::2]), self.forward(x)[..., ::4, ::4]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Between, r"in what inner \(Dividing\) gives to inner\.two \(Identity\): float32, none of 1536 finite"),
        (Ending, r"in the output of the network \(Ending\): float32, none of 1536 finite, from float32 -"),
        (Coarse, r"in the output of two \(Infinite\): float32, none of 384 finite, from float32 -"),
        (
            Astray,
            r"the loss is not finite at step 1 .*first value that is not finite is in the output of two \(Infinite\)",
        ),
        (Steep, r"the gradient is not finite at step 1 .* in the gradient of one\."),
    ],
)
def test_divergence_names_its_place(network, words):
    what = course({"recipe": {"deep_supervision": True}})
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


def test_batches_added_up_are_a_batch_of_that_size():
    """Terms that are means over patches, with the same number of voxels each, do not care how these are shared out."""
    loss = {"ce": 1.0, "sample_dice": 1.0}
    one = course({"batch": 4, "recipe": {"loss": loss, "average": 0.0}})
    two = course({"batch": 2, "recipe": {"loss": loss, "average": 0.0, "accumulate": 2}})
    halves = {n: Batch(*(x.split(2)[n % 2] for x in (one.patches(n // 2).images, one.patches(n // 2).target)))
              for n in range(16)}  # fmt: skip
    whole, parted = trained(one)[0], trained(replace(two, patches=halves.__getitem__))[0]
    torch.testing.assert_close(weights(parted), weights(whole), rtol=1e-4, atol=1e-5)


def test_a_run_of_added_batches_that_was_stopped_goes_on_as_if_it_never_was(tmp_path):
    what = course({"recipe": {"augmentation": "light", "accumulate": 3}}, epochs=2)
    whole = trained(what)[0]
    state = fresh(what.config.recipe)
    with pytest.raises(LateError):
        for _ in epochs(state, what, check=late(3)):
            pass
    save_state(state, tmp_path / "state.pt")
    again = fresh(what.config.recipe, seed=7)
    load_state(again, tmp_path / "state.pt")
    list(epochs(again, what))
    assert torch.equal(weights(again), weights(whole))


def late(steps):
    """Return a check that raises at the step of this number."""
    counted = iter(range(1, steps))

    def check():
        if next(counted, None) is None:
            raise LateError

    return check


def test_without_an_average_the_weights_themselves_are_kept():
    state, _ = trained(course({"recipe": {"average": 0.0}}))
    network, average = weights(state).chunk(2)
    assert torch.equal(network, average)


def test_a_rate_that_stays_for_an_epoch_is_that_of_its_beginning():
    _, seen = trained(course({"recipe": {"schedule": "poly", "pace": "epoch"}}, epochs=4))
    assert [e.rate for e in seen] == pytest.approx([0.01 * (1 - n / 4) ** 0.9 for n in range(4)])


def test_a_rate_that_rises_again_has_its_period_in_epochs():
    wave = {"schedule": "cosine", "pace": "epoch", "period": 2, "floor": 0.001}
    _, seen = trained(course({"recipe": wave}, epochs=5))
    assert [e.rate for e in seen] == pytest.approx([0.01, 0.0055, 0.001, 0.0055, 0.01])


def test_without_a_limit_gradients_are_not_clipped():
    free = trained(course({"recipe": {"clip": 0.0, "optimiser": "sgd"}}))[0]
    same = trained(course({"recipe": {"clip": 1e9, "optimiser": "sgd"}}))[0]
    other = trained(course({"recipe": {"clip": 1e-3, "optimiser": "sgd"}}))[0]
    assert torch.equal(weights(free), weights(same))
    assert not torch.equal(weights(free), weights(other))


def in_fp16(scale=2.0**16):
    """Return a state and a course in float16."""
    what = course(precision=Precision(torch.device("cpu"), "fp16"))
    state = fresh(what.config.recipe)
    state.scaler = GradScaler("cpu", init_scale=scale)
    return state, what


def test_float16_learns_as_float32_does():
    state, what = in_fp16()
    seen = list(epochs(state, what))
    exact = trained(course())[1]
    assert [e.loss for e in seen] == pytest.approx([e.loss for e in exact], rel=0.01)


def test_a_loss_that_was_scaled_too_far_is_left_out_and_the_scale_falls():
    state, what = in_fp16(scale=2.0**21)
    before = weights(state).clone()
    with pytest.raises(LateError):
        list(epochs(state, what, check=late(1)))
    assert state.step == 1
    assert torch.equal(weights(state), before)
    assert state.scaler.get_scale() == 2.0**20
    list(epochs(state, what))
    assert not torch.equal(weights(state), before)
    assert torch.isfinite(weights(state)).all()


def test_a_gradient_that_no_scale_makes_finite_is_an_error_in_float16_too():
    state, what = in_fp16(scale=1.0)
    state.network = Steep()
    with pytest.raises(Error, match="the gradient is not finite at step 1"):
        list(epochs(state, what))


def test_the_scale_is_part_of_the_state(tmp_path):
    state, what = in_fp16(scale=2.0**20)
    with pytest.raises(LateError):
        list(epochs(state, what, check=late(2)))
    save_state(state, tmp_path / "state.pt")
    again, _ = in_fp16()
    load_state(again, tmp_path / "state.pt")
    assert again.scaler.state_dict() == state.scaler.state_dict()
