"""The loop of pretraining: steps, the share of pictures told right, and one `PretrainEpoch` after the other."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambino.core.records import record
from mambino.errors import Error
from mambino.training.precision import Precision
from mambino.training.pretraining.pictures import Batch, Batches, Picture, tested
from mambino.training.processes import Processes
from mambino.training.schedule import keeps, rate, settled, steps_that_fit
from mambino.training.state import State, follow
from mambino.training.waiting import stream

AT_ONCE = 64
"""Pictures that are tested together."""


@record
class PretrainEpoch:
    """What is known at the end of an epoch; a line of `log.jsonl`.

    Attributes:
        number, of: this epoch, counted from 1, and how many there will be.
        step: steps done.
        loss: mean cross-entropy over the epoch, with mixed and smoothed targets.
        rate: the last learning rate.
        accuracy: share of the held-out pictures whose likeliest class is the right one, with averaged weights.
        best: highest `accuracy` so far.
        seconds: since the run began, pauses not counted.
        seconds_left: expected.
    """

    number: int
    of: int
    step: int
    loss: float
    rate: float
    accuracy: float
    best: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What is learnt, and how.

    Attributes:
        batches: to learn from.
        held_out: pictures to test on.
        size: side of what the network sees (pixels).
        peak, warmup: highest learning rate, and the share of all steps over which it rises.
        clip: largest norm of a gradient.
        averaging: largest share of the averaged weights that a step leaves as it is.
        precision: where and in which numbers.
        processes: that learn together.
        epochs: how many.
        budget: time to end in (s), instead.
        workers: threads that prepare batches.
    """

    batches: Batches
    held_out: Sequence[Picture]
    size: int
    peak: float
    warmup: float
    clip: float
    averaging: float
    precision: Precision
    processes: Processes
    epochs: int
    budget: float | None
    workers: int


def lessons(state: State, lesson: Lesson, check: Callable[[], None]) -> Generator[PretrainEpoch, None, None]:
    """Learn, and yield after each epoch; `state` is then ready to be saved.

    Raises:
        Error: the loss or a gradient is not finite.
        DataError: a picture cannot be read.
    """
    began, per, here = time.perf_counter() - state.seconds, lesson.batches.epoch, 0
    network = lesson.processes.joined(state.network)
    batches = stream(lesson.batches, state.step, lesson.workers)
    state.network.train()
    try:
        _settle(state, lesson)
        while not state.total or state.step < state.total:
            begin = time.perf_counter()
            _learn(state, network, next(batches), lesson)
            here += 1
            took = time.perf_counter() - begin
            began += state.pace.lost(took, here)
            state.pace = state.pace.after_step(took, here)
            state.seconds = time.perf_counter() - began
            _settle(state, lesson)
            check()
            if state.step % per == 0 or state.step == state.total:
                begin = time.perf_counter()
                accuracy = tell(state.average, lesson)
                state.pace = state.pace.after_validation(time.perf_counter() - begin)
                state.seconds = time.perf_counter() - began
                yield _close(state, lesson, accuracy)
    finally:
        batches.close()


def tell(network: nn.Module, lesson: Lesson) -> float:
    """Return the share of held-out pictures that a network tells right."""
    mine = lesson.held_out[lesson.processes.rank :: lesson.processes.count]
    right, device = torch.zeros(2, device=lesson.precision.device), lesson.precision.device
    network.eval()
    with torch.no_grad(), lesson.precision.autocast():
        for start in range(0, len(mine), AT_ONCE):
            images, kinds = tested(mine[start : start + AT_ONCE], lesson.size)
            right[0] += (network(images.to(device)).argmax(1).cpu() == kinds).sum()
            right[1] += len(kinds)
    count = lesson.processes.summed(right)
    return float(count[0] / count[1].clamp(min=1))


def _learn(state: State, network: nn.Module, batch: Batch, lesson: Lesson) -> None:
    share = (1 - state.progress) / (state.total - state.step) if state.total > state.step else 0.0
    for group in state.optimiser.param_groups:
        group["lr"] = rate(state.progress + share / 2, lesson.peak, "cosine", lesson.warmup)
    device = lesson.precision.device
    with lesson.precision.autocast():
        logits: Tensor = network(batch.images.to(device))
    loss = functional.cross_entropy(logits.float(), batch.target.to(device))
    state.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), lesson.clip)
    value = loss.item()
    if not isfinite(value) or not isfinite(norm.item()):
        raise Error(
            f"the loss or its gradient is not finite at step {state.step + 1} (cross-entropy {value:.4g})",
            hint="pretrain with --precision float32, or a lower --rate",
        )
    state.optimiser.step()
    state.step += 1
    state.progress += share
    state.loss_sum, state.loss_count = state.loss_sum + value, state.loss_count + 1
    follow(state.average, state.network, state.step, lesson.averaging)


def _settle(state: State, lesson: Lesson) -> None:
    """Decide how many steps the run has; with a time budget once that can be told, and again when time runs off."""
    per = lesson.batches.epoch
    if lesson.budget is None:
        if not state.total:
            state.total = lesson.epochs * per
            state.progress = state.step / state.total
        return
    end = state.total or state.step + int((lesson.budget - state.seconds) / max(state.pace.step, 1e-6))
    rounds = max(0, -(-end // per) - state.epoch)
    if not state.total:
        state.progress = min(1.0, state.seconds / lesson.budget)
    waiting = not state.total and not settled(state.pace, state.seconds, lesson.budget)
    kept = state.total and keeps(state.pace, state.total - state.step, state.seconds, lesson.budget, rounds)
    if not waiting and not kept:
        state.total = max(state.step, steps_that_fit(state.pace, state.step, state.seconds, lesson.budget, rounds), 1)


def _close(state: State, lesson: Lesson, accuracy: float) -> PretrainEpoch:
    state.epoch += 1
    state.best = max(accuracy, state.best or 0.0)
    loss = state.loss_sum / max(state.loss_count, 1)
    state.loss_sum, state.loss_count = 0.0, 0
    state.network.train()
    of = max(-(-state.total // lesson.batches.epoch), state.epoch)
    left = (state.total - state.step) * state.pace.step + (of - state.epoch) * state.pace.validation
    return PretrainEpoch(
        number=state.epoch,
        of=of,
        step=state.step,
        loss=loss,
        rate=state.optimiser.param_groups[0]["lr"],
        accuracy=accuracy,
        best=state.best,
        seconds=state.seconds,
        seconds_left=max(0.0, left),
    )
