"""How much surface passes between neighbouring voxels: marching cubes without the triangles.

Take the 2 x 2 x 2 voxels that meet at a corner. Which of them are inside is one of 256 codes, and the code
alone says which surface passes between their centres (Lorensen and Cline, 1987): it crosses each edge
from an inside to an outside centre half way. The area of each code is computed once a spacing, and a lookup then gives
the area at every corner of an image. In 2D: 2 x 2 pixels, 16 codes, lengths.

The rules below give the areas that DeepMind's surface-distance tabulates (`tests/metrics/test_surfel.py`).
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Corner = tuple[int, ...]
Edge = frozenset[Corner]  # the two corners it joins
Triangle = tuple[int, int, int]

_RING: tuple[Corner, ...] = ((0, 0), (0, 1), (1, 1), (1, 0))  # the corners of a face, all the way round


def surfels(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the surface area (2D: contour length) at each inner corner of the voxels.

    Args:
        mask: [*s] voxels; a surface along the outer faces is not seen, so pad with background first.
        spacing: of the voxels, one entry an axis.

    Returns:
        [*(s - 1)] areas in the squared unit of `spacing`; entry i lies between voxels i and i + 1.
    """
    codes = np.zeros(tuple(n - 1 for n in mask.shape), dtype=np.uint8)
    for bit, corner in enumerate(_corners(mask.ndim)):
        part = mask[tuple(slice(c, n - 1 + c) for c, n in zip(corner, mask.shape, strict=True))]
        codes |= part.astype(np.uint8) << bit
    return _table(spacing)[codes]


@lru_cache(maxsize=64)
def _table(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the area of each code, [16] or [256]; bit i of a code is corner i."""
    dim = len(spacing)
    codes, points = _pieces(dim)
    sides = np.diff(points * np.asarray(spacing), axis=1)
    areas = np.linalg.norm(sides[:, 0] if dim == 2 else np.cross(sides[:, 0], sides[:, 1]) / 2, axis=-1)
    return np.bincount(codes, areas, minlength=2**2**dim).astype(np.float64)


@cache
def _pieces(dim: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what the surface of every code is made of, on cubic voxels of side 1.

    Returns:
        [n] the code of each line (2D) or triangle (3D), and [n, dim, dim] its end points.
    """
    corners = _corners(dim)
    found: list[tuple[int, list[NDArray[np.float64]]]] = []
    for code in range(2 ** len(corners)):
        inside = {c for bit, c in enumerate(corners) if code >> bit & 1}
        pieces = _crossings(_RING, inside) if dim == 2 else _triangles(inside)
        found += [(code, [_middle(edge) for edge in piece]) for piece in pieces]
    return np.array([code for code, _ in found]), np.array([points for _, points in found])


def _corners(dim: int) -> list[Corner]:
    return list(product((0, 1), repeat=dim))


def _middle(edge: Edge) -> NDArray[np.float64]:
    return np.asarray(np.asarray(list(edge), dtype=np.float64).mean(axis=0))


def _triangles(inside: set[Corner]) -> list[tuple[Edge, Edge, Edge]]:
    # Swapping inside and outside leaves the surface in place: the fewer are cut off.
    if len(inside) > 4:
        inside = set(_corners(3)) - inside
    return [(loop[i], loop[j], loop[k]) for loop in _loops(inside) for i, j, k in _cut(loop)]


def _crossings(ring: tuple[Corner, ...], inside: set[Corner]) -> list[tuple[Edge, Edge]]:
    """Return the lines in which the surface meets one face, each from edge to edge.

    Where two opposite corners are inside, each of them is cut off by itself.
    """
    edges = [frozenset((ring[i], ring[(i + 1) % 4])) for i in range(4)]
    crossed = [edge for edge in edges if len(edge & inside) == 1]
    if len(crossed) == 4:
        return [(edges[i - 1], edges[i]) for i in range(4) if ring[i] in inside]
    return [(crossed[0], crossed[1])] if crossed else []


def _faces() -> Iterator[tuple[Corner, ...]]:
    for axis, side in product(range(3), (0, 1)):
        yield tuple((*corner[:axis], side, *corner[axis:]) for corner in _RING)


def _loops(inside: set[Corner]) -> list[list[Edge]]:
    """Join the lines on the six faces to closed polygons."""
    links: dict[Edge, list[Edge]] = {}
    for face in _faces():
        for first, second in _crossings(face, inside):
            links.setdefault(first, []).append(second)
            links.setdefault(second, []).append(first)
    loops = []
    while links:
        start = next(iter(links))
        loop, ahead = [start], links.pop(start)[0]
        while ahead != start:
            loop.append(ahead)
            ahead = next((edge for edge in links.pop(ahead) if edge in links), start)
        loops.append(loop)
    return loops


def _cut(loop: list[Edge]) -> tuple[Triangle, ...]:
    """Cut a polygon into triangles: those of the largest area on cubic voxels, the first of equals.

    Most polygons do not lie in a plane, so their area depends on the cut; this one is that of the published table,
    and it must not change with the spacing.
    """
    points = np.array([_middle(edge) for edge in loop])

    def cut(first: int, last: int) -> tuple[float, tuple[Triangle, ...]]:
        best: tuple[float, tuple[Triangle, ...]] = (0.0, ())
        for apex in range(first + 1, last):
            left, right, triangle = cut(first, apex), cut(apex, last), (first, apex, last)
            area = round(left[0] + right[0] + _triangle_area(points, triangle), 6)
            if area > best[0]:
                best = (area, (*left[1], *right[1], triangle))
        return best

    return cut(0, len(loop) - 1)[1]


def _triangle_area(points: NDArray[np.float64], triangle: Triangle) -> float:
    a, b, c = points[list(triangle)]
    return float(np.linalg.norm(np.cross(b - a, c - a))) / 2
