"""Group normalisation of tokens equals torch's, and stays exact on long sequences with a large mean."""

import pytest
import torch
from torch.nn import functional

from mambino.errors import ShapeError
from mambino.ops.group_norm import group_norm
from tests.close import assert_close

pytestmark = pytest.mark.usefixtures("with_and_without_the_library")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("shape", "groups"), [((2, 5000, 8), 8), ((1, 70, 40), 8), ((3, 1, 24), 2), ((2, 9, 6), 1)])
@pytest.mark.parametrize("relu", [True, False])
def test_it_equals_torch(shape, groups, relu):
    leaves = [(3 * normal(*shape) + 5), normal(shape[2], seed=1), normal(shape[2], seed=2)]
    x, weight, bias = (t.requires_grad_() for t in leaves)
    y = group_norm(x, weight, bias, groups, relu=relu)

    expected = functional.group_norm(x.transpose(1, 2), groups, weight, bias).transpose(1, 2)
    expected = functional.relu(expected) if relu else expected
    assert_close(y, expected)
    cotangent = normal(*shape, seed=3)
    for mine, theirs in zip(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        assert_close(mine, theirs)


def test_long_sequences_with_a_large_mean_are_exact():
    x, weight, bias = normal(1, 60_000, 8) + 30, torch.ones(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    exact = group_norm(x.float().double(), weight, bias, 8)
    found = group_norm(x.float(), weight.float(), bias.float(), 8)
    assert float((found - exact).abs().max()) < 2e-5  # a unit in the last place of 30 is 2e-6


def test_the_operator_is_sound():
    arguments = (normal(2, 9, 6).requires_grad_(), normal(6), normal(6), 2, 1e-5, True)
    torch.library.opcheck(torch.ops.mambino.group_norm.default, arguments)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"4 groups dividing the channels, got \(2, 9, 6\)"):
        group_norm(torch.zeros(2, 9, 6), torch.zeros(6), torch.zeros(6), 4)
    with pytest.raises(ShapeError, match=r"group_norm takes bias of \(6,\) with this x, got \(5,\)"):
        group_norm(torch.zeros(2, 9, 6), torch.zeros(6), torch.zeros(5), 2)
