"""Swin-Unet: its network (SwinTransformerSys), and the wrapper round it, which puts `swin_unet.` before every key."""

from collections.abc import Mapping
from typing import Any

from mambino.core.plan import NetworkSpec
from mambino.weights.convert.arguments import only, per_axis
from mambino.weights.convert.rules import Source

_KNOWN = {
    "img_size", "in_chans", "num_classes", "embed_dim", "depths", "num_heads", "window_size", "ape", "drop_path_rate",
    "depths_decoder",  # which the original reads and does not use
}  # fmt: skip
_FIXED: dict[str, tuple[Any, ...]] = {
    "patch_size": (4,),
    "mlp_ratio": (4.0,),
    "qkv_bias": (True,),
    "qk_scale": (None,),
    "drop_rate": (0.0,),
    "attn_drop_rate": (0.0,),
    "patch_norm": (True,),
    "use_checkpoint": (True, False),
    "final_upsample": ("expand_first",),
}


def _spec(arguments: Mapping[str, Any]) -> NetworkSpec:
    """Translate the arguments of the original; those left out have its defaults."""
    only(arguments, _KNOWN, _FIXED, "Swin-Unet")
    return NetworkSpec(
        name="swin_unet",
        dim=2,
        in_channels=arguments.get("in_chans", 3),
        out_channels=arguments.get("num_classes", 1000),
        options={
            "patch": per_axis(arguments.get("img_size", 224), 2),
            "width": arguments.get("embed_dim", 96),
            "depths": tuple(arguments.get("depths", (2, 2, 2, 2))),
            "heads": tuple(arguments.get("num_heads", (3, 6, 12, 24))),
            "window": arguments.get("window_size", 7),
            "positions": arguments.get("ape", False),
            "drop_path": arguments.get("drop_path_rate", 0.1),
        },
    )


def _blocks(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Return the rules of the blocks of a level; `ours` ends where the number of the block follows."""
    return (
        (rf"{theirs}blocks\.(\d+)\.attn\.relative_position_bias_table$", rf"{ours}\1.attention.table"),
        (rf"{theirs}blocks\.(\d+)\.attn\.", rf"{ours}\1.attention.attention."),
        (rf"{theirs}blocks\.(\d+)\.mlp\.fc([12])\.", rf"{ours}\1.mlp.linear\2."),
        (rf"{theirs}blocks\.(\d+)\.", rf"{ours}\1."),
    )


SOURCE = Source(
    name="Swin-Unet (SwinTransformerSys)",
    model="swin_unet",
    licence="none stated",
    recognise=(r"(^|\.)layers_up\.0\.expand\.weight$", r"\.attn\.relative_position_bias_table$"),
    aliases=((r"^swin_unet\.", ""),),
    rename=(
        (r"patch_embed\.proj\.", "embed."),
        (r"patch_embed\.norm\.", "embed_norm."),
        (r"absolute_pos_embed$", "positions"),
        *(rule for i in range(4) for rule in _blocks(rf"layers\.{i}\.", f"stages.{i}.")),
        (r"layers\.(\d+)\.downsample\.", r"merges.\1."),
        (r"norm\.", "norm."),
        (r"layers_up\.0\.", "expands.0."),
        (r"layers_up\.(\d+)\.upsample\.", r"expands.\1."),
        # The first of the decoder's four levels has no blocks and joins nothing.
        *(rule for i in range(1, 4) for rule in _blocks(rf"layers_up\.{i}\.", f"decoder.{i - 1}.")),
        *((rf"concat_back_dim\.{i}\.", f"joins.{i - 1}.") for i in range(1, 4)),
        (r"norm_up\.", "decoder_norm."),
        (r"up\.", "last."),
        (r"output\.", "head."),
    ),
    drop={
        r"relative_position_index$": "derived from the size of a window, not learnt",
        r"attn_mask$": "derived from the size of the image, not learnt",
    },
    spec=_spec,
)
