"""nnU-Net's PlainConvUNet and ResidualEncoderUNet (dynamic-network-architectures)."""

from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec
from mambino.weights.convert.arguments import only, per_axis
from mambino.weights.convert.rules import Source

_KNOWN = {
    "input_channels", "n_stages", "features_per_stage", "kernel_sizes", "strides", "num_classes", "n_conv_per_stage",
    "n_blocks_per_stage", "n_conv_per_stage_decoder", "spatial_dims", "deep_supervision",
}  # fmt: skip
_FIXED: dict[str, tuple[Any, ...]] = {
    "conv_bias": (True,),
    "norm": ("instance affine eps 1e-5",),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
    "nonlin": ("LeakyReLU 0.01",),
    "nonlin_kwargs": ({"inplace": True}, None, {}),
    "dropout_op": (None,),
    "dropout_op_kwargs": (None, {}),
    "nonlin_first": (False,),
}


def staged(
    model: str,
    original: str,
    arguments: Mapping[str, Any],
    *,
    counts: tuple[str, str],
    also: frozenset[str] = frozenset(),
) -> NetworkSpec:
    """Translate the arguments that all networks of stages share.

    Args:
        model, original: name of our network, and of theirs for people.
        arguments: of the original.
        counts: our options for the blocks of a stage of encoder and decoder.
        also: arguments that the caller translates.
    """
    only(arguments, _KNOWN | also, _FIXED, original)
    stages, dim = arguments["n_stages"], arguments["spatial_dims"]
    sizes = {name: _per_stage(arguments[name], stages) for name in ("kernel_sizes", "strides")}
    blocks = arguments["n_blocks_per_stage" if "n_blocks_per_stage" in arguments else "n_conv_per_stage"]
    return NetworkSpec(
        name=model,
        dim=dim,
        in_channels=arguments["input_channels"],
        out_channels=arguments["num_classes"],
        options={
            "features": _per_stage(arguments["features_per_stage"], stages),
            "kernels": tuple(per_axis(k, dim) for k in sizes["kernel_sizes"]),
            "strides": tuple(per_axis(s, dim) for s in sizes["strides"]),
            counts[0]: _per_stage(blocks, stages),
            counts[1]: _per_stage(arguments["n_conv_per_stage_decoder"], stages - 1),
        },
    )


def _per_stage(value: Any, stages: int) -> tuple[Any, ...]:
    return (value,) * stages if isinstance(value, int) else tuple(value)


ALIASES = (
    (r"^decoder\.encoder\.", "encoder."),
    (r"\.all_modules\.0\.", ".conv."),
    (r"\.all_modules\.1\.", ".norm."),
)
"""The decoder keeps the encoder, and a block its layers, under a second name."""

UPWARDS = ((r"decoder\.transpconvs\.", "decoder.ups."), (r"decoder\.seg_layers\.", "decoder.heads."))

RESIDUAL_ENCODER = (
    (r"encoder\.stem\.convs\.0\.", "encoder.0.stem."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.", r"encoder.\1.blocks.\2.skip.1."),
    (r"encoder\.stages\.(\d+)\.blocks\.", r"encoder.\1.blocks."),
)
"""The projection past a block comes first where nothing is averaged before it; ours is always the second part."""

SOURCE = Source(
    name="nnU-Net PlainConvUNet",
    model="unet",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stages\.\d+\.0\.convs\.\d+\.conv\.weight$", r"^decoder\.seg_layers\.\d+\.weight$"),
    absent=(r"mamba", r"^encoder\.stem\.", r"\.blocks\."),
    aliases=ALIASES,
    rename=(
        (r"encoder\.stages\.(\d+)\.0\.convs\.", r"encoder.\1."),
        (r"decoder\.stages\.(\d+)\.convs\.", r"decoder.stages.\1."),
        *UPWARDS,
    ),
    spec=lambda arguments: staged("unet", "nnU-Net's PlainConvUNet", arguments, counts=("convs", "decoder_convs")),
)

RESIDUAL = Source(
    name="nnU-Net ResidualEncoderUNet",
    model="resenc_unet",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stem\.convs\.0\.conv\.weight$", r"^decoder\.stages\.\d+\.convs\.\d+\.conv\.weight$"),
    absent=(r"mamba",),
    aliases=ALIASES,
    rename=(*RESIDUAL_ENCODER, (r"decoder\.stages\.(\d+)\.convs\.", r"decoder.stages.\1."), *UPWARDS),
    spec=lambda arguments: staged(
        "resenc_unet", "nnU-Net's ResidualEncoderUNet", arguments, counts=("blocks", "decoder_convs")
    ),
)
