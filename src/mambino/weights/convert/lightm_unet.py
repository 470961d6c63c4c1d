"""LightM-UNet: both generations of its code."""

from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec, Value
from mambino.weights.convert.arguments import GROUP_NORM, UPSAMPLE, only
from mambino.weights.convert.rules import Source

_KNOWN = {
    "spatial_dims", "init_filters", "in_channels", "out_channels", "dropout_prob", "blocks_down", "blocks_up",
    "upsample_mode",
}  # fmt: skip


def _spec(model: str, arguments: Mapping[str, Any]) -> NetworkSpec:
    """Translate the arguments of the original; those left out have its defaults, which are not the paper's."""
    only(arguments, _KNOWN, GROUP_NORM, "LightM-UNet")
    options: dict[str, Value] = {
        "width": arguments.get("init_filters", 8),
        "blocks": tuple(arguments.get("blocks_down", (1, 2, 2, 4))),
        "decoder_blocks": tuple(arguments.get("blocks_up", (1, 1, 1))),
        "upsample": UPSAMPLE[arguments.get("upsample_mode", "nontrainable")],
        "dropout": arguments.get("dropout_prob") or 0.0,
    }
    return NetworkSpec(
        name=model,
        dim=arguments.get("spatial_dims", 3),
        in_channels=arguments.get("in_channels", 1),
        out_channels=arguments.get("out_channels", 2),
        options=options,
    )


_SHARED = (
    (r"down_layers\.(\d+)\.(\d+)\.conv([12])\.", r"stages.\1.\2.mix\3."),
    (r"down_layers\.", "stages."),
    (r"up_samples\.(\d+)\.0\.conv\.", r"ups.\1.reduce."),
    (r"up_samples\.(\d+)\.1\.deconv\.", r"ups.\1.upsample."),
    (r"up_samples\.(\d+)\.1\.pixelshuffle\.conv_block\.", r"ups.\1.upsample.conv."),
    (r"conv_final\.0\.", "norm."),
)
_MAMBA = r"^down_layers\.\d+\.\d+\.conv1\.mamba\.A_log$"

SOURCE = Source(
    name="LightM-UNet",
    model="lightm_unet",
    licence="Apache-2.0",
    recognise=(r"^convInit\.0\.conv\.weight$", _MAMBA),
    rename=(
        (r"convInit\.0\.conv\.", "stem.depthwise."),
        (r"convInit\.1\.conv\.", "stem.pointwise."),
        (r"up_layers\.(\d+)\.(\d+)\.conv\.0\.conv\.", r"decoder.\1.\2.conv.depthwise."),
        (r"up_layers\.(\d+)\.(\d+)\.conv\.1\.conv\.", r"decoder.\1.\2.conv.pointwise."),
        (r"up_layers\.", "decoder."),
        (r"conv_final\.2\.0\.conv\.", "head.depthwise."),
        (r"conv_final\.2\.1\.conv\.", "head.pointwise."),
        *_SHARED,
    ),
    spec=lambda arguments: _spec("lightm_unet", arguments),
)

LEGACY = Source(
    name="LightM-UNet (code before 2024-03-29: plain convs, ResBlock decoder)",
    model="lightm_unet_legacy",
    licence="Apache-2.0",
    recognise=(r"^convInit\.conv\.weight$", _MAMBA),
    rename=(
        (r"convInit\.conv\.", "stem."),
        (r"up_layers\.(\d+)\.(\d+)\.conv([12])\.conv\.", r"decoder.\1.\2.conv\3."),
        (r"up_layers\.", "decoder."),
        (r"conv_final\.2\.conv\.", "head."),
        *_SHARED,
    ),
    spec=lambda arguments: _spec("lightm_unet_legacy", arguments),
)
