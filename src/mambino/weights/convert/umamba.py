"""U-Mamba: both places of its Mamba layers, both generations of its code."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mambino.core.plan import NetworkSpec
from mambino.models.umamba import halved
from mambino.weights.convert import nnunet
from mambino.weights.convert.rules import Source

# Said of a network beside its arguments; all of it follows from them.
_FOLLOWING = frozenset({"effective_n_conv_per_stage", "effective_n_conv_per_stage_decoder", "channel_token_per_stage"})


def _spec(model: str, arguments: Mapping[str, Any]) -> NetworkSpec:
    also = _FOLLOWING | ({"input_size"} if model == "umamba_enc" else set())
    spec = nnunet.staged(model, "U-Mamba", arguments, counts=("blocks", "decoder_blocks"), also=also)
    options: dict[str, Any] = dict(spec.options)
    if not model.endswith("2024_01"):  # the newer code changes the plan's numbers of blocks
        options |= {name: halved(arguments["n_stages"], options[name]) for name in ("blocks", "decoder_blocks")}
    if model == "umamba_enc":
        options["patch"] = tuple(arguments["input_size"])
    return replace(spec, options=options)


_LAYERS = (
    (r"encoder\.mamba_layers\.(\d+)\.norm\.", r"encoder.\1.layer.norm."),
    (r"encoder\.mamba_layers\.(\d+)\.mamba\.", r"encoder.\1.layer.mixer."),
)
_RELEASED = (
    (r"encoder\.stem\.", "encoder.0.stem."),
    (r"encoder\.stages\.(\d+)\.", r"encoder.\1.blocks."),
    (r"decoder\.upsample_layers\.", "decoder.ups."),
    (r"decoder\.seg_layers\.", "decoder.heads."),
    (r"decoder\.stages\.", "decoder.stages."),
)
_JANUARY = (
    *nnunet.RESIDUAL_ENCODER,
    (r"decoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.", r"decoder.stages.\1.\2.skip.1."),
    (r"decoder\.stages\.(\d+)\.blocks\.", r"decoder.stages.\1."),
    *nnunet.UPWARDS,
)

BOT = Source(
    name="U-Mamba_Bot (2024-03 code)",
    model="umamba_bot",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stem\.0\.conv1\.weight$", r"^mamba_layer\.mamba\.A_log$"),
    aliases=nnunet.ALIASES,
    rename=((r"mamba_layer\.norm\.", "bottom.norm."), (r"mamba_layer\.mamba\.", "bottom.mixer."), *_RELEASED),
    spec=lambda arguments: _spec("umamba_bot", arguments),
)

ENC = Source(
    name="U-Mamba_Enc (2024-03 code)",
    model="umamba_enc",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stem\.0\.conv1\.weight$", r"^encoder\.mamba_layers\.\d+\.mamba\.A_log$"),
    aliases=nnunet.ALIASES,
    rename=(*_LAYERS, *_RELEASED),
    spec=lambda arguments: _spec("umamba_enc", arguments),
)

BOT_2024_01 = Source(
    name="U-Mamba_Bot (2024-01 code)",
    model="umamba_bot_2024_01",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stem\.convs\.0\.conv\.weight$", r"^ln\.weight$", r"^mamba\.A_log$"),
    aliases=nnunet.ALIASES,
    rename=((r"ln\.", "bottom.norm."), (r"mamba\.", "bottom.mixer."), *_JANUARY),
    spec=lambda arguments: _spec("umamba_bot_2024_01", arguments),
)

ENC_2024_01 = Source(
    name="U-Mamba_Enc (2024-01 code)",
    model="umamba_enc_2024_01",
    licence="Apache-2.0",
    recognise=(r"^encoder\.stem\.convs\.0\.conv\.weight$", r"^encoder\.mamba_layers\.\d+\.mamba\.A_log$"),
    aliases=nnunet.ALIASES,
    rename=(*_LAYERS, *_JANUARY),
    spec=lambda arguments: _spec("umamba_enc_2024_01", arguments),
)
