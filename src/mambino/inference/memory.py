"""How a case is segmented within a limit of memory: which arrays go to disk, and in which parts scores are made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from math import ceil, prod
from pathlib import Path

import torch

from mambino.core.machine import memory, resident
from mambino.core.plan import NetworkSpec
from mambino.core.records import dump, parse
from mambino.errors import Error, OptionError
from mambino.imageio import FORMATS, nifti, suffix
from mambino.inference.sliding import windows
from mambino.models.cost import activation_bytes
from mambino.ops.resample import BRICK
from mambino.ops.windows import Span
from mambino.preprocessing.case import Prepared
from mambino.weights.bundle import Bundle

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
SHARE = 0.9
"""Part of the free memory of the machine that is taken at most."""
SMALLEST = 8
"""Voxels along an axis below which a part is not cut any more."""
HELD = 5
"""Copies of the unfinished rows of scores: themselves, moved on, divided, joined, and resized along an axis."""
AROUND = 2.5
"""Memory of a network's pass over that of its tensors: what libraries need inside an operation, and fragments."""
FIXED = 3 * BRICK + 96 * 2**20
"""Bytes for bricks of scores at the size of the image, and for the slabs in which an image is prepared."""
COPIES = 12
"""Bytes a voxel that preparing an image takes beside the voxels as they are stored: float32, normalised, resized."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one case may take beside what the program holds already (bytes).

    Attributes:
        bytes: in all.
        asked: the limit as the user gave it; empty where it is what the machine has.
    """

    bytes: float
    asked: str = ""


def allowance(limit: str | None) -> Allowance:
    """Return what may be taken from now on: the limit less what is held, and never more than the machine has."""
    free = SHARE * GIB * memory()
    if limit is None:
        return Allowance(free)
    return Allowance(min(free, size_of(limit) - GIB * resident()), limit)


def size_of(text: str) -> float:
    """Return the bytes of "4G", "1.5 GiB", "800M" or "4000000000".

    Raises:
        OptionError: it is no such size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise OptionError(f"--memory {text} is no size", hint="write --memory 4G, or 800M")
    return float(found[1]) * UNITS[found[2].upper()]


def fits(voxels: int, itemsize: int, allowed: Allowance) -> bool:
    """Tell whether the arrays of an image of so many voxels, all channels counted, fit into half of what is allowed."""
    return voxels * (itemsize + COPIES) <= allowed.bytes / 2


def stored(images: Sequence[Path]) -> tuple[int, int]:
    """Return the voxels of an image and their bytes, from the headers of its files; (0, 0) where they do not say."""
    voxels, size = 0, 0
    for path in images:
        if not path.is_file() or FORMATS.get(suffix(path)) != "nifti":
            return 0, 0
        try:
            shape, kind = nifti.stored(path)
        except Error:  # said when it is read
            return 0, 0
        voxels, size = voxels + prod(shape), max(size, kind.itemsize)
    return voxels, size


def parts_of(prepared: Prepared, bundles: Sequence[Bundle], allowed: Allowance) -> list[Span]:
    """Return the parts, along all axes but the first of the cropped grid, in which scores fit into what is allowed.

    Args:
        prepared: the image.
        bundles: that are averaged, on a processor.
        allowed: from `allowance`, with what is in memory of the image there already.

    Raises:
        OptionError: not even the smallest part fits; says what would do.
    """
    config, classes = bundles[0].config, bundles[0].labels.out_channels
    patch, batch = windows(config, prepared.array.shape[1], torch.device("cpu"))
    fixed = FIXED + max(_pass(bundle, batch * prod(patch)) for bundle in bundles)
    column = 4 * HELD * len(bundles) * classes * patch[0]
    shape, counts = prepared.cropped.shape[1:], [1] * (len(patch) - 1)
    while (needed := fixed + column * _area(prepared, patch, counts)) > allowed.bytes:
        sizes = [ceil(size / count) for size, count in zip(shape, counts, strict=True)]
        if max(sizes) <= SMALLEST:
            held = (size_of(allowed.asked) if allowed.asked else GIB * resident() + allowed.bytes) - allowed.bytes
            raise OptionError(
                f"--memory {allowed.asked or f'{allowed.bytes / GIB:.1f}G, which the machine has,'} is too little for "
                f"windows of {config.patch} and {classes} classes",
                hint=f"the least that would do is about {ceil(10 * (needed + held) / GIB) / 10:.1f}G",
            )
        counts[sizes.index(max(sizes))] += 1
    return [tuple(spans) for spans in product(*map(_cut, shape, counts))]


def _pass(bundle: Bundle, voxels: int) -> float:
    """Estimate what a network needs for so many voxels at once, beside its weights (bytes)."""
    patch = bundle.config.patch
    return AROUND * _tensors(dump(bundle.config.network), patch, max(1, voxels // prod(patch)))


@lru_cache(maxsize=64)
def _tensors(network: str, patch: tuple[int, ...], count: int) -> int:
    """Return the bytes of all tensors of a pass at their peak; half a second of work, so once for all cases."""
    return activation_bytes(parse(NetworkSpec, network, "the bundle"), patch, count, training=False)


def _area(prepared: Prepared, patch: Sequence[int], counts: Sequence[int]) -> int:
    """Return the voxels, of all axes but the first, of the windows that touch a part."""
    sides = []
    for size, inputs, side, count in zip(
        prepared.cropped.shape[1:], prepared.grid.shape[1:], patch[1:], counts, strict=True
    ):
        part = ceil(ceil(size / count) * inputs / size) + 2
        sides.append(max(side, inputs if count == 1 else min(inputs, part + 2 * (side - 1))))
    return prod(sides)


def _cut(size: int, count: int) -> list[tuple[int, int]]:
    """Cut an axis into so many parts of nearly one size."""
    return list(pairwise(round(size * i / count) for i in range(count + 1)))
