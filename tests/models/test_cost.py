"""Parameters and operations equal the counts published with the reference architectures."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, ShapeError
from mambino.models import build, describe
from mambino.models.cost import activation_bytes, cost, multiply_adds, parameters
from tests.models.cases import CASES, PATCH, spec

SEVEN = {"features": (32, 64, 128, 256, 512, 512, 512)}
EIGHT = {"features": (32, 64, 128, 256, 512, 512, 512, 512)}

# Network, channels in and out, options, image; counted on the originals: parameters (M), multiply-adds (G), scan (G).
COUNTS = [
    ("lightm_unet", 1, 3, {}, (128, 128, 128), 5.016, 154.54, 91.86),
    ("lightm_unet_legacy", 1, 3, {}, (128, 128, 128), 6.150, 352.96, 91.86),
    ("lightm_unet", 3, 2, {}, (512, 512), 5.012, 47.75, 18.98),
    ("lightm_unet_legacy", 3, 2, {}, (512, 512), 5.376, 61.50, 18.98),
    ("resenc_unet", 1, 3, {}, (128, 128, 128), 102.351, 717.54, 0.0),
    ("umamba_bot_2024_01", 1, 14, SEVEN, (320, 320), 63.344, 45.38, 0.003738),
    ("umamba_bot_2024_01", 3, 3, EIGHT, (512, 512), 86.150, 117.02, 0.002392),
    ("umamba_bot_2024_01", 1, 3, {}, (128, 128, 128), 58.408, 985.41, 0.00598),
    ("umamba_enc_2024_01", 1, 14, SEVEN, (320, 320), 67.333, 49.28, 1.87),
    ("umamba_enc_2024_01", 3, 3, EIGHT, (512, 512), 91.835, 127.12, 4.80),
    ("umamba_enc_2024_01", 1, 3, {}, (128, 128, 128), 59.681, 1017.33, 26.08),
    ("unet", 1, 14, SEVEN, (320, 320), 33.490, 23.15, 0.0),
    ("unet", 3, 8, SEVEN, (384, 640), 33.481, 55.61, 0.0),
    ("unet", 3, 3, EIGHT, (512, 512), 46.327, 59.78, 0.0),
    ("unet", 1, 3, {}, (128, 128, 128), 31.196, 477.37, 0.0),
]


@pytest.mark.parametrize(("name", "into", "out", "options", "shape", "millions", "products", "scan"), COUNTS)
def test_counts_equal_those_of_the_originals(name, into, out, options, shape, millions, products, scan):
    asked = NetworkSpec(name=name, dim=len(shape), in_channels=into, out_channels=out, options=options)
    with torch.device("meta"):
        count = parameters(build(asked))
    assert round(count / 1e6, 3) == millions
    found = multiply_adds(asked, shape)
    assert found.products / 1e9 == pytest.approx(products, rel=5e-3)
    assert found.scan / 1e9 == pytest.approx(scan, rel=5e-3)
    assert found.total == found.products + found.scan


def test_descriptions_state_these_counts():
    for name, *_, shape, millions, _, _ in COUNTS:
        if shape != (384, 640):
            assert f"{millions + 1e-6:.2f} M" in describe(name).counted  # halves go up


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_activations_grow_with_the_image_and_more_in_training(name, dim):
    def of(side, **how):
        shape = (side,) * dim
        return activation_bytes(spec(name, dim, **({"patch": shape} if name in PATCH else {})), shape, 2, **how)

    training = of(16)
    assert of(16, training=False) < training
    ratio = of(32) / training
    assert 0.6 * 2**dim < ratio < 1.1 * 2**dim


def test_activations_are_at_least_what_is_stored_for_the_way_back():
    asked = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={"features": (8, 8)})
    # Two stages of two blocks down and one of two up: each keeps its convolution's and its normalisation's output.
    at_full_side = 4 * 2 * 64 * 64 * 8 * 4
    assert at_full_side < activation_bytes(asked, (64, 64), 1) < 3 * at_full_side


def test_operations_are_told_apart_by_kind_of_layer():
    plain = multiply_adds(NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={}), (64, 64))
    assert (plain.linear, plain.attention, plain.scan, plain.scan_exact) == (0, 0, 0, 0)
    assert plain.convolutions == plain.products == plain.total
    options = {"patch": (32, 32), "width": 2, "hidden": 8, "mlp": 6, "heads": 2}
    asked = NetworkSpec(name="unetr", dim=2, in_channels=1, out_channels=2, options=options)
    found = multiply_adds(asked, (32, 32))
    assert found.attention == 12 * 2 * 4 * 4 * 8  # layers, two products of each pair of tokens, channels
    assert found.linear == 12 * 4 * (4 * 8 * 8 + 2 * 8 * 6)  # of each token: queries, keys, values, output; perceptron


def test_the_scan_is_counted_by_both_conventions():
    options = {"width": 16, "depths": (1, 1), "decoder_depths": (1, 1), "state_size": 2}
    vm_unet = NetworkSpec(name="vm_unet", dim=2, in_channels=3, out_channels=2, options=options)
    found = multiply_adds(vm_unet, (32, 32))
    tokens = 2 * 4 * (64 * 32 + 16 * 64)  # down and up, four paths, tokens times inner width of both stages
    assert (found.scan, found.scan_exact) == (tokens * (9 * 2 + 1), tokens * (7 * 2 + 2))
    options = {"features": (4, 6), "blocks": (1, 1), "decoder_blocks": (1,)}
    umamba = NetworkSpec(name="umamba_bot", dim=2, in_channels=1, out_channels=2, options=options)
    found = multiply_adds(umamba, (16, 16))
    assert (found.scan, found.scan_exact) == (64 * 12 * (9 * 16 + 2), 64 * 12 * (7 * 16 + 3))


def test_cost_states_counts_and_claims_side_by_side():
    found = cost("vm_unet", (256, 256), channels=3, classes=1)
    assert found.parameters == 27427561
    assert found.operations.total / 1e9 == pytest.approx(8.25, rel=5e-3)
    assert found.claimed == describe("vm_unet").claimed
    assert 0 < found.inference < found.training


@pytest.mark.parametrize("name", ["unetr", "umamba_enc"])
def test_a_network_for_one_size_is_counted_for_the_size_of_the_image(name):
    assert cost(name, (32, 64)).network.options["patch"] == (32, 64)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(OptionError, match=r"an image has 2 or 3 sides of at least one voxel, got \(64,\)"):
        cost("unet", (64,))
    with pytest.raises(OptionError, match="there is no network 'u_net'"):
        cost("u_net", (64, 64))
    with pytest.raises(ShapeError, match="must be multiples of"):
        cost("unet", (63, 64))
