"""How a case is segmented within a limit of memory: which arrays go to disk, and in which parts scores are made."""

import re
from bisect import bisect_left, bisect_right
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
from mambino.ops.windows import Span, positions
from mambino.preprocessing.case import Prepared
from mambino.weights.bundle import Bundle

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
SHARE = 0.9
"""Part of the free memory of the machine that is taken at most."""
SMALL = 0.125
"""Part of what is allowed that a case may take which shares the memory with two others, one read and one written."""
PACKED = 16
"""Bytes that become of a byte of a file whose header is not read here."""
SMALLEST = 8
"""Voxels along an axis below which a part is not cut any more."""
BLOCKS = 4
"""Of finished scores that exist at a time: divided, joined, resized, and resized along an axis alone."""
AROUND = 2.5
"""Memory of a network's pass over that of its tensors: what libraries need inside an operation, and fragments."""
FIXED = 96 * 2**20
"""Bytes for the slabs in which an image is prepared."""
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


def taken(images: Sequence[Path]) -> float:
    """Estimate the bytes that the arrays of an image take, in these files or folders."""
    voxels, size = stored(images)
    if voxels:
        return voxels * (size + COPIES)
    files = [file for path in images for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
    return PACKED * sum(file.stat().st_size for file in files)


def parts_of(prepared: Prepared, bundles: Sequence[Bundle], allowed: Allowance, overlap: float) -> list[Span]:
    """Return the parts, along all axes but the first of the cropped grid, in which scores fit into what is allowed.

    Windows that reach over a seam are computed for both its sides, so seams lie where few windows do.

    Args:
        prepared: the image.
        bundles: that are averaged, on a processor.
        allowed: from `allowance`, with what is in memory of the image there already.
        overlap: of neighbouring windows, as a share of the patch.

    Raises:
        OptionError: not even the smallest part fits; says what would do.
    """
    config, classes = bundles[0].config, bundles[0].labels.out_channels
    patch, batch = windows(config, prepared.array.shape[1], torch.device("cpu"))
    fixed = FIXED + max(_pass(bundle, batch * prod(patch)) for bundle in bundles)
    sides = zip(prepared.cropped.shape[1:], prepared.grid.shape[1:], patch[1:], strict=True)
    axes = [_Side(size, inputs, window, overlap) for size, inputs, window in sides]
    counts = [1] * len(axes)
    while True:
        cuts = [axis.cuts(count) for axis, count in zip(axes, counts, strict=True)]
        row = 4 * classes * prod(axis.widest(cut) for axis, cut in zip(axes, cuts, strict=True))
        block = min(max(BRICK, row), row * max(prepared.cropped.shape[0], prepared.grid.shape[0]))
        needed = fixed + len(bundles) * patch[0] * row + (BLOCKS + len(bundles)) * block
        if needed <= allowed.bytes:
            return [tuple(spans) for spans in product(*map(pairwise, cuts))]
        sizes = [max(high - low for low, high in pairwise(cut)) for cut in cuts]
        if max(sizes) <= SMALLEST:
            held = (size_of(allowed.asked) if allowed.asked else GIB * resident() + allowed.bytes) - allowed.bytes
            raise OptionError(
                f"--memory {allowed.asked or f'{allowed.bytes / GIB:.1f}G, which the machine has,'} is too little for "
                f"windows of {config.patch} and {classes} classes",
                hint=f"the least that would do is about {ceil(10 * (needed + held) / GIB) / 10:.1f}G",
            )
        counts[sizes.index(max(sizes))] += 1


@dataclass(frozen=True, slots=True)
class _Side:
    """An axis along which an image is cut, and the windows along it.

    Attributes:
        size: voxels of the cropped grid.
        inputs: voxels of the prepared grid.
        window: voxels of a window.
        overlap: of windows, as a share of them.
    """

    size: int
    inputs: int
    window: int
    overlap: float

    def cuts(self, count: int) -> list[int]:
        """Return the ends of `count` parts of nearly one size, each moved by up to half a step to where few windows are
        computed twice; fewer parts where two ends meet.
        """
        starts = self._starts()
        step = starts[1] - starts[0] if len(starts) > 1 else 0
        reach = round(min(step * self.size / self.inputs, self.size / count) / 2)

        def twice(end: int) -> int:
            return self._touching(0, end)[1] - self._touching(end, self.size)[0]

        ends = {0, self.size}
        for number in range(1, count):
            even = round(self.size * number / count)
            near = range(max(1, even - reach), min(self.size, even + reach + 1))
            ends.add(min(near, key=lambda end: (twice(end), abs(end - even)), default=even))
        return sorted(ends)

    def widest(self, cut: Sequence[int]) -> int:
        """Return the voxels of the widest part: of the windows that touch it, or at the size of the image."""
        starts, most = self._starts(), 0
        for low, high in pairwise(cut):
            first, last = self._touching(low, high)
            most = max(most, starts[last] + self.window - starts[first], high - low)
        return most

    def _starts(self) -> list[int]:
        return [start for (start,) in positions((self.inputs,), (self.window,), self.overlap)]

    def _touching(self, low: int, high: int) -> tuple[int, int]:
        """Return the first and the last of the windows that the voxels of a part are made of."""
        scale, starts = self.inputs / self.size, self._starts()
        first, stop = ceil((low + 0.5) * scale - 0.5 - 1), ceil((high - 0.5) * scale + 0.5)
        if self.inputs == self.size:
            first, stop = low, high
        inside = bisect_right(starts, max(first, 0) - self.window), bisect_left(starts, min(stop, self.inputs)) - 1
        return min(inside[0], len(starts) - 1), max(inside[1], 0)


def _pass(bundle: Bundle, voxels: int) -> float:
    """Estimate what a network needs for so many voxels at once, beside its weights (bytes)."""
    patch = bundle.config.patch
    return AROUND * _tensors(dump(bundle.config.network), patch, max(1, voxels // prod(patch)))


@lru_cache(maxsize=64)
def _tensors(network: str, patch: tuple[int, ...], count: int) -> int:
    """Return the bytes of all tensors of a pass at their peak; half a second of work, so once for all cases."""
    return activation_bytes(parse(NetworkSpec, network, "the bundle"), patch, count, training=False)
