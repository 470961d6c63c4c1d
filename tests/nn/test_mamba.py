"""Mamba sees what is behind it and nothing ahead, starts as its authors start it, and keeps its counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.nn import mamba
from mambino.nn.mamba import Mamba
from tests.close import assert_close


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Mamba(12)


@settings(max_examples=15, deadline=None)
@given(place=st.integers(0, 29), seed=st.integers(0, 9))
def test_a_token_changes_nothing_before_it(place, seed):
    torch.manual_seed(seed)
    block = Mamba(6, state_size=4)
    x = torch.randn(2, 30, 6)
    changed = x.clone()
    changed[:, place] += 1
    with torch.no_grad():
        before, after = block(x), block(changed)
    assert_close(after[:, :place], before[:, :place])
    assert not torch.equal(after[:, place:], before[:, place:])


def test_parameters_are_as_many_as_the_formula_says():
    for width in (8, 24, 40):
        rank = -(-width // 16)
        assert sum(p.numel() for p in Mamba(width).parameters()) == 6 * width**2 + 4 * width * rank + 110 * width


def test_first_decays_and_steps_are_those_of_the_paper(block):
    assert_close(-block.A_log.exp()[3], -torch.arange(1.0, 17.0))
    steps = torch.nn.functional.softplus(block.dt_proj.bias.detach())
    assert float(steps.min()) >= 1e-4
    assert float(steps.max()) <= 0.1 + 1e-6
    assert float(block.dt_proj.weight.detach().abs().max()) <= 1.0
    assert bool((block.D == 1).all())


def test_the_order_of_tokens_matters(block):
    x = torch.randn(1, 20, 12)
    with torch.no_grad():
        assert not torch.allclose(block(x), block(x.flip(1)).flip(1), atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 40), tile=st.integers(1, 15))
def test_tiles_make_no_difference(length, tile):
    torch.manual_seed(0)
    block, x = Mamba(6, state_size=4), torch.randn(2, length, 6)
    whole = block(x)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(mamba, "TILE", tile)
        assert_close(block(x), whole)


def test_the_rank_of_the_step_sizes_may_be_chosen():
    assert Mamba(20, rank=3).dt_proj.weight.shape == (40, 3)
