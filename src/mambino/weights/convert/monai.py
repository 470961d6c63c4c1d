"""MONAI's SegResNet, UNETR and SwinUNETR (release 1.3), and the last one's encoder by itself."""

from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec, Value
from mambino.weights.convert.arguments import GROUP_NORM, UPSAMPLE, only, per_axis
from mambino.weights.convert.rules import Source

_ANY = (True, False)
_GROUPS = {**GROUP_NORM, "dropout_prob": (None, 0.0)}
_UNETR: dict[str, tuple[Any, ...]] = {
    "proj_type": ("conv",),
    "pos_embed": ("conv",),
    "norm_name": ("instance",),
    "conv_block": (True,),
    "res_block": (True,),
    "dropout_rate": (0.0,),
    "qkv_bias": (False,),
    "save_attn": _ANY,
}
_SWIN: dict[str, tuple[Any, ...]] = {
    "norm_name": ("instance",),
    "drop_rate": (0.0,),
    "attn_drop_rate": (0.0,),
    "dropout_path_rate": (0.0,),
    "drop_path_rate": (0.0,),
    "normalize": (True,),
    "normalize_outputs": (True,),
    "use_checkpoint": _ANY,
    "use_v2": (False,),
    "downsample": ("merging",),
    "mlp_ratio": (4.0,),
    "qkv_bias": (True,),
    "patch_norm": (False,),
    "patch_size": (2, [2, 2], [2, 2, 2], (2, 2), (2, 2, 2)),
}


def _segresnet(arguments: Mapping[str, Any]) -> NetworkSpec:
    """Translate the arguments of the original; those left out have its defaults, which are not the papers'."""
    known = {"spatial_dims", "init_filters", "in_channels", "out_channels", "blocks_down", "blocks_up", "upsample_mode"}
    only(arguments, known, _GROUPS, "SegResNet")
    options: dict[str, Value] = {
        "width": arguments.get("init_filters", 8),
        "blocks": tuple(arguments.get("blocks_down", (1, 2, 2, 4))),
        "decoder_blocks": tuple(arguments.get("blocks_up", (1, 1, 1))),
        "upsample": UPSAMPLE[arguments.get("upsample_mode", "nontrainable")],
    }
    return _spec("segresnet", arguments, options, arguments.get("out_channels", 2))


def _unetr(arguments: Mapping[str, Any]) -> NetworkSpec:
    known = {
        "spatial_dims", "in_channels", "out_channels", "img_size", "feature_size", "hidden_size", "mlp_dim", "num_heads"
    }  # fmt: skip
    only(arguments, known, _UNETR, "UNETR")
    options: dict[str, Value] = {
        "patch": per_axis(arguments["img_size"], arguments.get("spatial_dims", 3)),
        "width": arguments.get("feature_size", 16),
        "hidden": arguments.get("hidden_size", 768),
        "mlp": arguments.get("mlp_dim", 3072),
        "heads": arguments.get("num_heads", 12),
    }
    return _spec("unetr", arguments, options, arguments["out_channels"])


def _swin_unetr(arguments: Mapping[str, Any]) -> NetworkSpec:
    known = {"spatial_dims", "img_size", "in_channels", "out_channels", "feature_size", "depths", "num_heads"}
    only(arguments, known, _SWIN, "SwinUNETR")
    options: dict[str, Value] = {
        "width": arguments.get("feature_size", 24),
        "depths": tuple(arguments.get("depths", (2, 2, 2, 2))),
        "heads": tuple(arguments.get("num_heads", (3, 6, 12, 24))),
    }
    return _spec("swin_unetr", arguments, options, arguments["out_channels"])


def _swin_encoder(arguments: Mapping[str, Any]) -> NetworkSpec:
    known = {"spatial_dims", "in_chans", "embed_dim", "depths", "num_heads"}
    windows = set(arguments["window_size"])
    only(arguments, known | ({"window_size"} if len(windows) == 1 else set()), _SWIN, "the encoder of SwinUNETR")
    options: dict[str, Value] = {
        "depths": tuple(arguments["depths"]),
        "heads": tuple(arguments["num_heads"]),
        "window": windows.pop(),
    }
    channels = {"in_channels": arguments["in_chans"], "spatial_dims": arguments.get("spatial_dims", 3)}
    return _spec("swin_encoder", channels, options, arguments["embed_dim"])


def _spec(model: str, arguments: Mapping[str, Any], options: dict[str, Value], out_channels: int) -> NetworkSpec:
    return NetworkSpec(
        name=model,
        dim=arguments.get("spatial_dims", 3),
        in_channels=arguments.get("in_channels", 1),
        out_channels=out_channels,
        options=options,
    )


SEGRESNET = Source(
    name="SegResNet",
    model="segresnet",
    licence="Apache-2.0",
    recognise=(r"^convInit\.conv\.weight$", r"^down_layers\.\d+\.\d+\.conv1\.conv\.weight$"),
    absent=(r"mamba",),
    rename=(
        (r"convInit\.conv\.", "stem."),
        (r"down_layers\.(\d+)\.0\.conv\.", r"stages.\1.0."),
        (r"down_layers\.(\d+)\.(\d+)\.conv([12])\.conv\.", r"stages.\1.\2.conv\3."),
        (r"down_layers\.", "stages."),
        (r"up_layers\.(\d+)\.(\d+)\.conv([12])\.conv\.", r"decoder.\1.\2.conv\3."),
        (r"up_layers\.", "decoder."),
        (r"up_samples\.(\d+)\.0\.conv\.", r"ups.\1.reduce."),
        (r"up_samples\.(\d+)\.1\.deconv\.", r"ups.\1.upsample."),
        (r"up_samples\.(\d+)\.1\.pixelshuffle\.conv_block\.", r"ups.\1.upsample.conv."),
        (r"conv_final\.0\.", "norm."),
        (r"conv_final\.2\.conv\.", "head."),
    ),
    spec=_segresnet,
)

# Two decoders of five stages, named by their depth: 5 is the first.
_DECODER = tuple(
    rule
    for number in (5, 4, 3, 2, 1)
    for rule in (
        (rf"decoder{number}\.transp_conv\.conv\.", f"ups.{5 - number}.up."),
        (rf"decoder{number}\.conv_block\.conv([123])\.conv\.", rf"ups.{5 - number}.block.conv\1."),
    )
)
_HEAD = (r"out\.conv\.conv\.", "head.")
_INDEX = {r"relative_position_index$": "derived from the size of a window, not learnt"}


def _swin_rules(prefix: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the rules of the encoder, whose keys begin with `prefix`; it counts its stages from 1."""
    rules = [(rf"{prefix}patch_embed\.proj\.", f"{ours}embed.")]
    for i in range(4):
        stage, block = rf"{prefix}layers{i + 1}\.0\.", rf"{ours}stages.{i}.blocks.\1."
        rules += [
            (rf"{stage}blocks\.(\d+)\.attn\.relative_position_bias_table$", f"{block}attention.table"),
            (rf"{stage}blocks\.(\d+)\.attn\.", f"{block}attention.attention."),
            (rf"{stage}blocks\.(\d+)\.", block),
            (rf"{stage}downsample\.", f"{ours}stages.{i}.merge."),
        ]
    return tuple(rules)


UNETR = Source(
    name="UNETR",
    model="unetr",
    licence="Apache-2.0",
    recognise=(r"^vit\.patch_embedding\.position_embeddings$", r"^decoder5\.transp_conv\.conv\.weight$"),
    rename=(
        (r"vit\.patch_embedding\.position_embeddings$", "transformer.positions"),
        (r"vit\.patch_embedding\.patch_embeddings\.", "transformer.embed."),
        (r"vit\.blocks\.(\d+)\.attn\.out_proj\.", r"transformer.blocks.\1.attention.proj."),
        (r"vit\.blocks\.(\d+)\.attn\.", r"transformer.blocks.\1.attention."),
        (r"vit\.", "transformer."),
        (r"encoder1\.layer\.conv([123])\.conv\.", r"first.conv\1."),
        *(
            rule
            for i in range(3)
            for rule in (
                (rf"encoder{i + 2}\.transp_conv_init\.conv\.", f"rises.{i}.0."),
                (rf"encoder{i + 2}\.blocks\.(\d+)\.0\.conv\.", rf"rises.{i}.1.\1.0."),
                (rf"encoder{i + 2}\.blocks\.(\d+)\.1\.conv([123])\.conv\.", rf"rises.{i}.1.\1.1.conv\2."),
            )
        ),
        *_DECODER,
        _HEAD,
    ),
    drop={r"^vit\.blocks\.\d+\.norm_cross_attn\.": "MONAI 1.6 has it and does not use it"},
    spec=_unetr,
)

SWIN_UNETR = Source(
    name="SwinUNETR",
    model="swin_unetr",
    licence="Apache-2.0",
    recognise=(r"^swinViT\.patch_embed\.proj\.weight$", r"^decoder5\.transp_conv\.conv\.weight$"),
    rename=(
        *_swin_rules(r"swinViT\.", "encoder."),
        *((rf"encoder{i + 1}\.layer\.conv([123])\.conv\.", rf"blocks.{i}.conv\1.") for i in range(4)),
        (r"encoder10\.layer\.conv([123])\.conv\.", r"coarsest.conv\1."),
        *_DECODER,
        _HEAD,
    ),
    drop=_INDEX,
    spec=_swin_unetr,
)

SWIN_ENCODER = Source(
    name="SwinUNETR encoder (swinViT)",
    model="swin_encoder",
    licence="Apache-2.0",
    recognise=(r"^patch_embed\.proj\.weight$", r"^layers1\.0\.blocks\.0\.attn\.relative_position_bias_table$"),
    rename=_swin_rules("", ""),
    drop=_INDEX,
    spec=_swin_encoder,
)
