"""The networks that a plan chooses from, in the sizes that a budget chooses from."""

from collections.abc import Sequence
from typing import cast

from mambino.core.plan import NetworkSpec, Value
from mambino.planning.topology import CONVS, Topology, features

PLANNED = ("unet", "lightm_unet")

Size = dict[str, Value]
"""Options that make a network larger or smaller."""

_LIGHTM: tuple[Size, ...] = (
    {"width": 8, "blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1)},
    {"width": 8, "blocks": (1, 2, 2, 4), "decoder_blocks": (1, 1, 1)},
    {"width": 16, "blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1)},
    {"width": 16, "blocks": (1, 2, 2, 4), "decoder_blocks": (1, 1, 1)},
    {"width": 32, "blocks": (1, 2, 2, 4), "decoder_blocks": (1, 1, 1)},
)


def _widths(*widths: int) -> tuple[Size, ...]:
    return tuple({"width": width} for width in widths)


def _features(*features: tuple[int, ...]) -> tuple[Size, ...]:
    return tuple({"features": widths} for widths in features)


STAGED = frozenset({"unet", "resenc_unet", "umamba_bot", "umamba_bot_2024_01", "umamba_enc", "umamba_enc_2024_01"})
"""Networks of nnU-Net's family: their stages follow from the patch, and each may give logits."""

DEEP = STAGED | {"swin_umamba", "swin_umamba_dagger", "swin_umamba_first"}
"""Networks that are trained at several resolutions at once."""

OF_ONE_SIZE = {"unetr": 16, "swin_unet": 32 * 7}
"""Networks that take images of one size, their option `patch`, and what its sides must be multiples of."""

SIZES: dict[str, tuple[Size, ...]] = {
    "attention_unet": _features((8, 16, 32, 64, 128), (16, 32, 64, 128, 256), (64, 128, 256, 512, 1024)),
    "unet": _widths(4, 8, 12, 16, 24, 32),
    "resenc_unet": _widths(8, 16, 32),
    "umamba_bot": _widths(8, 16, 32),
    "umamba_bot_2024_01": _widths(8, 16, 32),
    "umamba_enc": _widths(8, 16, 32),
    "umamba_enc_2024_01": _widths(8, 16, 32),
    "lightm_unet": _LIGHTM,
    "lightm_unet_legacy": _LIGHTM,
    "lightm_unet_paper": (*_widths(8, 12, 16), {}),  # its own default keeps what the paper promises
    "mk_unet": _features((4, 8, 16, 24, 32), (8, 16, 32, 48, 80), (16, 32, 64, 96, 160)),
    "segresnet": _widths(8, 16, 32),
    "swin_umamba": _widths(16, 32, 48, 96),
    "swin_umamba_dagger": _widths(16, 32, 48, 96),
    "swin_umamba_first": _widths(16, 32, 48, 96),
    "swin_unet": _widths(24, 48, 96),
    "swin_unetr": _widths(12, 24, 48),
    "unetr": (
        {"width": 8, "hidden": 192, "mlp": 768, "heads": 3},
        {"width": 8, "hidden": 384, "mlp": 1536, "heads": 6},
        {"width": 16, "hidden": 768, "mlp": 3072, "heads": 12},
    ),
    "vm_unet": _widths(16, 32, 48, 96),
    "ultralight_vm_unet": _features((8, 8, 12, 16, 24, 32), (8, 16, 24, 32, 48, 64)),
}
"""Sizes from small to large; the last is the published one. Others come in their published size alone."""


def sizes(name: str) -> tuple[Size, ...]:
    """Return the sizes of a network, small to large."""
    return SIZES.get(name, ({},))


def network(
    name: str, size: Size, plan: Topology, patch: Sequence[int], in_channels: int, out_channels: int
) -> NetworkSpec:
    """Describe a network of one size for the stages of `plan`, and images of the size `patch`."""
    options = dict(size)
    if name in STAGED:
        options = _staged(name, size, plan)
    if name in OF_ONE_SIZE or name == "umamba_enc":
        options["patch"] = tuple(patch)
    return NetworkSpec(name=name, dim=len(patch), in_channels=in_channels, out_channels=out_channels, options=options)


def described(size: Size) -> str:
    """Put a size into words."""
    return ", ".join(f"{name} {value}" for name, value in size.items()) or "its published size"


def patch_of(name: str, plan: Topology, divisor: Sequence[int]) -> tuple[int, ...]:
    """Return the patch nearest to the one of `plan` that a network takes."""
    if name in STAGED:
        return rounded_up(plan.patch, plan.divisor)
    return rounded_up(plan.patch, (OF_ONE_SIZE[name],) * len(plan.patch) if name in OF_ONE_SIZE else divisor)


def rounded_up(patch: Sequence[int], divisor: Sequence[int]) -> tuple[int, ...]:
    """Return the next patch whose sides are multiples of `divisor`."""
    return tuple(-(-side // step) * step for side, step in zip(patch, divisor, strict=True))


def _staged(name: str, size: Size, plan: Topology) -> dict[str, Value]:
    stages = len(plan.strides)
    options: dict[str, Value] = {
        "features": features(stages, len(plan.patch), cast(int, size["width"])),
        "kernels": plan.kernels,
        "strides": plan.strides,
    }
    if name == "unet":
        options |= {"convs": (CONVS,) * stages, "decoder_convs": (CONVS,) * (stages - 1)}
    return options
