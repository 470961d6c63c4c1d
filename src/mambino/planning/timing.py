"""What a training step of a network costs on this machine: measured, not guessed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from mambino.core.machine import cores
from mambino.core.plan import NetworkSpec
from mambino.core.records import dump, parse
from mambino.models import build
from mambino.nn.device import keep_allocations, processor_has_bf16

PATIENCE = 0.2  # (s) of timed steps in each precision, after the first
PARALLEL = 0.6  # of the speed of the first core is what each further one adds
LOOP = 1.25  # augmentation, loss and the update of the weights run on the same cores as the network
BATCH = 2  # of the measured step: torch computes convolutions of a single small image in a way 3 times slower
TRANSIENT = 1.3  # gradients of activations live beside the activations for a moment
HALF = 0.6  # of the activations, where a GPU stores most of them in bfloat16


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of a network in training.

    Attributes:
        seconds: of a step, for each voxel of the batch; None where the device is not on this machine.
        memory: for each voxel of the batch (bytes).
        parameters: how many.
    """

    seconds: float | None
    memory: float
    parameters: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a network without running it.

    Attributes:
        parameters: how many.
        divisor: what each side of the input must be a multiple of.
    """

    parameters: int
    divisor: tuple[int, ...]


Precision = Callable[[], AbstractContextManager[Any]]
"""Opens the context that a step runs in."""

Clock = Callable[[NetworkSpec, tuple[int, ...]], Cost]
"""Measures a network on patches of a size (voxels)."""


def clock(device: str) -> Clock:
    """Return a clock for `device` that remembers what it has measured.

    Args:
        device: "cpu", "cuda" or "mps". For one that this machine lacks, costs come without seconds, so that a
            plan can be made here for another machine.
    """
    known: dict[str, Cost] = {}

    def cost(spec: NetworkSpec, patch: tuple[int, ...]) -> Cost:
        key = f"{spec} {patch}"
        if key not in known:
            known[key] = _cost(spec, patch, device)
        return known[key]

    return cost


def outline(spec: NetworkSpec) -> Outline:
    """Build a network once to see what its size is and what it asks of its input."""
    return _outline(dump(spec))


def find_device(name: str) -> str:
    """Return the device to plan for; "auto" takes the GPU of CUDA where there is one, else the processor."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def is_here(device: str) -> bool:
    """Tell whether this machine has the device."""
    if device == "cuda":
        return torch.cuda.is_available()
    return device != "mps" or torch.backends.mps.is_available()


def device_memory(device: str) -> float | None:
    """Return the memory of the GPU (GiB); None for the processor, and for a GPU that is not on this machine."""
    if device != "cuda" or not is_here(device):
        return None
    return float(torch.cuda.mem_get_info()[1]) / 2**30


@lru_cache(maxsize=256)
def _outline(text: str) -> Outline:
    network = _build(parse(NetworkSpec, text, "the plan"))
    sides = tuple(int(side) for side in cast("tuple[int, ...]", network.divisor))
    return Outline(sum(parameter.numel() for parameter in network.parameters()), sides)


def _build(spec: NetworkSpec) -> nn.Module:
    """Build a network whose weights do not matter, and leave random numbers as they were."""
    # Not on the meta device: drawing weights there imports torch's compiler, which takes longer than all of this.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(spec)


def _cost(spec: NetworkSpec, patch: tuple[int, ...], device: str) -> Cost:
    here = is_here(device)
    place = torch.device(device if here else "cpu")
    network = _build(spec).to(place).train()
    images = torch.randn((BATCH, spec.in_channels, *patch), generator=torch.Generator().manual_seed(0)).to(place)
    with _one_thread():
        stored = _stored(network, images) * TRANSIENT * (1.0 if device == "cpu" else HALF)
        seconds = min(_seconds(network, images, context) for context in _precisions(place)) if here else None
    voxels = BATCH * math.prod(patch)
    return Cost(None if seconds is None else seconds / voxels, stored / voxels, outline(spec).parameters)


def _precisions(place: torch.device) -> Iterator[Precision]:
    """Yield the precisions that training may choose from on this device."""
    if place.type != "cuda":
        yield nullcontext
    if place.type == "cuda" or (place.type == "cpu" and processor_has_bf16()):
        yield lambda: torch.autocast(place.type, torch.bfloat16)


@contextmanager
def _one_thread() -> Iterator[None]:
    keep_allocations()  # as training does
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _stored(network: nn.Module, images: Tensor) -> int:
    """Run one step; return the bytes that it keeps for the way back, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).float().square().mean()
    loss.backward()
    return sum(kept.values())


def _seconds(network: nn.Module, images: Tensor, precision: Precision) -> float:
    """Return the duration of a step (s), by the quickest of a few passes forward and back.

    On a processor it is the time that one thread computes, shared among the cores: other programs that run
    just now, and threads that wait for one another while they do, would make any other measure a matter of luck.
    """
    shared = images.device.type == "cpu"
    now = time.process_time if shared else time.perf_counter
    times: list[float] = []
    while not times or (sum(times) < PATIENCE and len(times) < 10):
        begin = now()
        with precision():
            loss = network(images).float().square().mean()
        loss.backward()
        loss.item()  # waits for a GPU
        times.append(now() - begin)
    return LOOP * min(times) / (1 + PARALLEL * (cores() - 1)) if shared else min(times)
