"""The depthwise convolution of images with their channels last equals torch's, on every path."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from mambino.errors import ShapeError
from mambino.ops.grid_conv import grid_conv


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def conv_of(channels, kernel, dtype=torch.float64, *, bias=True):
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel)
    return kind(channels, channels, kernel, padding=padding, groups=channels, bias=bias, dtype=dtype)


CASES = [((2, 5, 7, 40), (3, 3)), ((1, 1, 9, 5), (5, 3)), ((1, 4, 3, 6, 70), (3, 3, 3)), ((1, 40, 33, 3), (1, 7))]


@pytest.mark.parametrize(("shape", "kernel"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("activated", "bias"), [(True, True), (False, False)])
@pytest.mark.usefixtures("path")
def test_it_equals_torch(shape, kernel, dtype, activated, bias):
    x, conv = normal(*shape, dtype=dtype), conv_of(shape[-1], kernel, dtype, bias=bias)
    expected = conv(x.movedim(-1, 1)).movedim(1, -1)
    expected = silu(expected) if activated else expected
    with torch.no_grad():
        found = grid_conv(x, conv, silu=activated)
    assert float((found - expected).detach().abs().max()) < (3e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.usefixtures("path")
def test_channels_may_be_a_part_of_wider_ones():
    wide, conv = normal(2, 6, 5, 30), conv_of(12, (3, 3))
    with torch.no_grad():
        found, expected = grid_conv(wide[..., 12:24], conv), conv(wide[..., 12:24].movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(found, expected)


def test_gradients_reach_every_input():
    x, conv = normal(1, 4, 3, 2).requires_grad_(), conv_of(2, (3, 3))
    leaves = [x, *conv.parameters()]
    expected = silu(conv(x.movedim(-1, 1)))
    for mine, theirs in zip(
        torch.autograd.grad(grid_conv(x, conv, silu=True).sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"grid_conv takes x of \[batch, 2 sides, 4 channels\], got \(1, 5, 5, 6\)"):
        grid_conv(torch.zeros(1, 5, 5, 6), conv_of(4, (3, 3)))
