"""Parameters and operations equal the counts published with the reference architectures."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.models import build, describe
from mambino.models.cost import activation_bytes, multiply_adds, parameters
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
