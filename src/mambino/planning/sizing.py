"""The largest network, patch and batch that a budget buys."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError
from mambino.planning.budget import Budget, wanted_steps
from mambino.planning.networks import Size, described, network, patch_of, sizes
from mambino.planning.rules import Chosen
from mambino.planning.timing import Clock, Cost, outline
from mambino.planning.topology import LEAST_BATCH, Topology, batch_size, fitted, memory_of, smaller_patches

RUNTIME = 0.5  # (GiB) torch itself, and the patches on their way
STATE = 16  # bytes a parameter: weight, gradient and two moments, in float32

# Short trainings that went well: batches of two of 40x56x40 in 3D, and of four of 256x256 in 2D.
STEP_VOXELS = {2: 4 * 256 * 256, 3: 2 * 40 * 56 * 40}
USEFUL_BATCH = 24  # small patches: more of them at once teach less than another step
LEAST_VOXELS = {2: 192 * 192, 3: 32 * 32 * 32}  # of a patch; below it a network sees no context
PROBE_VOXELS = {2: 128 * 128, 3: 24 * 24 * 24}  # of the patch that steps are timed on

# Little time goes into convolutions here, which torch computes slowly for a single small image, so a step of one patch
# costs half of a step of two. In a short training twice the steps teach such a network more: on held-out training cases
# of 40 hippocampi, after 1.6 minutes, they gave 0.786 where half of them with two patches gave 0.612.
SLOW_SCAN = ("lightm_unet", "lightm_unet_legacy")
MANY_STEPS = 2000  # of one patch each; in fewer, two patches a step teach such a network less


@dataclass(frozen=True, slots=True)
class Problem:
    """What a network has to fit: the data as a network of `dim` axes sees them.

    Attributes:
        dim: of the network.
        channels, classes: of images and logits.
        spacing, shape: of a median case on the grid of the network; halves of voxels are possible.
        voxels: of all training cases together.
    """

    dim: int
    channels: int
    classes: int
    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    voxels: float


Ladder = tuple[tuple[Topology, tuple[int, ...]], ...]
"""Topologies, each with the patch that a network takes for it, from large to small."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A network with its patch and batch, what a step costs, and why they were taken."""

    spec: Chosen[NetworkSpec]
    patch: Chosen[tuple[int, ...]]
    batch: Chosen[int]
    memory: Chosen[float]
    step: Chosen[float]


def fit(name: str, problem: Problem, budget: Budget, clock: Clock) -> Fit:
    """Choose size, patch and batch of a network.

    Without a limit of time: the published size, on the largest patch that the memory holds. With one: the
    largest size that gets enough steps of a useful batch, then the largest patch for it.

    Raises:
        OptionError: not even the smallest size and patch fit into the memory, or the parameters allowed.
    """
    ladder = tuple(_patches(name, problem))
    search = _Search(name, problem, budget, clock, _allowed(name, problem, budget, *ladder[0]), ladder)
    if budget.seconds is not None:
        return _fit_time(search, budget.seconds)
    return _fit_reference(search) if name == "unet" else _fit_memory(search)


@dataclass(frozen=True, slots=True)
class _Search:
    """What is searched: `allowed` sizes from small to large, and a `ladder` of patches from large to small."""

    name: str
    problem: Problem
    budget: Budget
    clock: Clock
    allowed: tuple[Size, ...]
    ladder: Ladder

    def spec(self, size: Size, plan: Topology, patch: tuple[int, ...]) -> NetworkSpec:
        return network(self.name, size, plan, patch, self.problem.channels, self.problem.classes)

    def cost(self, size: Size) -> Cost:
        """Measure a size on a patch small enough to be quick: a step costs as much as it has voxels."""
        # Where nothing can be timed, memory alone is measured, and that on any size.
        most = PROBE_VOXELS[self.problem.dim] // (1 if self.budget.timed else 8)
        small = [rung for rung in self.ladder if math.prod(rung[1]) <= most]
        plan, patch = small[0] if small else self.ladder[-1]
        cost = self.clock(self.spec(size, plan, patch), patch)
        largest = outline(self.spec(size, *self.ladder[0]))  # it may have more stages
        return replace(cost, parameters=largest.parameters)

    def memory_room(self, cost: Cost) -> float:
        """How many voxels a batch may have for its memory."""
        return (self.budget.memory - RUNTIME - STATE * cost.parameters / 2**30) * 2**30 / cost.memory

    def largest(self, cost: Cost, room: float) -> tuple[Topology, tuple[int, ...]]:
        """Return the largest patch of which a batch of two has room; the smallest useful one if none has."""
        for plan, patch in self.useful():
            if math.prod(patch) * LEAST_BATCH <= room:
                return plan, patch
        plan, patch = self.useful()[-1]
        voxels = math.prod(patch) * LEAST_BATCH
        if voxels > self.memory_room(cost):
            raise _too_large(self.name, _memory(cost, voxels).value, self.budget)
        return plan, patch

    def useful(self) -> Ladder:
        """Return the patches that show enough of the surroundings to learn from."""
        least = min(LEAST_VOXELS[self.problem.dim], math.prod(self.ladder[0][1]))
        return tuple(takewhile(lambda rung: math.prod(rung[1]) >= least, self.ladder))

    def reference_batch(self, plan: Topology) -> int:
        return batch_size(plan, self.problem.voxels, self.problem.classes, self.budget.memory)

    def useful_batch(self, plan: Topology, voxels: int) -> int:
        """Return how many patches of so many voxels are worth their time where time is short."""
        most = max(LEAST_BATCH, STEP_VOXELS[self.problem.dim] // voxels)
        return min(self.reference_batch(plan), most, USEFUL_BATCH)


def _patches(name: str, problem: Problem) -> Iterator[tuple[Topology, tuple[int, ...]]]:
    """Yield the rungs of the ladder."""
    last: tuple[int, ...] = ()
    plans = tuple(smaller_patches(problem.spacing, problem.shape))
    first = patch_of(name, plans[0], (1,) * problem.dim)
    fixed = outline(network(name, sizes(name)[0], plans[0], first, problem.channels, problem.classes)).divisor
    for plan in plans:
        patch = patch_of(name, plan, fixed)
        if patch != last and len(plan.strides) > 1:
            yield plan, patch
        last = patch


def _allowed(name: str, problem: Problem, budget: Budget, plan: Topology, patch: tuple[int, ...]) -> tuple[Size, ...]:
    """Return the sizes, small to large, that have no more parameters than the budget allows."""
    if budget.params is None:
        return sizes(name)
    specs = [network(name, size, plan, patch, problem.channels, problem.classes) for size in sizes(name)]
    counts = [outline(spec).parameters for spec in specs]
    if counts[0] > budget.params:
        raise OptionError(
            f"--params {budget.params}: the smallest {name} for this data has {counts[0]} parameters",
            hint="allow more parameters, or plan with another network: mambino models",
        )
    return tuple(size for size, count in zip(sizes(name), counts, strict=True) if count <= budget.params)


def _fit_reference(search: _Search) -> Fit:
    """Fit the U-Net as nnU-Net does, by the size of its feature maps."""
    problem, budget, size = search.problem, search.budget, search.allowed[-1]
    plan = fitted(problem.spacing, problem.shape, problem.classes, budget.memory)
    batch = search.reference_batch(plan)
    need = memory_of(plan, batch, problem.classes)
    least = search.useful()[-1][0]
    if plan.voxels < least.voxels:
        raise _too_large("unet", memory_of(least, LEAST_BATCH, problem.classes), budget)
    return Fit(
        Chosen(search.spec(size, plan, plan.patch), f"{described(size)}, the published size"),
        Chosen(plan.patch, f"the largest of which a batch of two fits into {budget.memory:.1f} GiB"),
        Chosen(batch, f"fits into {budget.memory:.1f} GiB and shows at most a twentieth of the data at once"),
        Chosen(round(need, 2), "from the size of all feature maps, by nnU-Net's measure"),
        _step(search.cost(size).seconds, plan.voxels * batch, budget),
    )


def _fit_memory(search: _Search) -> Fit:
    budget, size = search.budget, search.allowed[-1]
    cost = search.cost(size)
    room = search.memory_room(cost)
    plan, patch = search.largest(cost, room)
    voxels = math.prod(patch)
    batch = max(LEAST_BATCH, min(int(room // voxels), search.reference_batch(plan)))
    return Fit(
        Chosen(search.spec(size, plan, patch), described(size)),
        Chosen(patch, f"the largest of which a batch of two fits into {budget.memory:.1f} GiB"),
        Chosen(batch, f"fits into {budget.memory:.1f} GiB and shows at most a twentieth of the data at once"),
        _memory(cost, voxels * batch),
        _step(cost.seconds, voxels * batch, budget),
    )


def _fit_time(search: _Search, seconds: float) -> Fit:
    steps = wanted_steps(seconds)
    size, cost, room = _affordable(search, seconds, steps)
    plan, patch = search.largest(cost, room)
    voxels = math.prod(patch)
    most = search.reference_batch(plan) if size == sizes(search.name)[-1] else search.useful_batch(plan, voxels)
    least = 1 if search.name in SLOW_SCAN else LEAST_BATCH
    if search.name in SLOW_SCAN and cost.seconds is not None and seconds < MANY_STEPS * cost.seconds * voxels:
        most = 1
    batch = max(least, min(int(room // voxels), most))
    step = _step(cost.seconds, voxels * batch, search.budget)
    return Fit(
        Chosen(search.spec(size, plan, patch), _why_size(search, size, steps, step.value, seconds)),
        Chosen(patch, _why_patch(search, patch, steps, room)),
        Chosen(batch, f"as many patches as time and memory have room for, up to a useful number; at least {least}"),
        _memory(cost, voxels * batch),
        step,
    )


def _affordable(search: _Search, seconds: float, steps: int) -> tuple[Size, Cost, float]:
    """Return the largest size that gets all steps of a useful batch, its cost, and the voxels it may have a step."""
    plan, patch = search.ladder[0]
    need = min(STEP_VOXELS[search.problem.dim], search.useful_batch(plan, math.prod(patch)) * math.prod(patch))
    best: tuple[Size, Cost, float] | None = None
    for size in search.allowed:
        cost = search.cost(size)
        room = search.memory_room(cost)
        if cost.seconds is not None:
            room = min(room, seconds / steps / cost.seconds)
        if best is None or room >= need:
            best = size, cost, room
        if room < need:
            break
    assert best is not None  # some size is allowed, see _allowed
    return best


def _memory(cost: Cost, voxels: int) -> Chosen[float]:
    gib = RUNTIME + (STATE * cost.parameters + cost.memory * voxels) / 2**30
    return Chosen(round(gib, 2), f"{cost.memory / 1024:.1f} KiB a voxel, measured on a small patch, and the weights")


def _step(seconds: float | None, voxels: int, budget: Budget) -> Chosen[float]:
    if seconds is None:
        return Chosen(0.0, f"not measured: there is no {budget.device} device on this machine")
    return Chosen(round(seconds * voxels, 4), f"{1e6 * seconds:.2f} s a million voxels, measured here")


def _why_size(search: _Search, size: Size, steps: int, step: float, seconds: float) -> str:
    if step and seconds / step < 0.995 * steps:
        return (
            f"{described(size)}: the smallest; even so the time is enough for about {seconds / step:.0f} steps where "
            f"{steps} are wanted: more minutes would help"
        )
    which = "the largest size allowed" if size == search.allowed[-1] else "the largest size for which there is time"
    return f"{described(size)}: {which}; it gets {steps} steps of a useful batch in {seconds:.0f} s"


def _why_patch(search: _Search, patch: tuple[int, ...], steps: int, room: float) -> str:
    if math.prod(patch) * LEAST_BATCH > room:
        return "the smallest that shows enough of the surroundings, since time is short"
    if patch == search.ladder[0][1]:
        return "a whole median case, or as much of it as makes a cube: time and memory have room for it"
    return f"the largest of which {steps} batches of two fit into the time, and one into the memory"


def _too_large(name: str, need: float, budget: Budget) -> OptionError:
    return OptionError(
        f"--memory {budget.memory:.2g}: the smallest {name} for this data needs {need:.2g} GiB",
        hint="allow more memory, or plan with another network: mambino models",
    )
