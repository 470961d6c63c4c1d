"""What every network asks of its input."""

import math

from torch import Tensor

from mambino.errors import ShapeError


def check_sides(x: Tensor, channels: int, divisor: tuple[int, ...]) -> None:
    """Refuse images of other channels, axes or sides than the network takes.

    Raises:
        ShapeError: names both sizes, and the next size that would fit.
    """
    if x.dim() != len(divisor) + 2:
        raise ShapeError(f"the network takes [batch, channels, {len(divisor)} axes], got a tensor of {tuple(x.shape)}")
    if x.shape[1] != channels:
        raise ShapeError(f"the network takes {channels} channels, got {x.shape[1]}")
    sides = tuple(int(s) for s in x.shape[2:])
    if any(s % d or s < 1 for s, d in zip(sides, divisor, strict=True)):
        fits = tuple(max(math.ceil(s / d), 1) * d for s, d in zip(sides, divisor, strict=True))
        raise ShapeError(
            f"the sides of the image must be multiples of {divisor}, got {sides}", hint=f"pad it to {fits}"
        )


def check_patch(x: Tensor, patch: tuple[int, ...]) -> None:
    """Refuse images of another size than the network was built for.

    Raises:
        ShapeError: names both sizes.
    """
    sides = tuple(int(s) for s in x.shape[2:])
    if sides != patch:
        raise ShapeError(
            f"the network was built for images of {patch}, got {sides}",
            hint="cut or pad the image, or build the network with the option patch of that size",
        )


def check_coarsest(x: Tensor, divisor: tuple[int, ...]) -> None:
    """Refuse images of which one voxel would be left, where each image is normalised by itself.

    Raises:
        ShapeError: names the size.
    """
    if x.shape[2:].numel() == math.prod(divisor):
        raise ShapeError(
            f"an image of {tuple(x.shape[2:])} leaves a single voxel at the coarsest stage, nothing to normalise",
            hint="give it a larger image, or the network fewer stages",
        )
