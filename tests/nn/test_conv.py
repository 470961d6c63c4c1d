"""Convolution blocks keep sides or halve them, and follow the layers they are made of."""

import pytest
import torch

from mambino.nn.conv import ConvBlock, PixelShuffle, SeparableConv, conv_blocks
from mambino.nn.decoder import Decoder
from mambino.nn.init import he_normal
from tests.close import assert_close


def test_a_block_normalises_each_channel_of_each_image():
    block = ConvBlock(2, 3, 4, (3, 3), (1, 1))
    block.activation = torch.nn.Identity()
    y = block(torch.randn(2, 3, 16, 16))
    assert_close(y.mean((2, 3)), torch.zeros(2, 4))
    assert_close(y.var((2, 3), unbiased=False), torch.ones(2, 4))


def test_only_the_first_of_several_blocks_has_the_stride():
    row = conv_blocks(3, 2, 4, 3, (1, 3, 3), (1, 2, 2))
    assert len(row) == 3
    assert row(torch.randn(1, 2, 5, 8, 8)).shape == (1, 4, 5, 4, 4)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_separable_convolution_is_the_product_of_both_kernels(dim):
    layer = SeparableConv(dim, 2, 3)
    x = torch.randn(1, 2, *(6,) * dim)
    kernel = torch.einsum("oi,i...->oi...", layer.pointwise.weight.flatten(1), layer.depthwise.weight[:, 0])
    convolve = torch.nn.functional.conv2d if dim == 2 else torch.nn.functional.conv3d
    assert_close(layer(x), convolve(x, kernel, padding=1))


@pytest.mark.parametrize("dim", [2, 3])
def test_pixel_shuffling_equals_that_of_monai(dim):
    blocks = pytest.importorskip("monai.networks.blocks", reason="MONAI is not installed")
    ours, theirs = PixelShuffle(dim, 3), blocks.SubpixelUpsample(dim, 3, scale_factor=2)
    theirs.conv_block.load_state_dict(ours.conv.state_dict())
    x = torch.randn(2, 3, *range(4, 4 + dim))
    assert_close(ours(x), theirs(x))


def test_pixel_shuffling_starts_with_one_kernel_for_all_neighbours():
    layer = PixelShuffle(2, 3)
    groups = layer.conv.weight.unflatten(0, (3, 4))
    assert torch.equal(groups, groups[:, :1].expand_as(groups))


def test_he_initialisation_has_the_deviation_of_its_slope_and_no_bias():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 64, 3)
    he_normal(layer)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (1 + 1e-4) / (64 * 9)) ** 0.5, rel=0.02)
    assert not layer.bias.any()


def test_the_decoder_gives_every_stage_coarsest_first():
    decoder = Decoder(2, (2, 3, 5), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 1)), (1, 2), 4)
    skips = [torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4), torch.randn(1, 5, 2, 4)]
    assert [f.shape for f in decoder(skips)] == [(1, 3, 4, 4), (1, 2, 8, 8)]
    assert [head.out_channels for head in decoder.heads] == [4, 4]
