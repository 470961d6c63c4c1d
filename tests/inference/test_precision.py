"""bfloat16 is taken where it is faster and masks stay the same; its first and last layer see float32."""

from dataclasses import replace

import pytest
import torch

from mambino.core.options import PredictOptions
from mambino.inference import precision
from mambino.inference.precision import AGREED, GAIN, choose_precision
from mambino.models import build
from mambino.models.cost import end_layers
from mambino.models.precision import in_precision
from mambino.nn.rewiring import halved, wide
from mambino.weights.bundle import header, load, save
from tests.tiny import know, tiny_bundle
from tests.training.toys import config as toy

CPU, AUTO = torch.device("cpu"), PredictOptions()


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.mark.parametrize(
    ("has", "gain", "halves", "expected"),
    [
        (True, GAIN + 0.1, (AGREED,), "bf16"),
        (True, GAIN + 0.1, (AGREED, 1.0), "bf16"),
        (True, GAIN + 0.1, (AGREED - 1e-4, 1.0), "float32"),
        (True, GAIN + 0.1, (None,), "float32"),
        (True, GAIN - 0.1, (1.0,), "float32"),
        (False, GAIN + 0.1, (1.0,), "float32"),
    ],
)
def test_auto_takes_bfloat16_where_nothing_is_lost_by_it(monkeypatch, has, gain, halves, expected):
    monkeypatch.setattr(precision, "has_bf16", lambda _: has)
    monkeypatch.setattr(precision, "_gain", lambda *_: gain)
    bundles = [replace(tiny_bundle(), half=half) for half in halves]
    assert choose_precision(bundles, AUTO, CPU) == expected
    for name in ("float32", "bf16"):
        assert choose_precision(bundles, PredictOptions(precision=name), CPU) == name


def test_the_gain_is_measured_once_for_a_network(monkeypatch):
    times = iter([4.0, 2.0])
    monkeypatch.setattr(precision, "_seconds", lambda *_: next(times))
    bundle = tiny_bundle()
    assert [precision._gain(bundle, CPU) for _ in range(2)] == [2.0, 2.0]


def test_a_bundle_keeps_how_far_masks_agree(tmp_path):
    path = save(replace(tiny_bundle(), half=0.9995), tmp_path / "model.safetensors")
    assert header(path).half == load(path).half == 0.9995
    assert header(save(tiny_bundle(), path)).half is None


@pytest.mark.parametrize(
    ("name", "options", "ends"),
    [
        ("unet", {"features": (4, 8)}, ("encoder.0.0.conv", "decoder.heads.0")),
        ("segresnet", {}, None),
        ("lightm_unet", {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)}, None),
    ],
)
def test_the_first_and_the_last_layer_are_found_in_the_order_of_a_pass(name, options, ends):
    spec = replace(toy().network, name=name, options=options)
    first, last = end_layers(spec, (32, 32))
    assert ends is None or (first, last) == ends
    network = build(spec)
    assert {first, last} <= {name for name, _ in network.named_modules()}


def test_wide_layers_see_float32_inside_autocast_and_are_put_back():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    seen = []
    for layer in network:
        layer.register_forward_hook(lambda _, given, made: seen.append((given[0].dtype, made.dtype)))
    with torch.autocast("cpu", torch.bfloat16), wide(network, ("0", "2", "2")):
        network(torch.ones(1, 3))
    assert seen == [(torch.float32,) * 2, (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
    assert not any("forward" in vars(layer) for layer in network)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["unet", "resenc_unet"])
def test_a_copy_with_channels_last_is_as_near_as_the_network_itself(dim, name):
    config = toy(dim=dim, patch=(16,) * dim)
    config = replace(config, network=replace(config.network, name=name))
    torch.manual_seed(0)
    network, x = build(config.network).eval(), torch.randn(2, 1, *config.patch)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact = in_precision(network, config, "float32", CPU)(x)
    last = in_precision(network, config, "bf16", CPU)(x)
    network.channels_last = False
    first = in_precision(network, config, "bf16", CPU)(x)
    assert not torch.equal(last, exact)
    assert (last - exact).abs().mean() < 2 * (first - exact).abs().mean()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())


def test_a_copy_sees_bfloat16_between_its_ends_and_keeps_channels_last():
    network = build(toy().network).eval()
    made = halved(network, ("encoder.0.0.conv", "decoder.heads.0"))
    kinds = {name: layer.weight.dtype for name, layer in made.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {"encoder.0.0.conv", "decoder.heads.0"}
    seen = []
    made.decoder.heads[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        wide(made, ("encoder.0.0.conv", "decoder.heads.0")),
    ):
        made(torch.randn(1, 1, 16, 16).contiguous(memory_format=torch.channels_last))
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_with_values_far_from_zero_half_is_nearer_with_a_wide_first_layer():
    config = toy(dim=3, patch=(16, 16, 16))
    torch.manual_seed(0)
    network, x = build(config.network).eval(), 300 + torch.randn(1, 1, 16, 16, 16)
    exact = in_precision(network, config, "float32", CPU)(x)
    half = in_precision(network, config, "bf16", CPU)(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = network(x).float()
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.5 * (plain - exact).abs().mean()
