"""nnU-Net's PlainConvUNet (dynamic-network-architectures)."""

from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec
from mambino.weights.convert.arguments import only, per_axis
from mambino.weights.convert.rules import Source

_KNOWN = {
    "input_channels", "n_stages", "features_per_stage", "kernel_sizes", "strides", "num_classes", "n_conv_per_stage",
    "n_conv_per_stage_decoder", "spatial_dims", "deep_supervision",
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


def _spec(arguments: Mapping[str, Any]) -> NetworkSpec:
    only(arguments, _KNOWN, _FIXED, "nnU-Net's PlainConvUNet")
    stages, dim = arguments["n_stages"], arguments["spatial_dims"]
    sizes = {name: _per_stage(arguments[name], stages) for name in ("kernel_sizes", "strides")}
    return NetworkSpec(
        name="unet",
        dim=dim,
        in_channels=arguments["input_channels"],
        out_channels=arguments["num_classes"],
        options={
            "features": _per_stage(arguments["features_per_stage"], stages),
            "kernels": tuple(per_axis(k, dim) for k in sizes["kernel_sizes"]),
            "strides": tuple(per_axis(s, dim) for s in sizes["strides"]),
            "convs": _per_stage(arguments["n_conv_per_stage"], stages),
            "decoder_convs": _per_stage(arguments["n_conv_per_stage_decoder"], stages - 1),
        },
    )


def _per_stage(value: Any, stages: int) -> tuple[Any, ...]:
    return (value,) * stages if isinstance(value, int) else tuple(value)


SOURCE = Source(
    name="nnU-Net PlainConvUNet",
    model="unet",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stages\.\d+\.0\.convs\.\d+\.conv\.weight$", r"^decoder\.seg_layers\.\d+\.weight$"),
    absent=(r"mamba", r"^encoder\.stem\.", r"\.blocks\."),
    aliases=(
        (r"^decoder\.encoder\.", "encoder."),
        (r"\.all_modules\.0\.", ".conv."),
        (r"\.all_modules\.1\.", ".norm."),
    ),
    rename=(
        (r"encoder\.stages\.(\d+)\.0\.convs\.", r"encoder.\1."),
        (r"decoder\.stages\.(\d+)\.convs\.", r"decoder.stages.\1."),
        (r"decoder\.transpconvs\.", "decoder.ups."),
        (r"decoder\.seg_layers\.", "decoder.heads."),
    ),
    spec=_spec,
)
