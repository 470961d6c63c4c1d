"""Weights of the originals find their place: all tensors are used, all parameters filled, or it is said which not."""

import dataclasses
import math
import re

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, WeightsError
from mambino.models import build
from mambino.weights.convert import SOURCES, load_state, monai, nnunet, recognise, swin_unet, umamba, vss
from mambino.weights.convert import lightm_unet as lightm
from mambino.weights.convert.rules import translated
from tests.places import SHARED

KEYS = SHARED / "reference" / "keys"
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason="the key lists of the originals are not beside this checkout")

LIGHTM = {"spatial_dims": 2, "init_filters": 8, "in_channels": 1, "out_channels": 2, "blocks_down": [1, 1]}
LIGHTM |= {"blocks_up": [1], "upsample_mode": "deconv"}


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
    with pytest.raises(OptionError, match="UNETR with qkv_bias = True has no counterpart; it has False here"):
        monai.UNETR.spec({"img_size": 32, "out_channels": 2, "qkv_bias": True})
    with pytest.raises(OptionError, match="SwinUNETR with downsample = 'mergingv2' has no counterpart"):
        monai.SWIN_UNETR.spec({"in_channels": 1, "out_channels": 2, "downsample": "mergingv2"})
    with pytest.raises(
        OptionError, match=r"the encoder of SwinUNETR with window_size = \(7, 7, 5\) has no counterpart"
    ):
        monai.SWIN_ENCODER.spec({"in_chans": 1, "window_size": (7, 7, 5)})
    dagger = {"in_chans": 1, "num_classes": 2, "dims": 8, "depths": [1, 1], "features_per_stage": [8, 24]}
    with pytest.raises(OptionError, match=r"Swin-UMamba† with features_per_stage = \(8, 24\) has no counterpart"):
        vss.SWIN_UMAMBA_DAGGER.spec(dagger)
    with pytest.raises(OptionError, match=r"Swin-UMamba with hidden_size = 9 has no counterpart; it has 768 here"):
        vss.SWIN_UMAMBA.spec({"hidden_size": 9})
    with pytest.raises(OptionError, match=r"VM-UNet with widths \(8, 24\) has no counterpart; they double"):
        vss.VM_UNET.spec({"num_classes": 1, "dims": [8, 24], "depths": [1, 1], "depths_decoder": [1, 1]})
    with pytest.raises(OptionError, match="Swin-Unet with patch_norm = False has no counterpart; it has True"):
        swin_unet.SOURCE.spec({"patch_norm": False})


def test_arguments_left_out_of_the_baselines_have_the_defaults_of_the_originals():
    plain = monai.SEGRESNET.spec({})
    assert (plain.dim, plain.in_channels, plain.out_channels, plain.options["width"]) == (3, 1, 2, 8)
    assert monai.UNETR.spec({"in_channels": 1, "out_channels": 2, "img_size": 32}).options["patch"] == (32, 32, 32)
    assert monai.SWIN_UNETR.spec({"in_channels": 1, "out_channels": 2}).options["width"] == 24
    assert swin_unet.SOURCE.spec({"img_size": (64, 96), "num_classes": 2}).options["patch"] == (64, 96)


@pytest.mark.parametrize("wrapper", ["", "swin_unet."])
def test_weights_of_swin_unet_come_over_with_and_without_the_wrapper_round_it(wrapper):
    arguments = {"img_size": 32, "in_chans": 1, "num_classes": 2, "embed_dim": 4, "depths": (1, 1), "num_heads": (1, 2)}
    network, origin = (build(swin_unet.SOURCE.spec({**arguments, "window_size": 2})) for _ in range(2))
    back = [("embed_norm.", "patch_embed.norm."), ("embed.", "patch_embed.proj."), ("stages.", "layers.")]
    back += [("merges.0.", "layers.0.downsample."), ("expands.0.", "layers_up.0."), ("joins.0.", "concat_back_dim.1.")]
    back += [("decoder_norm.", "norm_up."), ("decoder.0.", "layers_up.1."), ("last.", "up."), ("head.", "output.")]
    state = {}
    for key, value in origin.state_dict().items():
        name = next((theirs + key.removeprefix(ours) for ours, theirs in back if key.startswith(ours)), key)
        name = re.sub(r"^(layers(?:_up)?\.\d+\.)(\d+\.)", r"\1blocks.\2", name)
        name = name.replace("attention.table", "attn.relative_position_bias_table").replace("mlp.linear", "mlp.fc")
        state[wrapper + name.replace("attention.attention.", "attn.")] = value
    state[f"{wrapper}layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4)
    state[f"{wrapper}layers.0.blocks.1.attn_mask"] = torch.zeros(4, 4, 4)
    assert recognise(state) is swin_unet.SOURCE
    dropped = load_state(network, state, swin_unet.SOURCE)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), origin.parameters(), strict=True))
    assert [why.split(",")[0] for why in dropped.values()] == [
        "derived from the size of a window",
        "derived from the size of the image",
    ]


def test_norms_that_a_newer_monai_never_uses_are_dropped():
    source = monai.UNETR
    key = "vit.blocks.3.norm_cross_attn.weight"
    _, dropped = translated({key: torch.ones(1)}, source)
    assert dropped == {key: "MONAI 1.6 has it and does not use it"}
