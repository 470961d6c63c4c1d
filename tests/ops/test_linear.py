"""The linear layer is torch's, in values and in every gradient, whichever way round its products are taken."""

import pytest
import torch
from torch.nn import functional

from mambino.ops import linear as module
from mambino.ops.linear import linear
from tests.close import assert_close


def results(call, x, weight, bias):
    leaves = [t.clone().requires_grad_() for t in (x, weight, *(() if bias is None else (bias,)))]
    y = call(*leaves)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad((y * cotangent).sum(), leaves)]


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3), (4, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_values_and_gradients_are_those_of_torch(shape, inputs, outputs, with_bias, autocast):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*shape, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator) if with_bias else None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pairs = zip(results(linear, x, weight, bias), results(functional.linear, x, weight, bias), strict=True)
    for actual, expected in pairs:
        assert actual.dtype == expected.dtype
        if autocast:
            torch.testing.assert_close(actual, expected, rtol=5e-2, atol=5e-2)
        else:
            assert_close(actual, expected)


def test_the_other_way_is_taken_for_more_rows_than_columns_where_something_is_learnt(monkeypatch):
    taken = []
    monkeypatch.setattr(module._Linear, "apply", lambda *given: taken.append(given) or functional.linear(*given))
    x, tall, wide = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    linear(x, tall)
    linear(x, wide)
    linear(x, tall.detach())
    with torch.no_grad():
        linear(x, tall)
    assert len(taken) == 1
