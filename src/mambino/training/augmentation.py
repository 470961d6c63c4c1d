"""Random changes of patches that leave the anatomy what it is: turned, scaled, mirrored, other intensities.

The list and the numbers of nnU-Net (batchgeneratorsv2), and those of VM-UNet, on tensors. The order is: where to read
(`spatial_matrix`, before anything is read), `warp`, `quarter_turn`, `mirror`, intensities. Every draw comes from the
generator that is passed in. The kinds of a recipe:

- "full": nnU-Net's list; a plan that mirrors along no axis limits rotations, and paired organs change their numbers.
- "nnunet": the same as nnU-Net has it: turned in voxels, not in millimetres, and in a plane where the patch is thin
  along its first axis, mirrored along all axes whatever the plan says, no numbers exchanged.
- "light": the cheap part of it.
- "isic": VM-UNet's for skin lesions: flips, and then for half of the patches one angle that is drawn once a run.
- "synapse": TransUNet's, Swin-Unet's and VM-UNet's for slices: half are turned by quarters and flipped, half of the
  others turned by -20 to 19 whole degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, degrees, pi, radians, sin
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from mambino.core.labels import Labels
from mambino.core.plan import Config
from mambino.core.recipe import Changes
from mambino.errors import OptionError
from mambino.training.intensity import FULL, LIGHT, Change, below, uniform

ANISOTROPIC = 3.0
"""Patches or voxels that are so much longer along one axis are turned in the plane of the others only."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How often and how far patches are turned and scaled.

    Attributes:
        rotate: probability of a rotation.
        angle: its limit about each axis (radians).
        scale: probability of scaling.
        smallest, largest: how much larger structures may become, or with `inverse` how much smaller.
        plane: the axes that take part: (0, 1), (1, 2) or (0, 1, 2).
        fixed: turn by this angle alone (radians), not by any up to `angle`.
        whole: by whole degrees, as scipy's `rotate` counts them from -`angle` on, `angle` itself left out.
        nearest: take the nearest voxel of the image, too.
        inverse: scale where voxels are read, as nnU-Net does, and so what is seen by the inverse.
    """

    rotate: float
    angle: float
    scale: float
    smallest: float
    largest: float
    plane: tuple[int, ...]
    fixed: float | None = None
    whole: bool = False
    nearest: bool = False
    inverse: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Augmentation:
    """Everything that may happen to a patch.

    Attributes:
        turn: the spatial part, if any.
        spacing: of the voxels along the axes of a patch (mm), so that rotations are rotations; ones turn voxels.
        mirror: axes to mirror along, each with probability 1/2.
        swap_axis: mirroring along it exchanges the label numbers of paired organs by `swap`.
        swap: new number of each label number.
        intensity: changes of intensity with their probabilities.
        quarters: probability of a turn by quarters and a flip along one of two axes, in place of `turn`.
    """

    turn: Turn | None
    spacing: tuple[float, ...]
    mirror: tuple[int, ...]
    swap_axis: int | None
    swap: tuple[int, ...]
    intensity: tuple[tuple[float, Change], ...]
    quarters: float = 0.0


def augmentation(config: Config, labels: Labels, seed: int = 0) -> Augmentation:
    """Return what the recipe of a configuration asks for; `seed` is that of the run."""
    kind = config.recipe.augmentation
    every = tuple(range(config.dim))
    plan = config.mirror
    return Augmentation(
        turn=_turn(config, kind, seed),
        spacing=config.spacing if kind in {"full", "light"} else (1.0,) * config.dim,
        mirror={"full": plan, "light": plan, "nnunet": every, "isic": every, "synapse": (), "none": ()}[kind],
        swap_axis=None if kind in {"nnunet", "isic"} else config.swap_axis,
        swap=swapped_numbers(labels, config.swap),
        intensity={"full": FULL, "nnunet": FULL, "light": LIGHT}.get(kind, ()),
        quarters=0.5 if kind == "synapse" else 0.0,
    )


def swapped_numbers(labels: Labels, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the new number of each label number when the output channels in `pairs` change places.

    Raises:
        OptionError: the two structures of a pair are made of different amounts of numbers.
    """
    numbers = list(range(max(labels.numbers) + 1))
    names = list(labels.names)
    for pair in pairs:
        left, right = (names[channel - (not labels.has_regions)] for channel in pair)
        groups = labels.names[left], labels.names[right]
        if len(groups[0]) != len(groups[1]):
            raise OptionError(
                f"{left} and {right} cannot change places: they are made of the numbers {groups[0]} and {groups[1]}",
                hint="remove the pair from swap in plan.json, and its axis from mirror",
            )
        for one, other in zip(*groups, strict=True):
            numbers[one], numbers[other] = other, one
    return tuple(numbers)


def spatial_matrix(turn: Turn | None, spacing: Sequence[float], generator: Generator) -> Float[Tensor, "d d"] | None:
    """Draw how a patch is turned and scaled.

    Returns:
        The matrix that takes a voxel offset from the centre of the patch to the offset it is read
        from, or None where nothing happens.
    """
    if turn is None:
        return None
    rotate = uniform(generator) < turn.rotate
    scale = uniform(generator) < turn.scale
    if not rotate and not scale:
        return None
    matrix = torch.eye(len(spacing), dtype=torch.float64)
    if rotate:
        for one, other in _planes(turn.plane):
            matrix = matrix @ _rotation(len(spacing), one, other, _angle(turn, generator))
    if scale:
        matrix[list(turn.plane)] /= _zoom(turn, generator)
    size = torch.tensor(spacing, dtype=torch.float64)
    return matrix * size[None, :] / size[:, None]


def margins(matrix: Float[Tensor, "d d"], size: Sequence[int]) -> tuple[int, ...]:
    """Return how many voxels more, on each side, must be read to fill a turned patch of `size` (negative: fewer)."""
    half = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    missing = matrix.abs() @ half - half
    return tuple(torch.ceil(missing - 1e-9).int().tolist())


def warp(
    image: Float[Tensor, "c *box"],
    labels: Int[Tensor, "*box"],
    matrix: Float[Tensor, "d d"],
    size: Sequence[int],
    *,
    nearest: bool = False,
) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
    """Read a turned patch of `size` out of the middle of a box: image linear, or `nearest` as labels are."""
    half_out = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    half_in = (torch.tensor(labels.shape, dtype=torch.float64) - 1).clamp(min=1) / 2
    theta = matrix * half_out[None, :] / half_in[:, None]
    theta = torch.cat([theta.flip(0, 1), theta.new_zeros(len(size), 1)], 1).float()  # grid_sample counts x, y, z
    grid = torch.nn.functional.affine_grid(theta[None], [1, 1, *size], align_corners=True)

    def sample(values: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
        return torch.nn.functional.grid_sample(values[None], grid, mode, "border", align_corners=True)[0]

    return sample(image, "nearest" if nearest else "bilinear"), sample(labels[None].float(), "nearest")[0].to(
        labels.dtype
    )


def quarter_turn(
    image: Float[Tensor, "c *s"], labels: Int[Tensor, "*s"], generator: Generator
) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
    """Turn by a random number of quarters in the plane of the last two axes, then flip along one of these.

    A patch that is not square is turned by halves.
    """
    step = 1 if labels.shape[-1] == labels.shape[-2] else 2
    turns, axis = step * int(4 * uniform(generator)), -1 - below(0.5, generator)
    return torch.rot90(image, turns, (-2, -1)).flip(axis), torch.rot90(labels, turns, (-2, -1)).flip(axis)


def mirror(
    image: Float[Tensor, "c *s"], labels: Int[Tensor, "*s"], how: Augmentation, generator: Generator
) -> tuple[Float[Tensor, "c *s"], Int[Tensor, "*s"]]:
    """Mirror along each allowed axis with probability 1/2; paired organs change their numbers."""
    axes = [axis for axis in how.mirror if uniform(generator) < 0.5]
    if not axes:
        return image, labels
    if how.swap_axis in axes:
        table = torch.tensor([*how.swap, -1], dtype=labels.dtype)  # index -1 is the last: not learnt stays so
        labels = table[labels.long().clamp(min=-1)]
    return image.flip([axis + 1 for axis in axes]), labels.flip(axes)


def change_intensities(image: Float[Tensor, "c *s"], how: Augmentation, generator: Generator) -> Float[Tensor, "c *s"]:
    """Apply each change of intensity with its probability, in order."""
    for probability, change in how.intensity:
        if uniform(generator) < probability:
            image = change(image, generator)
    return image


def _turn(config: Config, kind: Changes, seed: int) -> Turn | None:
    plane = _plane(config.patch, config.spacing)
    if kind == "none":
        return None
    flat = tuple(range(config.dim))[-2:]
    if kind == "isic":
        angle = uniform(Generator().manual_seed(seed), 0.0, 2 * pi)
        return Turn(0.5, pi, 0.0, 1.0, 1.0, flat, fixed=angle, nearest=True)
    if kind == "synapse":
        return Turn(0.5, pi / 9, 0.0, 1.0, 1.0, flat, whole=True, nearest=True)
    if kind == "nnunet":
        return _nnunet_turn(config.patch)
    return _our_turn(config, kind, plane)


def _nnunet_turn(patch: Sequence[int]) -> Turn:
    """Return nnU-Net 2.1.1's, `configure_rotation_dummyDA_mirroring_and_inital_patch_size`."""
    plane, angle = tuple(range(len(patch))), pi / 6
    if len(patch) == 2:
        angle = pi if max(patch) <= 1.5 * min(patch) else pi / 12
    elif max(patch) > ANISOTROPIC * patch[0]:
        plane, angle = (1, 2), pi
    return Turn(0.2, angle, 0.2, 0.7, 1.4, plane, inverse=True)


def _our_turn(config: Config, kind: Changes, plane: tuple[int, ...]) -> Turn:
    sides = [config.patch[axis] for axis in plane]
    if len(plane) == 3:
        angle = pi / 12 if kind == "light" else pi / 6
    else:
        angle = pi if max(sides) <= 1.5 * min(sides) else pi / 12
        # What is never mirrored is not seen upside down either.
        upright = kind == "light" or (kind == "full" and not config.mirror)
        angle = min(angle, pi / 6) if upright else angle
    if kind != "light":
        return Turn(0.2, angle, 0.2, 0.7, 1.4, plane)
    return Turn(0.3, angle, 0.3, 0.8, 1.25, plane)


def _plane(patch: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the axes in which a patch is turned: all, or in 3D those besides a coarse or thin first one."""
    axes = tuple(range(len(patch)))
    if len(patch) == 3:
        coarse = max(axes, key=lambda axis: spacing[axis])
        thin = min(axes, key=lambda axis: patch[axis])
        if max(spacing) / min(spacing) > ANISOTROPIC:
            return tuple(axis for axis in axes if axis != coarse)
        if max(patch) / min(patch) > ANISOTROPIC:
            return tuple(axis for axis in axes if axis != thin)
    return axes


def _planes(axes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return ((axes[0], axes[1]),) if len(axes) == 2 else ((1, 2), (0, 2), (0, 1))


def _rotation(dim: int, one: int, other: int, angle: float) -> Float[Tensor, "d d"]:
    matrix = torch.eye(dim, dtype=torch.float64)
    matrix[one, one] = matrix[other, other] = cos(angle)
    matrix[one, other], matrix[other, one] = -sin(angle), sin(angle)
    return matrix


def _angle(turn: Turn, generator: Generator) -> float:
    if turn.fixed is not None:
        return turn.fixed
    if turn.whole:
        limit = round(degrees(turn.angle))
        return radians(limit - int(2 * limit * uniform(generator)))  # scipy's rotate counts the other way
    return uniform(generator, -turn.angle, turn.angle)


def _zoom(turn: Turn, generator: Generator) -> float:
    """Draw a scale; growing and shrinking are equally likely, as in batchgenerators."""
    low, high = (turn.smallest, 1.0) if below(0.5, generator) else (1.0, turn.largest)
    drawn = uniform(generator, low, high)
    return 1 / drawn if turn.inverse else drawn
