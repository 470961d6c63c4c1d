"""The shape of a U-Net and of its patch: stages, strides, kernels, and how large a patch the memory holds.

The rules and their constants are those of nnU-Net (Isensee et al., Nature Methods 18, 2021, and its
planner of version 2), so that plans agree; the wording and the code are ours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST_EDGE = 4  # voxels along an axis at the deepest stage
WIDTH = 32  # features of the first stage in nnU-Net
MOST_FEATURES = {2: 512, 3: 320}
CONVS = 2  # convolutions a stage, on the way down and on the way up
START_VOXELS = {2: 2048**2, 3: 256**3}  # of the patch that the search starts from
MEMORY = 8.0  # (GiB) the memory that the two lines below were set for
REFERENCE_VALUES = {2: 85e6, 3: 560e6}  # feature values of nnU-Net's reference network
REFERENCE_BATCH = {2: 12, 3: 2}  # and its batch
DATASET_SHARE = 0.05  # of all voxels, that one batch may show
LEAST_BATCH = 2


@dataclass(frozen=True, slots=True)
class Topology:
    """Strides and kernels of each stage, for a patch whose sides the strides divide.

    Attributes:
        patch: (voxels).
        strides: one entry a stage; the first is all ones.
        kernels: one entry a stage.
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def voxels(self) -> int:
        """Voxels of the patch."""
        return math.prod(self.patch)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each side of the patch is a multiple of."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


def topology(spacing: Sequence[float], size: Sequence[float]) -> Topology:
    """Halve the axes stage by stage until every one is short.

    A stage halves the axes that have at least 8 voxels left and whose spacing is less than twice the finest of
    those, so that voxels become cubes before cubes become larger. A lone axis is halved only from 12 voxels
    on. A kernel is 3 wide along an axis as soon as its spacing is less than twice the finest, and stays so. The
    patch is `size`, rounded up to multiples of the strides.
    """
    dim = len(spacing)
    spacings, sizes = list(spacing), list(size)
    strides, kernels, kernel = [(1,) * dim], [], (1,) * dim
    while axes := _halved(spacings, sizes):
        finest = min(spacings)
        kernel = tuple(3 if k == 3 or s / finest < 2 else 1 for k, s in zip(kernel, spacings, strict=True))
        kernels.append(kernel)
        strides.append(tuple(2 if axis in axes else 1 for axis in range(dim)))
        for axis in axes:
            spacings[axis] *= 2
            sizes[axis] = math.ceil(sizes[axis] / 2)
    kernels.append((3,) * dim)
    divisor = [math.prod(axis) for axis in zip(*strides, strict=True)]
    patch = tuple(math.ceil(n / d) * d for n, d in zip(size, divisor, strict=True))
    return Topology(patch, tuple(strides), tuple(kernels))


NARROW = 8  # times its width is the most that a stage of a smaller network has


def features(stages: int, dim: int, width: int = WIDTH) -> tuple[int, ...]:
    """Double the features from stage to stage, up to nnU-Net's limit; below its width, up to eight times the width."""
    # Few images fill no more: 600 steps on 43 chest X-rays, width 16, gave a validation Dice of 0.911 with 256
    # features in the deepest stages and 0.910 to 0.913 with 128, in less time and with a fifth of the parameters.
    most = MOST_FEATURES[dim] if width >= WIDTH else NARROW * width
    return tuple(min(most, width * 2**stage) for stage in range(stages))


def feature_values(plan: Topology, classes: int) -> int:
    """Count the values in all feature maps of nnU-Net's plain U-Net for one patch, the measure of its memory."""
    size = plan.patch
    total, finest = 0, math.prod(size)
    widths = features(len(plan.strides), len(size))
    for stage, (width, stride) in enumerate(zip(widths, plan.strides, strict=True)):
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        maps = CONVS if stage == len(widths) - 1 else CONVS + CONVS + 1  # down, up, and the transposed convolution
        total += maps * width * math.prod(size)
    return total + classes * finest


def smaller_patches(spacing: Sequence[float], shape: Sequence[float]) -> Iterator[Topology]:
    """Yield topologies from the largest sensible patch downwards.

    The first has the proportions of a cube in the world and is not larger than a median case, `shape`. Each
    next one is a step shorter along the axis that covers most of the case; other sides may be rounded up anew,
    and what does not become smaller by that is passed over.
    """
    plan = topology(spacing, _first_patch(spacing, shape))
    least, seen = math.inf, set()
    while plan.patch not in seen:
        seen.add(plan.patch)
        if plan.voxels < least:
            least = plan.voxels
            yield plan
        axis = max(range(len(shape)), key=lambda a: (plan.patch[a] / shape[a], a))
        once = [n - (plan.divisor[axis] if a == axis else 0) for a, n in enumerate(plan.patch)]
        if once[axis] < 1:
            return
        # The step is that of the smaller topology, or sizes such as 224 between 256 and 192 would be missed.
        step = topology(spacing, once).divisor[axis]
        plan = topology(spacing, [n - (step if a == axis else 0) for a, n in enumerate(plan.patch)])


def fitted(spacing: Sequence[float], shape: Sequence[float], classes: int, memory: float) -> Topology:
    """Return nnU-Net's topology: the largest patch of which a batch of two fits into `memory` (GiB) of a GPU."""
    most = REFERENCE_VALUES[len(spacing)] * REFERENCE_BATCH[len(spacing)] / LEAST_BATCH * memory / MEMORY
    plan = topology(spacing, _first_patch(spacing, shape))
    for plan in smaller_patches(spacing, shape):
        if feature_values(plan, classes) <= most:
            return plan
    return plan


def batch_size(plan: Topology, voxels: float, classes: int, memory: float) -> int:
    """Return nnU-Net's batch: as fits into `memory` (GiB), at most a twentieth of all `voxels`, and at least two."""
    dim = len(plan.patch)
    reference = REFERENCE_VALUES[dim] * memory / MEMORY
    fits = round(reference / feature_values(plan, classes) * REFERENCE_BATCH[dim])
    share = round(voxels * DATASET_SHARE / plan.voxels)
    return max(min(fits, share), LEAST_BATCH)


def memory_of(plan: Topology, batch: int, classes: int) -> float:
    """Return what nnU-Net's measure says a batch needs on a GPU (GiB)."""
    dim = len(plan.patch)
    return MEMORY * feature_values(plan, classes) * batch / (REFERENCE_VALUES[dim] * REFERENCE_BATCH[dim])


def _first_patch(spacing: Sequence[float], shape: Sequence[float]) -> list[float]:
    dim = len(spacing)
    edge = (START_VOXELS[dim] * math.prod(spacing)) ** (1 / dim)
    size = [min(round(edge / s), n) for s, n in zip(spacing, shape, strict=True)]
    # A U-Net has two stages at least: tiny images are padded until an axis can be halved.
    return size if len(topology(spacing, size).strides) > 1 else [max(n, 3 * LEAST_EDGE) for n in size]


def _halved(spacings: Sequence[float], sizes: Sequence[float]) -> tuple[int, ...]:
    long = [axis for axis, size in enumerate(sizes) if size >= 2 * LEAST_EDGE]
    if not long:
        return ()
    finest = min(spacings[axis] for axis in long)
    axes = tuple(axis for axis in long if spacings[axis] / finest < 2)
    if len(axes) == 1 and sizes[axes[0]] < 3 * LEAST_EDGE:
        return ()
    return axes
