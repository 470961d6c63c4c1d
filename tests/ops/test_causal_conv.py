"""The causal convolution equals torch's, with and without the library, in one piece and in several."""

import pytest
import torch
from torch.nn import functional

from mambino.errors import ShapeError
from mambino.ops.causal_conv import causal_conv
from tests.close import assert_close

pytestmark = pytest.mark.usefixtures("with_and_without_the_library")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(("shape", "kernel"), [((2, 50, 24), 4), ((1, 2, 7), 3), ((3, 1, 16), 1), ((1, 1100, 5), 6)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_it_equals_torch(shape, kernel, silu, biased):
    wide = normal(*shape[:2], 2 * shape[2])
    weight, bias = normal(shape[2], kernel, seed=1), normal(shape[2], seed=2) if biased else None
    leaves = [wide, weight, *([bias] if biased else [])]

    x = wide[..., : shape[2]]  # tokens lie further apart than they are long
    y = causal_conv(x, weight, bias, silu=silu)

    channel_first = x.transpose(1, 2)
    expected = functional.conv1d(channel_first, weight[:, None], bias, padding=kernel - 1, groups=shape[2])
    expected = expected[..., : shape[1]].transpose(1, 2)
    expected = functional.silu(expected) if silu else expected
    assert_close(y, expected)
    cotangent = normal(*shape, seed=3).detach()
    for mine, theirs in zip(
        torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        assert_close(mine, theirs)


def test_parts_see_what_was_before_them():
    x, weight, bias = (t.detach() for t in (normal(2, 30, 9), normal(9, 4), normal(9)))
    whole = causal_conv(x, weight, bias, silu=True)
    head = causal_conv(x[:, :11], weight, bias, silu=True)
    tail = causal_conv(x[:, 11:], weight, bias, before=x[:, 8:11], silu=True)
    assert_close(torch.cat([head, tail], 1), whole)


def test_the_operator_is_sound():
    torch.library.opcheck(torch.ops.mambino.causal_conv.default, (normal(2, 9, 6), normal(6, 4), normal(6), None, True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": (3, 4)}, r"causal_conv takes x of \[batch, length >= 1, channels\], got \(3, 4\)"),
        ({"weight": (5, 4)}, r"causal_conv takes a weight of \[6 channels, kernel\], got \(5, 4\)"),
        ({"bias": (5,)}, r"causal_conv takes bias of \(6,\) with this x, got \(5,\)"),
        ({"before": (1, 2, 6)}, r"causal_conv takes before of \(2, 3, 6\) with this x, got \(1, 2, 6\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, words):
    shapes = {"x": (2, 9, 6), "weight": (6, 4), "bias": (6,)} | change
    with pytest.raises(ShapeError, match=words):
        causal_conv(**{name: torch.zeros(shape) for name, shape in shapes.items()})
