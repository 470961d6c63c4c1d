"""Outlines of a mask along the edges of its pixels: closed polygons without holes.

Points count rows and columns at the corners of pixels: pixel (i, j) lies between (i, j) and (i + 1, j + 1). A polygon
goes clockwise as rows count down the page. Pixels that touch at a corner only belong to different polygons. A hole is
joined to what surrounds it by a channel without width, as radiotherapy systems expect: whoever asks of the centre of
each pixel whether it is inside gets the mask back.
"""

from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]

_RIGHT_OF = {(0, 1): (1, 0), (1, 0): (0, -1), (0, -1): (-1, 0), (-1, 0): (0, 1)}


def polygons(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Return the outlines of a [rows, columns] mask, one for each group of pixels that share edges."""
    loops = _loops(_edges(mask))
    outer = [loop for loop in loops if _area(loop) > 0]
    holes = sorted((_from_top(loop) for loop in loops if _area(loop) < 0), key=lambda loop: loop[0])
    at = {point: loop for loop in outer for point in loop}
    merged = {id(loop): loop for loop in outer}
    owner = {id(loop): id(loop) for loop in outer}
    for hole in holes:
        start = hole[0]
        point = _above(start, at)
        whole = merged[owner[id(at[point])]]
        k = whole.index(point)
        whole[k:k] = [point, *hole, start]
        owner[id(hole)] = owner[id(at[point])]
        at |= {corner: hole for corner in hole if corner not in at}
    return [_corners(loop) for loop in merged.values()]


def _edges(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Return where the edges go that start at each corner, the mask on their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides: tuple[tuple[NDArray[np.bool_], Point, Point], ...] = (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),  # above: along the top to the right
        (padded[1:-1, 2:], (0, 1), (1, 1)),  # right: down
        (padded[2:, 1:-1], (1, 1), (1, 0)),  # below: to the left
        (padded[1:-1, :-2], (1, 0), (0, 0)),  # left: up
    )
    edges: dict[Point, list[Point]] = {}
    for beside, begin, end in sides:
        for i, j in np.argwhere(inside & ~beside).tolist():
            edges.setdefault((i + begin[0], j + begin[1]), []).append((i + end[0], j + end[1]))
    return edges


def _loops(edges: dict[Point, list[Point]]) -> list[list[Point]]:
    """Follow the edges to closed loops; where two go on, the right turn stays with the pixel that one came along."""
    loops = []
    while edges:
        start = next(iter(edges))
        loop, here = [start], edges[start][-1]
        before = start
        _take(edges, start, here)
        while here != start or _turn(before, here) in edges.get(here, ()):
            loop.append(here)
            ahead = edges[here]
            turn = _turn(before, here)
            following = turn if turn in ahead else ahead[0]
            _take(edges, here, following)
            before, here = here, following
        loops.append(loop)
    return loops


def _turn(before: Point, here: Point) -> Point:
    """Return where one comes when turning right."""
    step = _RIGHT_OF[here[0] - before[0], here[1] - before[1]]
    return here[0] + step[0], here[1] + step[1]


def _take(edges: dict[Point, list[Point]], begin: Point, end: Point) -> None:
    edges[begin].remove(end)
    if not edges[begin]:
        del edges[begin]


def _area(loop: list[Point]) -> int:
    """Return twice the area inside: positive clockwise, for outlines; negative for holes."""
    ahead = (*loop[1:], loop[0])
    return sum(x1 * y2 - x2 * y1 for (y1, x1), (y2, x2) in zip(loop, ahead, strict=True))


def _from_top(loop: list[Point]) -> list[Point]:
    """Return a loop that begins at the leftmost of its topmost points."""
    k = loop.index(min(loop))
    return loop[k:] + loop[:k]


def _above(start: Point, at: Container[Point]) -> Point:
    """Return the first corner of another outline straight above the top of a hole; the mask lies between them."""
    row, column = start
    while True:
        row -= 1
        if (row, column) in at:
            return row, column


def _corners(loop: list[Point]) -> list[Point]:
    """Leave out points at which the outline goes straight on."""
    around = zip((loop[-1], *loop[:-1]), loop, (*loop[1:], loop[0]), strict=True)
    return [
        b for a, b, c in around if (_sign(b[0] - a[0]), _sign(b[1] - a[1])) != (_sign(c[0] - b[0]), _sign(c[1] - b[1]))
    ]


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
