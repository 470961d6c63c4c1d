"""The loop: steps, validation on whole cases, and one `Epoch` after the other."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import floor, inf, isfinite

import torch
from torch import Tensor

from mambino.core import machine
from mambino.core.labels import Labels
from mambino.core.plan import Config
from mambino.core.records import record
from mambino.training.divergence import diverged
from mambino.training.freezing import hold
from mambino.training.loss import Parts, deep_parts, scales_of
from mambino.training.precision import Precision
from mambino.training.processes import ALONE, Processes
from mambino.training.sampling import Batch, Readable
from mambino.training.schedule import LEARNT, keeps, rate, settled, steps_that_fit
from mambino.training.state import State, follow
from mambino.training.validation import Score, rhythm, spread, validate, windows
from mambino.training.waiting import stream


@record
class Epoch:
    """What is known at the end of an epoch; a line of `log.jsonl`.

    Attributes:
        number, of: this epoch, counted from 1, and how many there will be.
        step: steps done.
        loss: mean over the epoch of the recipe's terms together.
        rate: the last learning rate.
        dice: mean validation Dice; None where this epoch was not validated.
        per_label: validation Dice of each structure.
        best: highest `dice` so far.
        improved: whether that was this epoch.
        seconds: since the run began, pauses not counted.
        seconds_left: expected.
        memory_gib: the most memory this process had so far.
        patience_left: epochs until the run stops unless validation improves; None without patience.
    """

    number: int
    of: int
    step: int
    loss: float
    rate: float
    dice: float | None = None
    per_label: dict[str, float | None] | None = None
    best: float | None = None
    improved: bool = False
    seconds: float
    seconds_left: float
    memory_gib: float
    patience_left: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What is learnt, from what, and for how long.

    Attributes:
        config: of the network, with its recipe.
        labels: of the data set.
        precision: where and in which numbers.
        patches: from the number of a batch to the batch.
        held_out: cases to validate on; there may be none.
        epochs: most epochs.
        budget: time to end in (s); None where epochs alone count.
        validate_every: epochs between validations; 0 follows from the length of the run.
        patience: epochs without improvement after which it ends; 0 never ends it.
        workers: threads that prepare batches; 0 prepares them between the steps.
        frozen: epochs for which the encoder learns nothing.
        processes: that learn together; each has its part of a batch and of the cases held out.
        compared: cases to compare masks in two precisions on, once all is learnt.
    """

    config: Config
    labels: Labels
    precision: Precision
    patches: Callable[[int], Batch]
    held_out: Sequence[Readable]
    epochs: int | None
    budget: float | None = None
    validate_every: int = 0
    patience: int = 0
    workers: int = 0
    frozen: int = 0
    processes: Processes = ALONE
    compared: Sequence[Readable] = ()


def proceed() -> None:
    """Let the loop go on."""


def epochs(state: State, course: Course, *, check: Callable[[], None] = proceed) -> Generator[Epoch, None, None]:
    """Learn, and yield after each epoch; `state` is then ready to be saved.

    Args:
        state: is changed in place; a run that was saved goes on from it, also in the middle of an epoch.
        course: what to learn.
        check: called after each step and between validation cases; what it raises ends the loop with
            `state` ready to be saved.

    Raises:
        DivergedError: the loss or a gradient is not finite; `state` is that of before the step.
        DataError: a case cannot be read.
    """
    clock = course.processes.clock
    began, here = clock() - state.seconds, 0
    _settle(state, course)
    batches = stream(course.patches, state.step * course.config.recipe.accumulate, course.workers)
    try:
        while not finished(state):
            while state.step < _epoch_end(state, course):
                begin = clock()
                _learn(state, batches, course)
                now, here = clock(), here + 1
                began += state.pace.lost(now - begin, here)
                state.pace = state.pace.after_step(now - begin, here)
                state.seconds = now - began
                _settle(state, course)
                check()
            score = _validate(state, course, check)
            state.seconds = clock() - began
            yield _close(state, course, score)
            state.seconds = clock() - began
    finally:
        batches.close()


def finished(state: State) -> bool:
    """Tell whether a run has had all its steps."""
    return 0 < state.total <= state.step


def _learn(state: State, batches: Iterator[Batch], course: Course) -> None:
    """Do one step, on as many batches as the recipe adds up."""
    recipe, share = course.config.recipe, _share(state)
    hold(state.network, frozen=state.epoch < course.frozen)
    for group in state.optimiser.param_groups:
        group["lr"] = _rate(state, course, share)
    state.optimiser.zero_grad(set_to_none=True)
    found: Parts = {}
    for _ in range(recipe.accumulate):
        images, one = _back(state, next(batches), course)
        found = {name: found.get(name, 0.0) + part / recipe.accumulate for name, part in one.items()}
    course.processes.add_up(state.network)
    state.scaler.unscale_(state.optimiser)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip or inf)
    value = _sum(found).item()
    too_large = state.scaler.is_enabled() and state.scaler.get_scale() > 1  # a step is left out and the scale halved
    if not isfinite(value) or not (isfinite(norm.item()) or too_large):
        terms = {name: part.item() for name, part in found.items()}
        deep = recipe.deep_supervision
        raise diverged(state, images, course.precision, terms, course.processes, deep=deep)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.step += 1
    state.progress += share
    state.loss_sum, state.loss_count = state.loss_sum + value, state.loss_count + 1
    follow(state.average, state.network, state.step, recipe.average)


def _back(state: State, batch: Batch, course: Course) -> tuple[Tensor, Parts]:
    """Add the gradients of one batch up; return its images, and the terms of its loss."""
    recipe, device = course.config.recipe, course.precision.device
    images, target = batch.images.to(device), batch.target.to(device)
    with course.precision.autocast():
        scales = scales_of(state.network, images, deep=recipe.deep_supervision)
    parts = deep_parts(scales, target, course.labels, recipe)
    torch.autograd.backward(state.scaler.scale(_sum(parts) / recipe.accumulate))
    return images, {name: part.detach() for name, part in parts.items()}


def _sum(parts: Parts) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def _rate(state: State, course: Course, share: float) -> float:
    """Return the learning rate of the next step.

    With a time budget a schedule that rises again is stretched over the run, else it has its length in epochs.
    """
    recipe, of = course.config.recipe, _of(state, course)
    late = max(0.0, state.progress - share)
    progress = {"step": state.progress + share / 2, "epoch": state.epoch / of, "late": late}[recipe.pace]
    halves = (of if course.budget is None else recipe.epochs) / recipe.period if recipe.period else 1.0
    shrink = 0.5**state.setbacks
    return shrink * rate(
        progress, recipe.rate, recipe.schedule, recipe.warmup, power=recipe.power, floor=recipe.floor, halves=halves
    )


def _share(state: State) -> float:
    """Return the share of the schedule that the next step covers; nothing while its length is not settled."""
    return (1 - state.progress) / (state.total - state.step) if state.total > state.step else 0.0


def _settle(state: State, course: Course) -> None:
    """Decide how many steps the run has; with a time budget once that can be told, and again when time runs off."""
    if course.budget is None:
        if state.total == 0:
            state.total = (course.epochs or course.config.recipe.epochs) * course.config.recipe.steps
            state.progress = state.step / state.total
    elif state.total == 0:
        state.progress = min(1.0, state.seconds / course.budget)
        if settled(state.pace, state.seconds, course.budget, 0.0 if course.epochs else LEARNT):
            _plan_validation(state, course, max(1, round(_fitting(state, course) / course.config.recipe.steps)))
            state.total = _fitting(state, course)
    elif not keeps(state.pace, state.total - state.step, state.seconds, course.budget, _rounds(state, course)):
        state.total = _fitting(state, course)
    if state.total and state.rhythm is None:
        _plan_validation(state, course, _of(state, course))


def _fitting(state: State, course: Course) -> int:
    """Return how many steps the run has when it ends with its budget."""
    budget = course.budget or 0.0
    fit = steps_that_fit(state.pace, state.step, state.seconds, budget, _rounds(state, course))
    return fit if course.epochs is None else min(fit, course.epochs * course.config.recipe.steps)


def _plan_validation(state: State, course: Course, of: int) -> None:
    """Choose when and on what to validate, and guess from the steps what that will cost."""
    if not course.held_out:
        return
    state.rhythm = rhythm(course.held_out, course.config, of, course.validate_every)
    if not state.pace.validation:
        chosen = spread(course.held_out, state.rhythm.cases)
        count = sum(len(windows(case.shape, course.config)) for case in chosen)
        state.pace = state.pace.after_validation(count * state.pace.step / (3 * course.config.batch))


def _rounds(state: State, course: Course) -> int:
    """Return how many validations are to come."""
    if state.rhythm is None:
        return 0
    last, every = _of(state, course), state.rhythm.every
    return last // every - state.epoch // every + (last % every > 0)


def _of(state: State, course: Course) -> int:
    """Return how many epochs the run has; the last one takes up to half an epoch more, or lacks as much."""
    steps = course.config.recipe.steps
    total = state.total
    if not total and course.budget:
        total = state.step + floor(max(0.0, course.budget - state.seconds) / max(state.pace.step, 1e-6))
    return max(floor(total / steps + 0.5), state.epoch + (not finished(state)), 1)


def _epoch_end(state: State, course: Course) -> int:
    """Return after how many steps the epoch that is under way ends."""
    end = (state.epoch + 1) * course.config.recipe.steps
    return state.total if state.total and state.epoch + 1 >= _of(state, course) else end


def _validate(state: State, course: Course, check: Callable[[], None]) -> Score | None:
    """Validate the averaged weights where it is time to."""
    number = state.epoch + 1
    if state.rhythm is None or not (number % state.rhythm.every == 0 or finished(state)):
        return None
    begin = course.processes.clock()
    chosen = spread(course.held_out, state.rhythm.cases)
    score = validate(
        state.average, chosen, course.config, course.labels, course.precision, check, all_=course.processes
    )
    state.pace = state.pace.after_validation(course.processes.clock() - begin)
    return score


def _close(state: State, course: Course, score: Score | None) -> Epoch:
    """End an epoch: take the score into the state and return what is known."""
    of = _of(state, course)
    state.epoch += 1
    dice = score.dice if score else None
    improved = dice is not None and (state.best is None or dice > state.best)
    if improved:
        state.best, state.best_epoch = dice, state.epoch
    loss = state.loss_sum / max(state.loss_count, 1)
    state.loss_sum, state.loss_count = 0.0, 0
    left = (state.total - state.step) * state.pace.step + _rounds(state, course) * state.pace.validation
    if not state.total:
        left = (course.budget or 0.0) - state.seconds
    return Epoch(
        number=state.epoch,
        of=of,
        step=state.step,
        loss=loss,
        rate=state.optimiser.param_groups[0]["lr"],
        dice=dice,
        per_label=dict(score.per_label) if score else None,
        best=state.best,
        improved=improved,
        seconds=state.seconds,
        seconds_left=max(0.0, left) if not finished(state) else 0.0,
        memory_gib=machine.peak(),
        patience_left=max(0, course.patience - state.epoch + state.best_epoch) if course.patience else None,
    )
