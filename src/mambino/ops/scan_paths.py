"""In which orders scans read an image: along each axis, forwards and backwards."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def scan_paths(space: Sequence[int], device: torch.device | str = "cpu") -> Int[Tensor, "k l"]:
    """Return the token of each step for each of twice as many paths as there are axes.

    The first half read along the last axis (by rows), then the one before it (by columns), and so on; the
    second half are these, backwards: the order of VMamba's four directions (arXiv 2401.10166), and of six in 3D.
    """
    tokens = torch.arange(_product(space), dtype=torch.int32, device=device).view(*space)
    forward = [tokens.movedim(axis, -1).flatten() for axis in range(len(space) - 1, -1, -1)]
    return torch.stack([*forward, *(path.flip(0) for path in forward)])


def _product(space: Sequence[int]) -> int:
    total = 1
    for side in space:
        total *= side
    return total
