"""A saved state is the state, holds nothing but tensors and plain values, and a damaged one is refused."""

import io
from itertools import pairwise

import pytest
import torch

from mambino.errors import FileFormatError
from mambino.training.schedule import Pace
from mambino.training.state import DIGEST, NUMBERS, follow, load_state, optimiser, save_state
from mambino.training.validation import Rhythm
from tests.training.toys import Toy, config, fresh

RECIPE = config().recipe


def used(seed=0):
    state = fresh(RECIPE, seed)
    state.network(torch.randn(1, 1, 8, 8)).mean().backward()
    state.optimiser.step()
    state.step, state.total, state.progress, state.best, state.best_epoch = 7, 20, 0.35, 0.8, 2
    state.rhythm, state.pace = Rhythm(2, 5), Pace(0.1, 7, 3.0)
    return state


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_what_was_saved_is_what_is_loaded(tmp_path, kind):
    recipe = config(recipe={"optimiser": kind}).recipe
    state, other = used(), fresh(recipe, 1)
    state.optimiser = optimiser(state.network, recipe)
    state.network(torch.randn(1, 1, 8, 8)).mean().backward()
    state.optimiser.step()
    save_state(state, tmp_path / "state.pt")
    drawn = torch.rand(3)
    load_state(other, tmp_path / "state.pt")
    assert torch.equal(torch.rand(3), drawn)
    assert [getattr(other, name) for name in NUMBERS] == [getattr(state, name) for name in NUMBERS]
    assert (other.rhythm, other.pace) == (state.rhythm, state.pace)
    for one, two in ((state.network, other.network), (state.average, other.average)):
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    saved, loaded = state.optimiser.state_dict()["state"], other.optimiser.state_dict()["state"]
    for key, values in saved.items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(loaded[key][name]))


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    save_state(used(), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="cannot be gone on from") as caught:
        load_state(fresh(RECIPE), path)
    assert "remove the run's folder" in caught.value.hint


def test_the_average_moves_towards_the_weights_and_arrives():
    state = fresh(RECIPE)
    with torch.no_grad():
        for parameter in state.network.parameters():
            parameter.add_(1)
    gap = [(state.network.last.bias - state.average.last.bias).abs().max().item()]
    for step in range(1, 40):
        follow(state.average, state.network, step, 0.999)
        gap.append((state.network.last.bias - state.average.last.bias).abs().max().item())
    assert all(b < a for a, b in pairwise(gap) if a > 1e-6)
    assert gap[-1] < 1e-4


def test_vectors_and_what_asks_for_it_are_not_decayed():
    network = Toy()
    network.last.weight._no_weight_decay = True
    decayed, free = optimiser(network, RECIPE).param_groups
    assert [p is network.first.weight for p in decayed["params"]] == [True]
    assert (len(free["params"]), free["weight_decay"], decayed["weight_decay"]) == (3, 0.0, RECIPE.weight_decay)


def test_a_state_of_format_1_which_had_no_sum_is_gone_on_from(tmp_path):
    path, state, other = tmp_path / "state.pt", used(), fresh(RECIPE, 1)
    save_state(state, path)
    content = torch.load(io.BytesIO(path.read_bytes()[:-DIGEST]), weights_only=True)
    del content["numbers"]["setbacks"]
    torch.save({**content, "format": 1}, path)
    load_state(other, path)
    assert (other.step, other.setbacks) == (7, 0)
    torch.save({**content, "format": 3}, path)
    with pytest.raises(FileFormatError, match="bytes are not those that were written"):
        load_state(other, path)


def test_a_state_of_a_later_format_is_refused_by_both_numbers(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mambino.training.state.FORMAT", 4)
        save_state(used(), path)
    with pytest.raises(FileFormatError, match=r"state\.pt has format 4, but this version of mambino reads format 3"):
        load_state(fresh(RECIPE), path)
