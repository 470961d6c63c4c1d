"""Whether points lie in a polygon, by counting the edges to one side: the rule that readers of contours follow."""

import numpy as np


def inside(polygon, points) -> np.ndarray:
    """Return for each of [n, 2] points whether it lies in a closed polygon, by even and odd."""
    y, x = np.asarray(points, float).T
    found = np.zeros(len(y), bool)
    for (y1, x1), (y2, x2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        between = (y1 > y) != (y2 > y)
        if between.any():
            found ^= between & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return found
