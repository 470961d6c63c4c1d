"""The small rivals have the parameters that their papers state, and are built as these describe."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError
from mambino.models import build
from mambino.models.cost import parameters
from mambino.models.mk_unet import ChannelWeights, MultiKernelBlock
from mambino.models.ultralight import ParallelMamba
from tests.close import assert_close
from tests.models.cases import spec


def full(name, **options):
    with torch.device("meta"):
        return build(NetworkSpec(name=name, dim=2, in_channels=3, out_channels=1, options=options))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("ultralight_vm_unet", {}, 49_457),
        ("mk_unet", {}, 315_566),
        ("mk_unet", {"features": (4, 8, 16, 24, 32)}, 27_384),
        ("mk_unet", {"features": (64, 128, 256, 384, 512)}, 3_758_118),
    ],
)
def test_parameters_are_those_of_the_published_code(name, options, count):
    assert parameters(full(name, **options)) == count


def test_both_halve_the_sides_five_times():
    assert full("ultralight_vm_unet").divisor == full("mk_unet").divisor == (32, 32)


def test_the_three_coarsest_stages_on_both_sides_have_a_mamba():
    network = full("ultralight_vm_unet")
    assert [isinstance(layer, ParallelMamba) for layer in network.encoder] == [False] * 3 + [True] * 3
    assert [isinstance(layer, ParallelMamba) for layer in network.decoder] == [True] * 3 + [False] * 2


def test_parts_side_by_side_are_parts_one_after_another():
    torch.manual_seed(0)
    layer, x = ParallelMamba(12, 8, "scan", "selective"), torch.randn(2, 12, 3, 5)
    with torch.no_grad():
        layer.skip_scale.fill_(0.7)
        tokens = layer.norm(x.flatten(2).transpose(1, 2))
        mixed = torch.cat([layer.mixer(part) + 0.7 * part for part in tokens.chunk(4, -1)], -1)
        expected = layer.proj(layer.norm(mixed)).transpose(1, 2).reshape(2, 8, 3, 5)
        assert_close(layer(x), expected)


def test_a_bridge_weighs_places_then_channels_of_all_stages():
    torch.manual_seed(0)
    bridge = build(spec("ultralight_vm_unet", 2)).bridge
    skips = [torch.randn(2, width, 8, 12) for width in (4, 8, 8)]
    with torch.no_grad():
        bridge.place.weight.zero_()
        bridge.mix.weight.zero_()
        # Weights of a half each: a place gives half, a channel half of that and the whole, and the half is added.
        for x, y in zip(skips, bridge(skips), strict=True):
            assert_close(y, 1.25 * x)


def test_a_block_without_weight_is_its_way_past():
    torch.manual_seed(0)
    block, x = MultiKernelBlock(2, 4, 4, (1, 3, 5)).eval(), torch.randn(1, 4, 5, 7)
    with torch.no_grad():
        block.narrow[1].weight.zero_()
    assert torch.equal(block(x), x)
    assert MultiKernelBlock(2, 6, 4, (3,)).groups == 4


def test_channels_are_weighed_by_mean_and_maximum():
    weights, x = ChannelWeights(2, 8, 4), torch.randn(2, 8, 3, 5)
    assert weights.layers[0].out_channels == 2
    ends = [weights.layers(of) for of in (x.mean((2, 3), True), x.amax((2, 3), True))]
    assert_close(weights(x), torch.sigmoid(ends[0] + ends[1]))


def test_logits_of_the_multi_kernel_network_come_at_every_stage_but_the_coarsest():
    found = build(spec("mk_unet", 2, features=(4, 6, 8))).scales(torch.randn(2, 2, 32, 48))
    assert [tuple(y.shape[1:]) for y in found] == [(3, 32, 48), (3, 16, 24)]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "ultralight_vm_unet",
            {"features": (8, 8, 8)},
            "ultralight_vm_unet: features needs 4 multiples of 4 or more",
        ),
        (
            "ultralight_vm_unet",
            {"features": (8, 8, 8, 6)},
            "ultralight_vm_unet: features needs 4 multiples of 4 or more",
        ),
        ("mk_unet", {"features": (8,)}, r"mk_unet: features needs two even numbers or more, got \(8,\)"),
        ("mk_unet", {"features": (8, 7)}, r"mk_unet: features needs two even numbers or more, got \(8, 7\)"),
        ("mk_unet", {"kernels": ()}, r"mk_unet: kernels needs one odd number or more, got \(\)"),
        ("mk_unet", {"kernels": (1, 4)}, r"mk_unet: kernels needs one odd number or more, got \(1, 4\)"),
    ],
)
def test_impossible_options_are_refused(name, options, words):
    with pytest.raises(OptionError, match=words):
        build(spec(name, 2, **options))
