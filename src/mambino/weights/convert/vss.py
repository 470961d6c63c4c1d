"""Networks of VSS blocks: VM-UNet, VMamba and Swin-UMamba."""

import itertools
from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError
from mambino.weights.convert.arguments import only
from mambino.weights.convert.rules import Source

# Names within an SS2D, behind the name of its block.
INSIDE = {
    "in_proj": "in_proj",
    "conv2d": "conv",
    "x_proj_weight": "x_proj",
    "dt_projs_weight": "dt_proj",
    "dt_projs_bias": "dt_bias",
    "A_logs": "A_log",
    "Ds": "D",
    "out_norm": "norm",
    "out_proj": "out_proj",
}


def ss2d_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the rules for an SS2D: both are what stands before the names of its tensors."""
    return tuple((rf"{theirs}{old}(?=\.|$)", rf"{ours}{new}") for old, new in INSIDE.items())


def first_generation(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the rules for the blocks of the first generation; both end where the number of a block follows."""
    inner = ss2d_rules(rf"{theirs}(\d+)\.self_attention\.", rf"{ours}\2.mixer.")
    return (*inner, (rf"{theirs}(\d+)\.ln_1\.", rf"{ours}\2.norm."))


def encoder_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the rules for an encoder of the first generation whose merging lies inside its stages."""
    return (
        (rf"{theirs}patch_embed\.", r"embed."),
        *first_generation(rf"{theirs}layers\.(\d+)\.blocks\.", rf"{ours}stages.\1."),
        (rf"{theirs}layers\.(\d+)\.downsample\.", rf"{ours}merges.\1."),
    )


def _doubling(widths: Any, network: str) -> int:
    """Return the first of widths that double."""
    if isinstance(widths, int):
        return widths
    if any(b != 2 * a for a, b in itertools.pairwise(widths)):
        raise OptionError(f"{network} with widths {tuple(widths)} has no counterpart; they double from stage to stage")
    return int(widths[0])


def _vm_unet(arguments: Mapping[str, Any]) -> NetworkSpec:
    known = {
        "input_channels", "num_classes", "dims", "dims_decoder", "depths", "depths_decoder", "d_state",
        "drop_path_rate",
    }  # fmt: skip
    only(arguments, known, {"patch_size": (4,)}, "VM-UNet")
    return NetworkSpec(
        name="vm_unet",
        dim=2,
        in_channels=arguments.get("input_channels", 3),
        out_channels=arguments["num_classes"],
        options={
            "width": _doubling(arguments.get("dims", (96, 192, 384, 768)), "VM-UNet"),
            "depths": tuple(arguments["depths"]),
            "decoder_depths": tuple(arguments["depths_decoder"]),
            "state_size": arguments.get("d_state", 16),
            "drop_path": arguments.get("drop_path_rate", 0.2),
        },
    )


VM_UNET = Source(
    name="VM-UNet",
    model="vm_unet",
    licence="Apache-2.0",
    recognise=(r"(^|\.)layers_up\.\d+\.blocks\.\d+\.self_attention\.A_logs$", r"(^|\.)final_up\.expand\.weight$"),
    rename=(
        *encoder_rules(r"(?:vmunet\.)?", "encoder."),
        *first_generation(r"(?:vmunet\.)?layers_up\.(\d+)\.blocks\.", r"decoder.\1."),
        *((rf"(?:vmunet\.)?layers_up\.{i}\.upsample\.", f"expands.{i - 1}.") for i in range(1, 8)),
        (r"(?:vmunet\.)?final_up\.", "final."),
        (r"(?:vmunet\.)?final_conv\.", "head."),
    ),
    drop={r"\.total_(ops|params)$": "counter left behind by a profiler"},
    spec=_vm_unet,
    original=lambda y: y.sigmoid() if y.shape[1] == 1 else y,
)

_FIXED_FIRST: dict[str, tuple[Any, ...]] = {"patch_size": (4,)}
_FIXED_BOTH: dict[str, tuple[Any, ...]] = {
    **_FIXED_FIRST,
    "ssm_dt_rank": ("auto",),
    "ssm_act_layer": ("silu",),
    "ssm_conv": (3,),
    "ssm_drop_rate": (0.0,),
    "ssm_init": ("v0",),
}


def _first(model: str, arguments: Mapping[str, Any]) -> NetworkSpec:
    """Translate the arguments of the first generation's class, or of the newer class that has it as a variant."""
    if "forward_type" in arguments:
        return _second(model, arguments)
    only(arguments, {"in_chans", "num_classes", "depths", "dims", "d_state", "drop_path_rate"}, _FIXED_FIRST, "VMamba")
    options = {
        "width": _doubling(arguments["dims"], "VMamba"),
        "depths": tuple(arguments["depths"]),
        "state_size": arguments.get("d_state", 16),
        "drop_path": arguments.get("drop_path_rate", 0.2),
    }
    classes = arguments.get("num_classes", 1000)
    return NetworkSpec(
        name=model, dim=2, in_channels=arguments.get("in_chans", 3), out_channels=classes, options=options
    )


def _second(model: str, arguments: Mapping[str, Any]) -> NetworkSpec:
    second = arguments["forward_type"] == "v05_noz"
    bound: dict[str, tuple[Any, ...]] = {
        **_FIXED_BOTH,
        "forward_type": ("v05_noz",) if second else ("v0", "v05"),
        "ssm_conv_bias": (not second,),
        "mlp_ratio": (4.0,) if second else (0.0,),
        "downsample_version": ("v3",) if second else ("v1",),
        "patchembed_version": ("v2",) if second else ("v1",),
        "norm_layer": ("ln2d", "ln"),
    }
    known = {"in_chans", "num_classes", "depths", "dims", "ssm_d_state", "ssm_ratio", "drop_path_rate"}
    only(arguments, known, bound, "VMamba")
    return NetworkSpec(
        name=model,
        dim=2,
        in_channels=arguments.get("in_chans", 3),
        out_channels=arguments.get("num_classes", 1000),
        options={
            "width": _doubling(arguments["dims"], "VMamba"),
            "depths": tuple(arguments["depths"]),
            "generation": 2 if second else 1,
            "state_size": arguments["ssm_d_state"],
            "expand": float(arguments["ssm_ratio"]),
            "drop_path": arguments.get("drop_path_rate", 0.2),
        },
    )


_NEW_BLOCKS = (
    *ss2d_rules(r"layers\.(\d+)\.blocks\.(\d+)\.op\.", r"encoder.stages.\1.\2.mixer."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc", r"encoder.stages.\1.\2.mlp.linear"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.(norm2?)\.", r"encoder.stages.\1.\2.\3."),
    (r"layers\.(\d+)\.downsample\.1\.", r"encoder.merges.\1.conv."),
    (r"layers\.(\d+)\.downsample\.3\.", r"encoder.merges.\1.norm."),
    (r"layers\.(\d+)\.downsample\.(reduction|norm)\.", r"encoder.merges.\1.\2."),
    (r"classifier\.", ""),
    (r"outnorm(\d+)\.", r"norms.\1."),
)
_NOT_U = (r"layers_up", r"vssm_encoder", r"final_up")

VMAMBA_V0 = Source(
    name="VMamba VSSM classifier (first generation, keys as in released v0 checkpoints)",
    model="vmamba",
    licence="MIT",
    recognise=(r"^layers\.0\.blocks\.0\.self_attention\.A_logs$", r"^head\.weight$"),
    absent=_NOT_U,
    rename=(*encoder_rules("", "encoder."), (r"(norm|head)\.", r"\1.")),
    spec=lambda arguments: _first("vmamba", arguments),
)

_PATCHES = tuple(
    (rf"patch_embed\.{i}\.", f"embed.{name}.") for i, name in ((0, "proj"), (2, "norm"), (5, "proj2"), (7, "norm2"))
)
_NEW = r"^layers\.0\.blocks\.0\.op\.A_logs$"
_PERCEPTRON = r"^layers\.0\.blocks\.0\.mlp\.fc1\.weight$"


def _new(name: str, model: str, recognise: tuple[str, ...], absent: tuple[str, ...] = ()) -> Source:
    """Return the source for keys of the newer class, which has both generations."""
    return Source(
        name=name,
        model=model,
        licence="MIT",
        recognise=(_NEW, *recognise),
        absent=absent,
        rename=(*_PATCHES, *_NEW_BLOCKS),
        spec=lambda arguments: _second(model, arguments),
    )


VMAMBA_V0_NEW = _new(
    "VMamba VSSM classifier (first generation, names of the newer class)",
    "vmamba",
    (r"^classifier\.head\.",),
    (_PERCEPTRON,),
)
VMAMBA_V2 = _new(
    "VMamba VSSM classifier (second generation, keys as in released v2 checkpoints)",
    "vmamba",
    (r"^classifier\.head\.", _PERCEPTRON),
)
BACKBONE = _new("VMamba Backbone_VSSM (4 normalised feature maps)", "vmamba_backbone", (r"^outnorm0\.",))


def _encoder_of_swin_umamba(arguments: Mapping[str, Any], widths: Any, depths: Any) -> dict[str, Any]:
    return {
        "width": _doubling(widths, "Swin-UMamba"),
        "depths": tuple(depths),
        "state_size": arguments.get("d_state", 16),
    }


def _swin_umamba(model: str, arguments: Mapping[str, Any]) -> NetworkSpec:
    """Translate; the widths of the convolutions follow from those of the encoder, and must say so."""
    known = {"in_chans", "out_chans", "feat_size", "hidden_size", "encoder_dims", "encoder_depths", "deep_supervision"}
    only(arguments, known, {"encoder_patch_size": (2,)}, "Swin-UMamba")
    widths = arguments.get("encoder_dims", (96, 192, 384, 768))
    features, hidden = (widths[0] // 2, *widths), widths[-1]
    for name, fitting in (("feat_size", features), ("hidden_size", hidden)):
        given = arguments.get(name, fitting)
        if (tuple(given) if isinstance(given, list | tuple) else given) != fitting:
            raise OptionError(f"Swin-UMamba with {name} = {given!r} has no counterpart; it has {fitting!r} here")
    return NetworkSpec(
        name=model,
        dim=2,
        in_channels=arguments.get("in_chans", 1),
        out_channels=arguments.get("out_chans", 13),
        options=_encoder_of_swin_umamba(arguments, widths, arguments.get("encoder_depths", (2, 2, 9, 2))),
    )


def _dagger(arguments: Mapping[str, Any]) -> NetworkSpec:
    known = {
        "in_chans", "num_classes", "dims", "depths", "features_per_stage", "d_state", "decoder_depth_per_stage",
        "deep_supervision", "drop_path_rate",
    }  # fmt: skip
    only(arguments, known, {"patch_size": (4,)}, "Swin-UMamba†")
    options = _encoder_of_swin_umamba(arguments, arguments["dims"], arguments["depths"])
    stages = tuple(options["width"] * 2**i for i in range(len(options["depths"])))
    features = tuple(arguments.get("features_per_stage", stages))
    if features != stages:
        raise OptionError(f"Swin-UMamba† with features_per_stage = {features} has no counterpart; it has {stages} here")
    return NetworkSpec(
        name="swin_umamba_dagger",
        dim=2,
        in_channels=arguments["in_chans"],
        out_channels=arguments["num_classes"],
        options=options | {"decoder_depth": arguments.get("decoder_depth_per_stage", 2)},
    )


_VSSM = (
    (r"vssm_encoder\.patch_embed\.", "embed."),
    *first_generation(r"vssm_encoder\.layers\.(\d+)\.blocks\.", r"encoder.stages.\1."),
    (r"vssm_encoder\.downsamples\.(\d+)\.", r"encoder.merges.\1."),
)
_RESIDUAL = r"(conv[123])\.conv\."


def _residual_rules(levels: int, *, deepest: bool) -> tuple[tuple[str, str], ...]:
    """Return the rules for the convolutions; the original counts decoders from the finest."""
    top = levels + 1 if deepest else levels
    ups = [(top, "bottom")] if deepest else []
    ups += [(level, f"decoder.{levels - level}") for level in range(levels, 1, -1)]
    return (
        (r"stem\.", "stem."),
        *((rf"encoder{i + 1}\.layer\.{_RESIDUAL}", rf"skips.{i}.\1.") for i in range(levels)),
        *((rf"decoder{n}\.transp_conv\.conv\.", f"{to}.up.") for n, to in ups),
        *((rf"decoder{n}\.conv_block\.{_RESIDUAL}", rf"{to}.block.\1.") for n, to in ups),
        (rf"decoder1\.layer\.{_RESIDUAL}", r"last.\1."),
        (r"out_layers\.(\d+)\.conv\.conv\.", r"heads.\1."),
    )


_LEVELS = 5  # the stem, and four stages of the encoder
SWIN_UMAMBA = Source(
    name="Swin-UMamba",
    model="swin_umamba",
    licence="Apache-2.0",
    recognise=(r"^vssm_encoder\.layers\.", r"^stem\.0\.weight$", r"^decoder6\."),
    rename=(*_VSSM, *_residual_rules(_LEVELS, deepest=True)),
    spec=lambda arguments: _swin_umamba("swin_umamba", arguments),
)
SWIN_UMAMBA_FIRST = Source(
    name="Swin-UMamba (code before 2024-03-06: the deepest encoder stage has no use)",
    model="swin_umamba_first",
    licence="Apache-2.0",
    recognise=(r"^vssm_encoder\.layers\.", r"^stem\.0\.weight$"),
    absent=(r"^decoder6\.",),
    rename=(*_VSSM, *_residual_rules(_LEVELS, deepest=False)),
    spec=lambda arguments: _swin_umamba("swin_umamba_first", arguments),
)
SWIN_UMAMBA_DAGGER = Source(
    name="Swin-UMamba-dagger",
    model="swin_umamba_dagger",
    licence="Apache-2.0",
    recognise=(r"^vssm_encoder\.layers\.", r"^decoder\.concat_back_dim\.0\.weight$"),
    rename=(
        *_VSSM,
        *first_generation(r"decoder\.stages\.(\d+)\.blocks\.", r"decoder.\1."),
        *((rf"decoder\.expand_layers\.{i}\.", f"expands.{i}.") for i in range(_LEVELS - 2)),
        (rf"decoder\.expand_layers\.{_LEVELS - 2}\.", "final."),
        (r"decoder\.concat_back_dim\.(\d+)\.", r"joins.\1."),
        (r"decoder\.seg_layers\.(\d+)\.", r"heads.\1."),
    ),
    spec=_dagger,
)

SOURCES = (
    VM_UNET,
    VMAMBA_V0,
    VMAMBA_V0_NEW,
    VMAMBA_V2,
    BACKBONE,
    SWIN_UMAMBA,
    SWIN_UMAMBA_FIRST,
    SWIN_UMAMBA_DAGGER,
)
