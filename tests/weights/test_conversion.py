"""Checkpoints become bundles: every published one is recognised and fits; what does not is refused, nothing written."""

import json
import math
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mambino.cli.app import dispatch, main
from mambino.core.plan import NetworkSpec, Normalise
from mambino.errors import OptionError, WeightsError
from mambino.models import build
from mambino.weights import conversion
from mambino.weights.bundle import digest, info, load
from mambino.weights.checkpoints import read_checkpoint
from mambino.weights.conversion import convert
from mambino.weights.convert import load_state, recognise
from mambino.weights.convert.plans import planned
from mambino.weights.convert.rules import translated
from mambino.weights.convert.sizes import Hints, infer
from tests.weights import containers
from tests.weights.convert.test_inventories import FLAT, KEYS, SPECS

inventories = pytest.mark.skipif(not KEYS.is_dir(), reason="the inventories of keys are not beside this checkout")
TWOS = ((1, 1), *((2, 2),) * 6)


def shipped(name, state, want):
    """Wrap weights in the container that their authors ship them in."""
    if name.startswith("vmamba_") and "newnames" not in name:
        return containers.of_vmamba(state) | ({} if name == "vmamba_tiny_v0" else {"model_ema": state})
    if name == "vmunet_synapse":
        return {"epoch": 300, "min_loss": 0.1, "model_state_dict": state, "optimizer_state_dict": {}}
    if name == "vmunet_isic":
        return state | {f"vmunet.layers.{i}.total_ops": torch.zeros(1, dtype=torch.float64) for i in range(88)}
    if name.startswith(("vmamba", "vmunet", "swinunet_")):
        return state
    strides = FLAT["strides"] if want.dim == 3 else TWOS
    patch = want.options.get("patch") or ((48, 160, 224) if want.dim == 3 else (320, 320))
    described = containers.description(want.in_channels, want.out_channels)
    schemes = {"normalization_schemes": ["ZScoreNormalization"] * want.in_channels}
    schemes["use_mask_for_norm"] = [False] * want.in_channels
    if not name.startswith("umamba"):
        strides = ()  # these do not need them, and other plans have others
    return containers.of_nnunet(state, containers.plan(want.dim, patch, strides, **schemes), described)


def stored(name, folder):
    """Write a checkpoint with the names and shapes of a published one, as its authors store it."""
    state = containers.zeros(containers.inventory(name))
    if name.endswith(("isic", "enc_202401_2d_abdomenmr")):
        state = {f"module.{key}": value for key, value in state.items()}
    path = folder / "checkpoint.pth"
    whole = shipped(name, state, SPECS[name])
    torch.save(whole, path, _use_new_zipfile_serialization=not name.startswith("vmunet"))
    containers.forget()
    return path


def build_on_nothing(spec):
    with torch.device("meta"):
        return build(spec)


@inventories
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("name", SPECS)
def test_every_published_checkpoint_is_read_recognised_and_fits(tmp_path, name):
    want, path = SPECS[name], stored(name, tmp_path)
    found = read_checkpoint(path)
    source = recognise(found.state)
    plan = planned(found.beside, path)
    ours, _ = translated(found.state, source)
    masks = tuple(tuple(x.shape) for key, x in found.state.items() if key.endswith("attn_mask"))
    hints = plan.hints if plan else Hints(masks=masks)
    got = infer(source.model, {key: tuple(x.shape) for key, x in ours.items()}, hints).spec
    assert (got.name, got.dim, got.in_channels, got.out_channels) == (
        want.name,
        want.dim,
        want.in_channels,
        want.out_channels,
    )
    network, other = build_on_nothing(got), build_on_nothing(want)
    assert repr(network) == repr(other)
    assert network.divisor == other.divisor
    load_state(network, found.state, source)


QUICK = ("lightmunet_2d_xray", "segresnet_3d", "vmamba_tiny_v0", "vmunet_isic")


@inventories
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SPECS]
)
def test_every_published_checkpoint_becomes_a_bundle(tmp_path, name):
    want = SPECS[name]
    made = convert(stored(name, tmp_path), tmp_path / "m.safetensors")
    found = info(made.bundle)
    sigmoid = want.out_channels == 1 and want.name == "vm_unet"
    network = found.config.network
    assert network == made.network
    assert (network.name, network.dim, network.in_channels) == (want.name, want.dim, want.in_channels)
    assert network.out_channels == (2 if sigmoid else want.out_channels)
    assert (made.config == "used") == name.startswith(("lightm", "nnunet", "segres", "swinum", "swinunetr", "u"))
    bundle = load(made.bundle)
    assert not any(value.any() for value in bundle.network.state_dict().values() if value.is_floating_point())
    assert sum(p.numel() for p in bundle.network.parameters()) == made.parameters


def tiny(name="lightm_unet", **options):
    sizes = {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)} | options
    return NetworkSpec(name=name, dim=2, in_channels=1, out_channels=3, options=sizes)


def theirs(network):
    """Return the weights of a LightM-UNet or a U-Net under the names of its authors."""
    lightm = [("stem.depthwise", "convInit.0.conv"), ("stem.pointwise", "convInit.1.conv")]
    lightm += [("norm.", "conv_final.0."), ("head.depthwise", "conv_final.2.0.conv")]
    lightm += [("head.pointwise", "conv_final.2.1.conv"), ("ups.0.reduce", "up_samples.0.0.conv")]
    unet = [("decoder.ups.", "decoder.transpconvs."), ("decoder.heads.", "decoder.seg_layers.")]
    state = {}
    for key, value in network.state_dict().items():
        name = next((b + key.removeprefix(a) for a, b in (*lightm, *unet) if key.startswith(a)), key)
        name = re.sub(r"^encoder\.(\d+)\.(\d+)\.", r"encoder.stages.\1.0.convs.\2.", name)
        name = re.sub(r"^decoder\.stages\.(\d+)\.(\d+)\.", r"decoder.stages.\1.convs.\2.", name)
        name = re.sub(r"^stages\.", "down_layers.", name).replace(".mix", ".conv")
        name = re.sub(r"^decoder\.(\d+)\.(\d+)\.", r"up_layers.\1.\2.", name)
        state[name.replace("conv.depthwise", "conv.0.conv").replace("conv.pointwise", "conv.1.conv")] = value
    return state


@pytest.fixture
def lightm(tmp_path):
    torch.manual_seed(0)
    network = build(tiny()).eval()
    plan = containers.plan(2, (32, 32), ())
    return network, containers.of_nnunet(theirs(network), plan, containers.description(1, 3)), tmp_path / "c.pth"


def settings(content):
    return content["init_args"]["plans"]["configurations"]["used"]


def test_a_checkpoint_of_nnunet_carries_its_plan_into_the_bundle(lightm, tmp_path):
    network, content, path = lightm
    torch.save(content, path)
    made = convert(path, tmp_path / "out" / "m.safetensors")
    bundle = load(made.bundle)
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(bundle.network(x), network(x))
    config = bundle.config
    assert (config.dim, config.spacing, config.slice_axis, config.orientation) == (2, (0.8, 0.8), 0, None)
    assert (config.patch, config.shape, config.mirror, config.crop) == ((32, 32), (32, 32), (0, 1), True)
    assert config.normalise == (Normalise(scheme="zscore"),)
    assert bundle.labels.names == {"organ 1": (1,), "organ 2": (2,)}
    assert bundle.channels == ("MRI",)
    origin = bundle.provenance
    assert origin.dataset == "Dataset702_AbdomenMR"
    assert origin.source == f"c.pth, sha256 {digest(path)}"
    assert origin.licence == "Apache-2.0"
    assert origin.dropped["optimizer_state"] == "not weights"
    assert (made.source, made.config, made.network.options["width"]) == ("LightM-UNet", "used", 8)


def test_a_converted_bundle_segments_without_anything_else(lightm, tmp_path):
    _, content, path = lightm
    torch.save(content, path)
    bundle = convert(path, tmp_path / "m.safetensors").bundle
    voxels = np.random.default_rng(0).normal(size=(40, 36, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / "image.nii.gz")
    assert dispatch(["predict", str(bundle), str(tmp_path / "image.nii.gz"), "-o", str(tmp_path / "masks")]) == 0
    assert nib.load(tmp_path / "masks" / "image.nii.gz").shape == voxels.shape


def test_ct_and_other_schemes_masks_orders_and_regions_are_kept(lightm, tmp_path):
    _, content, path = lightm
    numbers = {"mean": 99.5, "std": 37.0, "percentile_00_5": -17.0, "percentile_99_5": 201.0, "median": 101.0}
    content["init_args"]["plans"]["foreground_intensity_properties_per_channel"] = {"0": numbers}
    settings(content)["normalization_schemes"] = ["CTNormalization"]
    settings(content)["resampling_fn_data_kwargs"] |= {"order": 1, "force_separate_z": False}
    settings(content)["resampling_fn_probabilities_kwargs"] |= {"force_separate_z": False}
    content["init_args"]["plans"]["transpose_forward"] = [1, 0, 2]
    content["init_args"]["dataset_json"] |= {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "hot": [3]},
        "regions_class_order": [1, 2, 3],
    }
    torch.save(content, path)
    bundle = load(convert(path, tmp_path / "m.safetensors").bundle)
    assert bundle.config.normalise == (Normalise(scheme="ct", mean=99.5, std=37.0, lower=-17.0, upper=201.0),)
    how = bundle.config.resample
    assert (how.image_order, how.label_order, how.separate_axis) == (1, 1, "no")
    assert bundle.config.slice_axis == 1
    assert bundle.labels.names == {"whole": (1, 2, 3), "core": (2, 3), "hot": (3,)}
    assert bundle.labels.paint == (1, 2, 3)


def test_pictures_have_no_slices_and_masks_for_norm_are_kept(lightm, tmp_path):
    _, content, path = lightm
    content["init_args"]["plans"]["original_median_spacing_after_transp"] = [999.0, 1.0, 1.0]
    settings(content)["use_mask_for_norm"] = [True]
    content["inference_allowed_mirroring_axes"] = None
    torch.save(content, path)
    config = info(convert(path, tmp_path / "m.safetensors").bundle).config
    assert (config.slice_axis, config.mirror, config.normalise[0].inside) == (None, (), True)


def refused(content, path, words, kind=WeightsError):
    torch.save(content, path)
    out = path.parent / "never.safetensors"
    with pytest.raises(kind, match=words):
        convert(path, out)
    assert not out.exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"previous_stage": "3d_lowres"}, "is the second stage of a cascade: its configuration used takes"),
        ({"normalization_schemes": ["RescaleTo01Normalization"]}, "scales intensities by RescaleTo01Normalization"),
        ({"normalization_schemes": ["CTNormalization"]}, "does not state mean, std, percentile_00_5, percentile_99_5"),
        ({"normalization_schemes": []}, "states 0 ways to scale intensities for 1 channels"),
        ({"resampling_fn_data": "resample_torch"}, "resamples data by resample_torch, which a bundle cannot say"),
        ({"spacing": ["wide", 1.0]}, "is not as nnU-Net writes it: could not convert string"),
        (
            {"architecture": {"arch_kwargs": {"nonlin": "torch.nn.ReLU"}}},
            "has a network with nonlin torch.nn.ReLU, but ours have LeakyReLU",
        ),
        (
            {"architecture": {"arch_kwargs": {"norm_op_kwargs": {"eps": 1e-3}}}},
            "and nonlin_kwargs .*, but ours have eps 1e-05 and a negative_slope",
        ),
        ({"patch_size": None}, "in the plan of .* does not state patch_size"),
        (
            {"resampling_fn_data_kwargs": {"force_separate_z": True}},
            "treats the coarse axis of images and of scores differently: yes, order 0, and auto",
        ),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(lightm, change, words):
    _, content, path = lightm
    settings(content).update(change)
    refused(content, path, words)


def test_plans_and_data_sets_that_do_not_fit_are_refused(lightm):
    _, content, path = lightm
    arguments = content["init_args"]
    refused(content | {"init_args": arguments | {"configuration": "3d"}}, path, "has no configuration 3d in its plan")
    described = containers.description(1, 5)
    refused(
        content | {"init_args": arguments | {"dataset_json": described}}, path, "asks for 5 outputs, but the weights"
    )
    refused(
        content | {"init_args": arguments | {"dataset_json": {}}}, path, "data set of this checkpoint is not described"
    )
    gaps = containers.description(1, 2) | {"labels": {"background": 0, "a": 1, "b": 3}}
    refused(
        content | {"init_args": arguments | {"dataset_json": gaps}}, path, "outputs of a network cannot be renumbered"
    )
    turned = arguments["plans"] | {"transpose_forward": [0, 2, 1]}
    refused(
        content | {"init_args": arguments | {"plans": turned}}, path, r"axes \(2, 1\), but a bundle keeps their order"
    )


def test_tensors_that_do_not_fit_are_refused_by_name_and_number(lightm):
    _, content, path = lightm
    state = content["network_weights"]
    surplus = {f"surplus.{i}": torch.zeros(1) for i in range(7)}
    refused(
        content | {"network_weights": state | surplus}, path, r"7 tensors are not in the table: surplus.0, .*\.\.\."
    )
    fewer = {key: value for key, value in state.items() if "conv_final.0" not in key}
    refused(content | {"network_weights": fewer}, path, "2 tensors of this network stay empty: norm.weight, norm.bias")
    other = state | {"conv_final.0.weight": torch.zeros(9)}
    refused(content | {"network_weights": other}, path, r"1 tensor has another shape: norm.weight \(9,\) for \(8,\)")
    headless = {key: value for key, value in state.items() if not key.startswith("conv_final.2.1")}
    refused(
        content | {"network_weights": headless}, path, "lightm_unet cannot be told from these weights: head.pointwise"
    )
    refused({"network_weights": {"a": torch.ones(1)}}, path, "belong to no network that is known; they begin with a")
    refused({"a": 1}, path, "holds no tensors of a network; it holds a")
    refused([1], path, "holds a list, no table of tensors")
    refused({"model": state | {"note": "text"}}, path, "holds 1 values that are no tensors among its weights: note")


def plain_unet(**options):
    asked = NetworkSpec(name="unet", dim=3, in_channels=1, out_channels=3, options={"features": (4, 6, 8), **options})
    return build(asked).eval()


def unet_content(strides, **changes):
    network = plain_unet(strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)))
    plans = containers.plan(3, (8, 16, 16), strides) | changes
    return network, containers.of_nnunet(theirs(network), plans, containers.description(1, 3))


def test_a_volume_network_has_its_strides_and_nnunets_recipe(tmp_path):
    network, content = unet_content(((1, 1, 1), (1, 2, 2), (2, 2, 2)))
    path = tmp_path / "c.pth"
    torch.save(content, path)
    bundle = load(convert(path, tmp_path / "m.safetensors").bundle)
    x = torch.randn(1, 1, 8, 16, 16)
    assert torch.equal(bundle.network(x), network(x))
    assert bundle.config.network.options["strides"] == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert (bundle.config.recipe.optimiser, bundle.config.recipe.epochs) == ("sgd", 1000)
    assert math.isclose(bundle.config.recipe.weight_decay, 3e-5)


def test_strides_that_contradict_the_plan_are_refused(tmp_path):
    path = tmp_path / "c.pth"
    _, content = unet_content(((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    refused(content, path, "the plan has strides .*, but the weights those of")


def test_volumes_are_read_in_the_order_of_the_plan(tmp_path):
    path, turned = tmp_path / "c.pth", tmp_path / "turned.safetensors"
    _, content = unet_content((), transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    weights = content["network_weights"]
    torch.save(content, path)
    assert info(convert(path, turned).bundle).config.axes == (2, 0, 1)
    _, content = unet_content(())
    torch.save(content | {"network_weights": weights}, path)
    plain = convert(path, tmp_path / "plain.safetensors").bundle
    voxels = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)  # (z, y, x)
    masks = []
    for bundle, array in ((turned, voxels), (plain, voxels.transpose(2, 0, 1))):
        folder = tmp_path / bundle.stem
        spacing = np.array([1.5, 0.8, 0.8]) if bundle == plain else np.array([0.8, 0.8, 1.5])
        nib.save(nib.Nifti1Image(array.T, np.diag([*spacing[::-1], 1.0])), tmp_path / "image.nii.gz")
        assert dispatch(["predict", str(bundle), str(tmp_path / "image.nii.gz"), "-o", str(folder)]) == 0
        masks.append(np.asarray(nib.load(folder / "image.nii.gz").dataobj).T)
    assert len(np.unique(masks[0])) > 1
    assert np.array_equal(masks[0].transpose(2, 0, 1), masks[1])


def test_a_folder_of_nnunet_is_read_with_the_plan_that_lies_in_it(tmp_path):
    _, content = unet_content(())
    arguments = content.pop("init_args")
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__used"
    (folder / "fold_0").mkdir(parents=True)
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(arguments["plans"]))
    (folder / "dataset.json").write_text(json.dumps(arguments["dataset_json"]))
    made = convert(folder, tmp_path / "m.safetensors")
    assert made.config == "used"
    assert info(made.bundle).provenance.dataset == "Dataset702_AbdomenMR"
    (folder / "plans.json").write_text("{")
    with pytest.raises(WeightsError, match=r"the plan beside .* cannot be read"):
        convert(folder, tmp_path / "n.safetensors")
    (folder / "fold_1").mkdir()
    torch.save(content, folder / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(OptionError, match=r"must hold one checkpoint_final\.pth, got 2: fold_0"):
        convert(folder, tmp_path / "n.safetensors")


def vm_unet(classes):
    options = {"width": 16, "depths": (1, 1), "decoder_depths": (1, 1), "state_size": 2}
    return build(NetworkSpec(name="vm_unet", dim=2, in_channels=3, out_channels=classes, options=options)).eval()


def of_vm_unet(network):
    inner = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "dt_bias": "dt_projs_bias", "A_log": "A_logs"}
    inner |= {"D": "Ds", "conv": "conv2d", "norm": "out_norm", "in_proj": "in_proj", "out_proj": "out_proj"}
    state = {}
    for key, value in network.state_dict().items():
        name = re.sub(r"^encoder\.stages\.(\d+)\.(\d+)\.", r"layers.\1.blocks.\2.", key)
        name = re.sub(r"^decoder\.(\d+)\.(\d+)\.", r"layers_up.\1.blocks.\2.", name)
        name = re.sub(r"^encoder\.merges\.(\d+)\.", r"layers.\1.downsample.", name)
        name = re.sub(r"^expands\.0\.", "layers_up.1.upsample.", name)
        name = re.sub(r"^(embed|final)\.", lambda m: {"embed": "patch_embed.", "final": "final_up."}[m[1]], name)
        name = re.sub(r"^head\.", "final_conv.", name)
        name = re.sub(r"blocks\.(\d+)\.norm\.", r"blocks.\1.ln_1.", name)
        name = re.sub(r"\.mixer\.(\w+)", lambda m: f".self_attention.{inner[m[1]]}", name)
        state[f"module.vmunet.{name}"] = value
    return state


def test_one_output_with_a_sigmoid_becomes_two_with_the_same_probabilities(tmp_path):
    network, path = vm_unet(1), tmp_path / "best.pth"
    torch.save(of_vm_unet(network) | {"vmunet.total_ops": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    made = convert(path, tmp_path / "m.safetensors")
    bundle, x = load(made.bundle), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(bundle.network(x).softmax(1)[:, 1:], network(x).sigmoid())
    assert (bundle.labels.out_channels, bundle.channels, bundle.config.patch) == (2, ("R", "G", "B"), (256, 256))
    assert made.dropped == {"counter left behind by a profiler": 1}
    assert any("8 bits" in sentence for sentence in made.check)
    assert any("now two with a softmax" in sentence for sentence in made.check)
    assert any("resized every image to 256 x 256" in sentence for sentence in made.check)


def test_entries_are_chosen_and_others_named(tmp_path):
    first, second = vm_unet(2), vm_unet(2)
    path, out = tmp_path / "c.pth", tmp_path / "m.safetensors"
    torch.save({"model": of_vm_unet(first), "model_ema": of_vm_unet(second)}, path)
    made = convert(path, out)
    assert torch.equal(load(out).network.head.bias, first.head.bias)
    assert any("--entry model_ema takes it" in sentence for sentence in made.check)
    convert(path, out, entry="model_ema")
    assert torch.equal(load(out).network.head.bias, second.head.bias)
    with pytest.raises(OptionError, match="has no tensors under 'ema'; it holds model, model_ema"):
        convert(path, out, entry="ema")
    with pytest.raises(OptionError, match=r"holds vm_unet \(VM-UNet\), not unet"):
        convert(path, out, model="unet")
    with pytest.raises(OptionError, match=r"a bundle is a \.safetensors file, got .*m\.pth"):
        convert(path, tmp_path / "m.pth")


def test_tensors_of_safetensors_are_converted_and_files_that_are_not_there_refused(tmp_path):
    network, path = vm_unet(3), tmp_path / "weights.safetensors"
    save_file(of_vm_unet(network), path)
    made = convert(path, tmp_path / "m.safetensors")
    assert (made.network.out_channels, made.config) == (3, "")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="is damaged or cut short"):
        convert(path, tmp_path / "n.safetensors")
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        convert(tmp_path / "gone.pth", tmp_path / "n.safetensors")


def test_weights_that_show_no_strides_or_size_are_refused():
    asked = NetworkSpec(name="umamba_bot", dim=2, in_channels=1, out_channels=2, options={"features": (4, 6)})
    shapes = {key: tuple(x.shape) for key, x in build_on_nothing(asked).state_dict().items()}
    with pytest.raises(WeightsError, match="the strides of the network umamba_bot do not show in its weights"):
        infer("umamba_bot", shapes)
    sizes = {"patch": (32, 48), "width": 2, "hidden": 12, "mlp": 6}
    asked = NetworkSpec(name="unetr", dim=2, in_channels=1, out_channels=2, options=sizes)
    shapes = {key: tuple(x.shape) for key, x in build_on_nothing(asked).state_dict().items()}
    with pytest.raises(WeightsError, match="the 6 positions of UNETR fit no image with equal sides"):
        infer("unetr", shapes)
    found = infer("unetr", shapes, Hints(patch=(30, 48)))
    assert found.spec == replace(asked, options=sizes | {"heads": 12})


def test_the_command_prints_what_came_of_it(lightm, tmp_path, capsys):
    _, content, path = lightm
    torch.save(content, path)
    out = tmp_path / "m.safetensors"
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(path), "-o", str(out)])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "weights of" in said
    assert f"bundle: {out}" in said
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(path), "-o", str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["network"]["name"] == "lightm_unet"
    dispatch(["info", str(out)])
    assert "Dataset702_AbdomenMR; converted from c.pth, sha256" in capsys.readouterr().out
    path.write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(path), "-o", str(out)])
    assert stopped.value.code == 4


def test_layers_of_vmamba_stored_as_convolutions_of_one_pixel_are_matrices(tmp_path):
    asked = {"width": 4, "depths": (1, 1), "generation": 2, "state_size": 1, "expand": 1.0}
    network = build(NetworkSpec(name="vmamba", dim=2, in_channels=3, out_channels=5, options=asked)).eval()
    inner = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "dt_bias": "dt_projs_bias", "A_log": "A_logs"}
    inner |= {"D": "Ds", "conv": "conv2d", "norm": "out_norm", "in_proj": "in_proj", "out_proj": "out_proj"}
    embed = {"proj": "0", "norm": "2", "proj2": "5", "norm2": "7"}
    state = {}
    for key, value in network.state_dict().items():
        name = re.sub(r"^embed\.(\w+)\.", lambda m: f"patch_embed.{embed[m[1]]}.", key)
        name = re.sub(r"^(norm|head)\.", r"classifier.\1.", name)
        name = re.sub(r"^encoder\.stages\.(\d+)\.(\d+)\.", r"layers.\1.blocks.\2.", name)
        name = re.sub(r"^encoder\.merges\.(\d+)\.conv\.", r"layers.\1.downsample.1.", name)
        name = re.sub(r"^encoder\.merges\.(\d+)\.norm\.", r"layers.\1.downsample.3.", name)
        name = re.sub(r"\.mixer\.(\w+)", lambda m: f".op.{inner[m[1]]}", name).replace("mlp.linear", "mlp.fc")
        wide = re.search(r"(in_proj|out_proj|fc[12])\.weight$", name)
        state[name] = value[:, :, None, None] if wide else value
    torch.save({"model": state}, tmp_path / "c.pth")
    bundle = load(convert(tmp_path / "c.pth", tmp_path / "m.safetensors").bundle)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(bundle.network(x), network(x))


def test_a_checkpoint_of_a_network_larger_than_the_memory_is_refused(lightm, tmp_path, monkeypatch):
    _, content, path = lightm
    torch.save(content, path)
    monkeypatch.setattr(conversion, "memory", lambda: 1e-9)
    with pytest.raises(WeightsError, match=r"c\.pth describes a network of 0\.0 GiB, this machine has 0\.0 GiB"):
        convert(path, tmp_path / "m.safetensors")
