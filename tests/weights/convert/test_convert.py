"""Weights of the originals find their place: all tensors are used, all parameters filled, or it is said which not."""

import dataclasses
import gzip
import json
import math

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, WeightsError
from mambino.models import build
from mambino.weights.convert import SOURCES, load_state, nnunet, recognise, umamba
from mambino.weights.convert import lightm_unet as lightm
from mambino.weights.convert.rules import renamed
from tests.places import SHARED

KEYS = SHARED / "reference" / "keys"
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason="the key lists of the originals are not beside this checkout")

SEVEN = (32, 64, 128, 256, 512, 512, 512)
# Slices of a volume lie far apart: the second and the last stage leave them as they are.
FLAT = {"strides": ((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 3, (1, 2, 2))}
FULL_SIZE = [
    ("lightmunet_2d_xray", lightm.SOURCE, 2, 3, {}),
    ("lightmunet_3d_lits", lightm.SOURCE, 3, 1, {}),
    ("lightmunet_legacy_2d_xray", lightm.LEGACY, 2, 3, {}),
    ("lightmunet_legacy_3d_lits", lightm.LEGACY, 3, 1, {}),
    ("nnunet_plain_2d", nnunet.SOURCE, 2, 1, {"features": (*SEVEN, 512)}),
    ("nnunet_plain_3d", nnunet.SOURCE, 3, 1, {}),
    ("nnunet_resenc_3d", nnunet.RESIDUAL, 3, 1, {}),
    ("umamba_bot_202401_2d_abdomenmr", umamba.BOT_2024_01, 2, 1, {"features": SEVEN}),
    ("umamba_enc_202401_2d_abdomenmr", umamba.ENC_2024_01, 2, 1, {"features": SEVEN}),
    ("umamba_bot_202403_2d_abdomenmr", umamba.BOT, 2, 1, {"features": SEVEN}),
    ("umamba_enc_202403_2d_abdomenmr", umamba.ENC, 2, 1, {"features": SEVEN, "patch": (320, 320)}),
    ("umamba_bot_202401_3d_abdomenmr", umamba.BOT_2024_01, 3, 1, FLAT),
    ("umamba_enc_202401_3d_abdomenmr", umamba.ENC_2024_01, 3, 1, FLAT),
    ("umamba_bot_202403_3d_abdomenmr", umamba.BOT, 3, 1, FLAT),
    ("umamba_enc_202403_3d_abdomenmr", umamba.ENC, 3, 1, FLAT | {"patch": (48, 160, 224)}),
]
LIGHTM = {"spatial_dims": 2, "init_filters": 8, "in_channels": 1, "out_channels": 2, "blocks_down": [1, 1]}
LIGHTM |= {"blocks_up": [1], "upsample_mode": "deconv"}


def shapes(name):
    return json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))


@needs_keys
@pytest.mark.parametrize(("name", "source", "dim", "channels", "options"), FULL_SIZE)
def test_the_published_networks_are_filled_completely(name, source, dim, channels, options):
    keys = shapes(name)
    assert recognise(keys) is source
    heads = ("seg_layers.0.bias", "conv_final.2.1.conv.bias", "conv_final.2.conv.bias")
    classes = next(shape[0] for key, shape in keys.items() if key.endswith(heads))
    if name == "nnunet_plain_2d":
        options = {"features": features_of(keys)}
        channels = keys["encoder.stages.0.0.convs.0.conv.weight"][1]
    asked = NetworkSpec(name=source.model, dim=dim, in_channels=channels, out_channels=classes, options=options)
    with torch.device("meta"):
        wanted = {key: list(value.shape) for key, value in build(asked).state_dict().items()}
    assert {renamed(key, source): shape for key, shape in keys.items()} == wanted


def features_of(keys):
    stages = [shape for key, shape in keys.items() if key.startswith("encoder") and key.endswith("0.convs.0.conv.bias")]
    return tuple(shape[0] for shape in stages)


@needs_keys
def test_the_keys_of_other_networks_are_not_taken_for_ours():
    ours = {name for name, *_ in FULL_SIZE}
    for path in sorted(KEYS.glob("*.json.gz")):
        name = path.name.removesuffix(".json.gz")
        if name not in ours:
            with pytest.raises(WeightsError, match="belong to no network that is known"):
                recognise(shapes(name))


def test_nothing_is_recognised_in_nothing():
    with pytest.raises(WeightsError, match="belong to no network that is known; they begin with no keys") as caught:
        recognise([])
    assert all(source.name in caught.value.hint for source in SOURCES)


def original_names(network):
    """Return the state of a LightM-UNet under the names of the original."""
    back = [("stem.depthwise", "convInit.0.conv"), ("stem.pointwise", "convInit.1.conv"), ("norm.", "conv_final.0.")]
    back += [("head.depthwise", "conv_final.2.0.conv"), ("head.pointwise", "conv_final.2.1.conv")]
    back += [("stages.", "down_layers."), (".mix", ".conv"), ("decoder.", "up_layers.")]
    back += [("conv.depthwise", "conv.0.conv"), ("conv.pointwise", "conv.1.conv")]
    back += [("ups.0.reduce", "up_samples.0.0.conv"), ("ups.0.upsample", "up_samples.0.1.deconv")]
    state = {}
    for key, value in network.state_dict().items():
        name = key
        for ours, theirs in back:
            if ours != "norm." or name.startswith("norm."):
                name = name.replace(ours, theirs)
        state[name] = value
    return state


@pytest.fixture
def pair():
    torch.manual_seed(0)
    asked = lightm.SOURCE.spec(LIGHTM)
    made = build(asked)
    return build(asked), made, original_names(made)


def test_a_state_comes_over_with_wrappers_and_half_precision(pair):
    network, origin, state = pair
    state = {f"module._orig_mod.{key}": value.half() for key, value in state.items()}
    assert recognise(state) is lightm.SOURCE
    assert load_state(network, state, lightm.SOURCE) == {}
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, origin.state_dict()[key].half().float())


def test_a_tensor_without_a_rule_is_refused(pair):
    network, _, state = pair
    with pytest.raises(WeightsError, match=r"weights of LightM-UNet: 1 tensor is not in the table: surplus.weight"):
        load_state(network, state | {"surplus.weight": torch.zeros(1)}, lightm.SOURCE)
    many = {f"surplus.{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(WeightsError, match=r"7 tensors are not in the table: surplus.0, .*surplus.4, \.\.\."):
        load_state(network, state | many, lightm.SOURCE)


def test_a_tensor_without_a_place_is_refused(pair):
    network, _, state = pair
    surplus = {"down_layers.9.1.norm1.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 tensor has no place: stages.9.1.norm1.weight"):
        load_state(network, state | surplus, lightm.SOURCE)


def test_a_parameter_left_empty_is_refused(pair):
    network, _, state = pair
    del state["conv_final.0.weight"], state["conv_final.0.bias"]
    with pytest.raises(WeightsError, match=r"2 tensors of this network stay empty: norm.weight, norm.bias"):
        load_state(network, state, lightm.SOURCE)


def test_another_shape_is_refused(pair):
    network, _, state = pair
    state["conv_final.0.weight"] = torch.zeros(9)
    with pytest.raises(WeightsError, match=r"1 tensor has another shape: norm.weight \(9,\) for \(8,\)"):
        load_state(network, state, lightm.SOURCE)


def unet_state():
    asked = NetworkSpec(
        name="unet", dim=2, in_channels=1, out_channels=2, options={"features": (2, 3), "convs": (1, 1)}
    )
    network = build(asked)
    state = {}
    for key, value in network.state_dict().items():
        part, rest = key.split(".", 1)
        if part == "encoder":
            stage, block, leaf = rest.split(".", 2)
            state[f"encoder.stages.{stage}.0.convs.{block}.{leaf}"] = value
            state[f"decoder.encoder.stages.{stage}.0.convs.{block}.{leaf}"] = value
            alias = leaf.replace("conv.", "all_modules.0.").replace("norm.", "all_modules.1.")
            state[f"encoder.stages.{stage}.0.convs.{block}.{alias}"] = value
        else:
            rest = rest.replace("ups", "transpconvs").replace("heads", "seg_layers")
            state["decoder." + (rest.replace("stages.0.", "stages.0.convs."))] = value
    return build(asked), network, state


def test_other_names_of_a_tensor_are_dropped_when_equal_and_refused_when_not():
    network, origin, state = unet_state()
    assert recognise(state) is nnunet.SOURCE
    dropped = load_state(network, state, nnunet.SOURCE)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), origin.parameters(), strict=True))
    assert len(dropped) == len(state) - len(network.state_dict())
    alias = "decoder.encoder.stages.0.0.convs.0.conv.weight"
    assert dropped[alias] == "another name of encoder.stages.0.0.convs.0.conv.weight"
    state[alias] = state[alias] + 1
    with pytest.raises(WeightsError, match=r"1 tensor differs from its other name: decoder.encoder.stages.0"):
        load_state(network, state, nnunet.SOURCE)


def test_counters_of_a_profiler_may_be_dropped_by_a_table(pair):
    network, _, state = pair
    source = dataclasses.replace(lightm.SOURCE, drop={r"\.total_ops$": "counter of a profiler"})
    dropped = load_state(network, state | {"convInit.total_ops": torch.zeros(1)}, source)
    assert dropped == {"convInit.total_ops": "counter of a profiler"}


def test_arguments_of_the_original_become_options_of_ours():
    spec = lightm.SOURCE.spec({"spatial_dims": 3, "dropout_prob": 0.2, "norm": ["GROUP", {"num_groups": 8}]})
    assert (spec.name, spec.dim, spec.in_channels, spec.out_channels) == ("lightm_unet", 3, 1, 2)
    assert spec.options["width"] == 8
    assert math.isclose(spec.options["dropout"], 0.2)
    plain = nnunet.SOURCE.spec(
        {"spatial_dims": 2, "n_stages": 2, "features_per_stage": 4, "kernel_sizes": 3, "strides": [1, 2]}
        | {"num_classes": 2, "input_channels": 1, "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1}
    )
    assert plain.options == {
        "features": (4, 4),
        "kernels": ((3, 3), (3, 3)),
        "strides": ((1, 1), (2, 2)),
        "convs": (2, 2),
        "decoder_convs": (1,),
    }


def umamba_arguments():
    return {
        "spatial_dims": 2, "n_stages": 4, "features_per_stage": [4, 8, 8, 8], "kernel_sizes": 3,
        "strides": [1, 2, 2, 2], "num_classes": 2, "input_channels": 1, "n_conv_per_stage": 3,
        "n_conv_per_stage_decoder": [2, 2, 2],
    }  # fmt: skip


def test_the_newer_umamba_changes_the_blocks_of_a_plan_and_knows_its_patch():
    newer = umamba.ENC.spec(umamba_arguments() | {"input_size": [32, 64]})
    assert newer.options["blocks"] == (3, 3, 1, 1)
    assert newer.options["decoder_blocks"] == (2, 2, 1)
    assert newer.options["patch"] == (32, 64)
    older = umamba.ENC_2024_01.spec(umamba_arguments())
    assert older.options["blocks"] == (3, 3, 3, 3)
    assert older.options["decoder_blocks"] == (2, 2, 2)
    with pytest.raises(OptionError, match=r"U-Mamba with input_size = .* has no counterpart"):
        umamba.BOT.spec(umamba_arguments() | {"input_size": [32, 64]})


def test_arguments_without_a_counterpart_are_refused():
    with pytest.raises(OptionError, match="LightM-UNet with use_conv_final = False has no counterpart; it has True"):
        lightm.SOURCE.spec({"use_conv_final": False})
    with pytest.raises(OptionError, match="LightM-UNet with colour = 'red' has no counterpart"):
        lightm.SOURCE.spec({"colour": "red"})
