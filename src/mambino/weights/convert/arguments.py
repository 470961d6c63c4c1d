"""Reading the arguments that an original network was constructed with."""

from collections.abc import Mapping
from typing import Any

from mambino.errors import OptionError

UPSAMPLE = {"nontrainable": "interpolate", "deconv": "deconv", "pixelshuffle": "pixelshuffle"}
"""MONAI's names of ways to double the sides, and ours."""

GROUP_NORM: dict[str, tuple[Any, ...]] = {
    "act": ("RELU", "relu", ["RELU", {"inplace": True}], ("RELU", {"inplace": True})),
    "norm": (["GROUP", {"num_groups": 8}], ("GROUP", {"num_groups": 8})),
    "norm_name": ("",),
    "num_groups": (8,),
    "use_conv_final": (True,),
}
"""What SegResNet, and LightM-UNet after it, has in one way here; for `only`."""


def only(arguments: Mapping[str, Any], known: set[str], fixed: Mapping[str, tuple[Any, ...]], network: str) -> None:
    """Refuse arguments that our network has no counterpart for.

    Args:
        arguments: of the original.
        known: those that are translated.
        fixed: those of which our network has one value, with every way to write it.
        network: its name.

    Raises:
        OptionError: names the argument and its value.
    """
    for name, value in arguments.items():
        if name in known or (name in fixed and value in fixed[name]):
            continue
        allowed = f"; it has {fixed[name][0]!r} here" if name in fixed else ""
        raise OptionError(f"{network} with {name} = {value!r} has no counterpart{allowed}")


def per_axis(value: Any, dim: int) -> tuple[int, ...]:
    """Return a number for each axis, of one for all or of as many."""
    return (value,) * dim if isinstance(value, int) else tuple(value)
