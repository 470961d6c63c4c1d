"""Layer normalisation with the sum before it and the gate after it equals torch's, on every path."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from mambino.errors import ShapeError
from mambino.ops.layer_norm import layer_norm
from tests.close import assert_close


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm_of(channels, dtype=torch.float64):
    norm = nn.LayerNorm(channels, dtype=dtype)
    norm.load_state_dict({
        "weight": normal(channels, seed=8, dtype=dtype),
        "bias": normal(channels, seed=9, dtype=dtype),
    })
    return norm


@pytest.mark.parametrize("shape", [(2, 70, 40), (1, 3, 1), (3, 17, 24), (1, 2100, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("around", ["", "add", "add scale", "gate", "add scale gate"])
@pytest.mark.usefixtures("path")
def test_it_equals_torch(shape, dtype, around):
    x, add, gate = (3 * normal(*shape, seed=i, dtype=dtype) + 5 for i in range(3))
    norm, scale = norm_of(shape[-1], dtype), torch.full((1,), 0.7, dtype=dtype)
    given = {name: t for name, t in {"add": add, "scale": scale, "gate": gate}.items() if name in around.split()}
    expected = norm(x + (0.7 if "scale" in around else 1.0) * add if "add" in around else x)
    expected = expected * silu(gate) if "gate" in around else expected
    with torch.no_grad():
        found = layer_norm(x, norm, **given)
    assert float((found - expected).detach().abs().max()) < (1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.usefixtures("path")
def test_tokens_may_lie_apart():
    wide = normal(2, 9, 30)
    x, gate = wide[..., :12], wide[:, :, 15:27]
    with torch.no_grad():
        assert_close(layer_norm(x, norm_of(12), gate=gate), norm_of(12)(x) * silu(gate))


@pytest.mark.usefixtures("path")
def test_a_large_mean_costs_no_accuracy():
    x = normal(1, 40, 24) + 3000
    with torch.no_grad():
        found = layer_norm(x.float(), norm_of(24, torch.float32))
        expected = norm_of(24, torch.float32).double()(x.float().double())
    assert float((found - expected).detach().abs().max()) < 1e-3  # a unit in the last place of 3000 is 2e-4


def test_gradients_reach_every_input():
    x, add, gate = (normal(1, 3, 4, seed=i).requires_grad_() for i in range(3))
    norm, scale = norm_of(4), torch.full((1,), 0.7, dtype=torch.float64, requires_grad=True)
    found = layer_norm(x, norm, add=add, scale=scale, gate=gate)
    expected = norm(x + scale * add) * silu(gate)
    leaves = [x, add, gate, scale, *norm.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert_close(mine, theirs)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"layer_norm takes x of \[batch, length, 4 channels\], got \(2, 9, 6\)"):
        layer_norm(torch.zeros(2, 9, 6), nn.LayerNorm(4))
    with pytest.raises(ShapeError, match=r"layer_norm takes gate of \(2, 9, 6\) with this x, got \(2, 9, 5\)"):
        layer_norm(torch.zeros(2, 9, 6), nn.LayerNorm(6), gate=torch.zeros(2, 9, 5))
