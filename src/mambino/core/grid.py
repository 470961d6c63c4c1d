"""Where voxels are in the patient.

Axes are ordered slowest first, (z, y, x) for a volume and (y, x) for a slice, in every array, shape
and spacing of this package, and so are the columns of an affine. Its rows are the world, in
millimetres and in the order R, A, S (x, y in 2D). Letters of an orientation, as "RAS", name the
fastest axis first, as the field writes them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mambino.errors import DataError

_DIRECTIONS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The voxel lattice of an image: its size and its place in the world.

    Attributes:
        shape: number of voxels along each axis, slowest first.
        affine: [d+1, d+1] matrix from voxel index (slowest first) to world position.
        unit: what world distances are measured in; "pixel" where a file states no spacing.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    unit: Literal["mm", "pixel"] = "mm"

    def __post_init__(self) -> None:
        side = len(self.shape) + 1
        if self.affine.shape != (side, side):
            raise DataError(f"a grid of shape {self.shape} needs a {side}x{side} affine, got {self.affine.shape}")
        if min(self.shape) < 1:
            raise DataError(f"a grid needs at least one voxel along each axis, got {self.shape}")
        if not np.isfinite(self.affine).all():
            raise DataError("the affine holds values that are not finite")
        if abs(np.linalg.det(self.affine)) < 1e-12:
            raise DataError("the affine is singular: two axes of the image point the same way")

    @property
    def dim(self) -> int:
        """Number of axes: 2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis (mm, or pixels)."""
        return tuple(np.linalg.norm(self.affine[:-1, :-1], axis=0).tolist())

    @property
    def orientation(self) -> str:
        """The world direction that each axis runs closest to, fastest axis first: "RAS", "LPS"; "" in 2D."""
        if self.dim != 3:
            return ""
        axes, signs = _closest(self)
        return "".join(_DIRECTIONS[axis][sign > 0] for axis, sign in zip(axes[::-1], signs[::-1], strict=True))

    def crop(self, start: tuple[int, ...], shape: tuple[int, ...]) -> "Grid":
        """Return the part of the grid with `shape` voxels whose first voxel is `start` (negative: pads)."""
        return Grid(shape, _moved(self.affine, np.asarray(start, dtype=np.float64)), self.unit)

    def flip(self, axis: int) -> "Grid":
        """Return the grid read backwards along `axis`: the same voxels at the same places."""
        start = np.zeros(self.dim)
        start[axis] = self.shape[axis] - 1
        affine = _moved(self.affine, start)
        affine[:-1, axis] *= -1
        return Grid(self.shape, affine, self.unit)

    def transpose(self, axes: tuple[int, ...]) -> "Grid":
        """Return the grid with its axes in another order, as `numpy.transpose` orders an array."""
        return Grid(tuple(self.shape[a] for a in axes), self.affine[:, [*axes, self.dim]].copy(), self.unit)

    def resample(self, shape: tuple[int, ...]) -> "Grid":
        """Return a grid of `shape` voxels over the same box: outer voxel faces stay where they are."""
        scale = np.asarray(self.shape) / np.asarray(shape)
        affine = _moved(self.affine, scale / 2 - 0.5)
        affine[:-1, :-1] *= scale
        return Grid(shape, affine, self.unit)

    def close_to(self, other: "Grid", tolerance: float = 1e-2) -> bool:
        """Tell whether the voxels of both grids lie on one another to `tolerance` voxels, corner by corner."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(self.dim, -1)
        shift = (self.affine - other.affine)[:-1] @ np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.linalg.norm(shift, axis=0).max() <= tolerance * min(self.spacing))


def pixel_grid(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Grid:
    """Return an axis-aligned grid at the origin; without `spacing` (mm) it counts in pixels."""
    dim = len(shape)
    affine = np.eye(dim + 1)
    affine[:-1, :-1] = np.fliplr(np.diag((spacing or (1.0,) * dim)[::-1]))
    return Grid(shape, affine, "mm" if spacing else "pixel")


def orienting(grid: Grid, orientation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Say how to turn `grid` to an orientation: the order to transpose its axes to, then the axes to flip.

    Raises:
        DataError: `orientation` does not name three different directions.
    """
    wanted = directions(orientation)
    axes, signs = _closest(grid)
    order = tuple(axes.index(axis) for axis, _ in wanted)
    flips = tuple(i for i, (_, sign) in enumerate(wanted) if signs[order[i]] != sign)
    return order, flips


def directions(orientation: str) -> list[tuple[int, int]]:
    """Return the world axis and the sign that each letter of an orientation names, slowest axis first.

    Raises:
        DataError: `orientation` does not name three different directions.
    """
    wanted = [_direction(letter, orientation) for letter in orientation[::-1]]
    if sorted(axis for axis, _ in wanted) != [0, 1, 2]:
        raise DataError(f"an orientation names three different directions, such as RAS; got {orientation!r}")
    return wanted


def check_same_place(image: Grid, labels: Grid) -> None:
    """Refuse labels that do not lie on the voxels of their image.

    Raises:
        DataError: other numbers of voxels, or other places in the world where both state one.
    """
    hint = "mambino check DATA lists all such cases, and with --repair it mends a copy where that is safe"
    if image.shape != labels.shape:
        raise DataError(f"the image has {image.shape} voxels, its labels {labels.shape}", hint)
    if image.unit == labels.unit and not image.close_to(labels):
        raise DataError(
            f"the labels lie elsewhere than their image: affine {_rounded(labels)} and {_rounded(image)}", hint
        )


def _rounded(grid: Grid) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in grid.affine[:-1].tolist()]


def _direction(letter: str, orientation: str) -> tuple[int, int]:
    for axis, pair in enumerate(_DIRECTIONS):
        if letter in pair:
            return axis, 1 if letter == pair[1] else -1
    raise DataError(f"an orientation is made of the letters L R P A I S; got {orientation!r}")


def _moved(affine: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = affine.copy()
    affine[:-1, -1] += affine[:-1, :-1] @ start
    return affine


def _closest(grid: Grid) -> tuple[list[int], list[int]]:
    """For each voxel axis, the world axis it runs closest to and its sign; every world axis once."""
    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    # The nearest rotation settles ties in the same way for sheared and oblique grids (nibabel does so too).
    left, _, right = np.linalg.svd(cosines)
    rotation = left @ right
    axes, signs, free = [0, 0, 0], [1, 1, 1], rotation.copy()
    for _ in range(3):
        world, axis = np.unravel_index(np.abs(free).argmax(), free.shape)
        axes[axis], signs[axis] = int(world), 1 if rotation[world, axis] > 0 else -1
        free[world, :] = free[:, axis] = 0
    return axes, signs
