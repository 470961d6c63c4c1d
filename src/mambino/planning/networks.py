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

SIZES: dict[str, tuple[Size, ...]] = {
    "unet": tuple({"width": width} for width in (4, 8, 12, 16, 24, 32)),
    "lightm_unet": _LIGHTM,
    "lightm_unet_legacy": _LIGHTM,
}
"""Sizes from small to large; the last is the published one. Others come in their published size alone."""


def sizes(name: str) -> tuple[Size, ...]:
    """Return the sizes of a network, small to large."""
    return SIZES.get(name, ({},))


def network(name: str, size: Size, plan: Topology, in_channels: int, out_channels: int) -> NetworkSpec:
    """Describe a network of one size for the stages of `plan`."""
    options = _unet(size, plan) if name == "unet" else dict(size)
    return NetworkSpec(
        name=name, dim=len(plan.patch), in_channels=in_channels, out_channels=out_channels, options=options
    )


def described(size: Size) -> str:
    """Put a size into words."""
    return ", ".join(f"{name} {value}" for name, value in size.items()) or "its published size"


def rounded_up(patch: Sequence[int], divisor: Sequence[int]) -> tuple[int, ...]:
    """Return the next patch whose sides are multiples of `divisor`."""
    return tuple(-(-side // step) * step for side, step in zip(patch, divisor, strict=True))


def _unet(size: Size, plan: Topology) -> dict[str, Value]:
    stages = len(plan.strides)
    return {
        "features": features(stages, len(plan.patch), cast(int, size["width"])),
        "kernels": plan.kernels,
        "strides": plan.strides,
        "convs": (CONVS,) * stages,
        "decoder_convs": (CONVS,) * (stages - 1),
    }
