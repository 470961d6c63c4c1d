"""From prepared cases to a network."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mambino.core import machine
from mambino.core.locks import alone_in
from mambino.core.options import TrainOptions
from mambino.core.plan import Config, Plan, read_plan
from mambino.core.records import checked, dump, write
from mambino.errors import MambinoWarning
from mambino.models import build
from mambino.nn.device import choose_device, keep_allocations
from mambino.nn.rewiring import checkpoint, compile_methods
from mambino.training.augmentation import augmentation
from mambino.training.choosing import check_network, choose_config
from mambino.training.divergence import DivergedError
from mambino.training.elsewhere import train_all
from mambino.training.freezing import check_encoder
from mambino.training.interrupt import Stopped, after_the_step, together
from mambino.training.loop import Course, Epoch, epochs, finished, proceed
from mambino.training.material import Material, images, material
from mambino.training.precision import Precision, choose_precision
from mambino.training.processes import Processes, check_agreement, check_shares, processes, speaks
from mambino.training.recipes import chosen_recipe
from mambino.training.runs import (
    Folder,
    Run,
    as_before,
    bundle,
    check_same,
    ended,
    facts,
    go_back,
    keep,
    log,
    open_run,
    previous,
    ship,
    shipped,
)
from mambino.training.sampling import held, mixed, patches
from mambino.training.state import State, has_state, optimiser, save_state, saving_the_end, scaler
from mambino.training.tracking import tracked
from mambino.weights.bundle import load, save
from mambino.weights.initialisation import Initialisation, initialise

SAVE_EVERY = 30.0
"""Seconds between two saved states; one is also saved at the end."""


def ignore(epoch: Epoch) -> None:
    """Show nothing: what is done with an epoch by whoever does not ask for it."""


def pass_by(started: Initialisation) -> None:
    """Show nothing: what is done with a start from other weights by whoever does not ask for it."""


def keep_quiet(run: str, fold: int, folds: int) -> None:
    """Show nothing: what is done with the beginning of a fold by whoever does not ask for it."""


def train(
    work: Path,
    options: TrainOptions = TrainOptions(),
    *,
    on_epoch: Callable[[Epoch], None] = ignore,
    on_init: Callable[[Initialisation], None] = pass_by,
    on_fold: Callable[[str, int, int], None] = keep_quiet,
) -> Path | tuple[Path, ...]:
    """Train one network on prepared cases, or with `fold` "all-folds" one for each part of the cases.

    Folds are trained one after the other, each in a folder of its own and for as long as the options say. A fold
    that is complete is left as it is; one that was interrupted goes on with `options.resume`.

    With `options.scheduler` workers of a Dask cluster train, all folds at the same time; where a worker dies, another
    goes on from the last state saved.

    Args:
        work: a planned and prepared work folder.
        options: what to train, for how long, and on what.
        on_epoch: told each epoch.
        on_init: told what was taken from `options.init`, before the first step.
        on_fold: told the name of the run, its fold and how many there are, before each of all folds; on a cluster
            before each epoch that follows one of another fold.

    Returns:
        The path of the bundle to ship; of all folds a tuple of paths, in their order.

    Raises:
        OptionError: as for `train_fold`; and a fold is complete, but was trained for another length.
        DataError, WeightsError, DivergedError: as for `train_fold`.
        ClusterError: as for `train_all`.
    """
    options = checked(options)
    if options.fold != "all-folds":
        if options.scheduler:
            return train_all([(work, options)], options.scheduler, on_epoch=on_epoch, on_init=on_init)[0]
        return train_fold(work, options, on_epoch=on_epoch, on_init=on_init)
    name = choose_config(read_plan(work), options.config, options.model)
    names = [f"{name}-{fold}" for fold in range(options.folds)]

    def announce(run: str) -> None:
        on_fold(run, names.index(run), options.folds)

    if options.scheduler:
        runs = [(work, _fold(work, run, fold, options)) for fold, run in enumerate(names)]
        return train_all(runs, options.scheduler, on_run=announce, on_epoch=on_epoch, on_init=on_init)
    made = []
    for fold, run in enumerate(names):
        if speaks():
            announce(run)
        made.append(train_fold(work, _fold(work, run, fold, options), on_epoch=on_epoch, on_init=on_init))
    return tuple(made)


def _fold(work: Path, run: str, fold: int, options: TrainOptions) -> TrainOptions:
    """Return the options of one of all folds."""
    one = replace(options, fold=fold)
    if ended(Folder(work / "runs" / run), one):  # looked at all the same, so that folds of one network stay together
        one = replace(one, resume=True, log_to=())
    return one


def train_fold(
    work: Path,
    options: TrainOptions = TrainOptions(),
    *,
    on_epoch: Callable[[Epoch], None] = ignore,
    on_init: Callable[[Initialisation], None] = pass_by,
    watch: Callable[[], None] | None = None,
) -> Path:
    """Train one network on prepared cases.

    Everything lies in `work/runs/<configuration>-<fold>/`: `options.json`, `init.json` (what was taken from the
    bundle `options.init`), `log.jsonl` (one line an epoch), `state.pt` (to go on with `resume`), `best.safetensors`
    (on validation), `last.safetensors`, and in the end `model.safetensors`, the weights to ship.
    Ctrl-C or SIGTERM finishes the step, saves, and raises KeyboardInterrupt. A run that is complete is left as it is.

    A run that ended in any other way goes on, too, and ends with the weights of one that was not interrupted:
    `state-before.pt` is there for a damaged `state.pt`. Where a loss or gradient is not finite, the run goes back
    to its last saved state and on at half the rate, once.

    One program at a time trains in a folder: another is refused for as long as the first one lives.

    Started by `torchrun`, its processes share each batch, and the result is that of one process up to rounding. The
    first one writes, and calls `on_epoch` and `on_init`.

    Args:
        work: a planned and prepared work folder.
        options: what to train, for how long, and on what.
        on_epoch: told each epoch.
        on_init: told what was taken from `options.init`, before the first step.
        watch: of a worker of a cluster, which goes on with what is in the folder, and waits while another program
            trains there. Called meanwhile and after each step; `Stopped`, if it raises that, ends the run like Ctrl-C.

    Returns:
        The path of the bundle to ship.

    Raises:
        DataError: there is no plan, or nothing is prepared.
        OptionError: the plan lacks the configuration, its network cannot be built or cannot take the patch, or the
            run's folder holds another run or is in use; or several processes cannot share the batch or the network.
        WeightsError: `options.init` is no bundle, or nothing in it fits the network.
        DivergedError: a loss or gradient was not finite for the second time.
    """
    options = checked(options)
    with processes(choose_device(options.device)) as all_:
        if not all_.first:
            on_epoch, on_init = ignore, pass_by
        plan = read_plan(work)
        name = choose_config(plan, options.config, options.model)
        check_network(plan.config(name), name, str(work / "plan.json"))
        with alone_in(work / "runs" / f"{name}-{options.fold}", watch) if all_.first else nullcontext():
            return _together(work, plan, name, options, all_, on_epoch=on_epoch, on_init=on_init, watch=watch)


def _together(
    work: Path,
    plan: Plan,
    name: str,
    options: TrainOptions,
    all_: Processes,
    *,
    on_epoch: Callable[[Epoch], None],
    on_init: Callable[[Initialisation], None],
    watch: Callable[[], None] | None,
) -> Path:
    """Train, as one of some processes."""
    began = time.perf_counter()
    config, folder = plan.config(name), Folder(work / "runs" / f"{name}-{options.fold}")
    old = previous(folder, replace(options, resume=options.resume or watch is not None))
    options = as_before(options, old)
    cases = material(work, config, options)
    pretrained = folder.init.exists() if old else options.init is not None
    recipe = chosen_recipe(config, plan.labels, images(cases.training, config), options, pretrained=pretrained)
    config = replace(config, recipe=recipe)
    with _prepared_torch(options, all_) as device:
        network = build(config.network)
        check_encoder(network, config.network.name, options.freeze_encoder or 0)
        check_shares(all_, config.batch, network)
        started = None if old else _started(network, plan, config, options)
        network.to(device)
        chosen = _agreed(choose_precision(_asked(options, old), device, network, config), all_)
        run = _run(name, config, cases, options, chosen)
        if old:
            check_same(old, run, folder)
        state = _state(network, run, device)
        open_run(folder, run, old, state, writes=all_.first)
        check_agreement(all_, f"{dump(run)} {state.step} {state.total}")
        if started and all_.first:
            write(started, folder.init)
            on_init(started)
        _part_ways(all_, options.seed, state)
        pretrained = all_.each(folder.init.exists())[0] > 0  # the first process may have written it just now
        course = _course(plan, run, cases, Precision(device, run.precision), all_, pretrained=pretrained)
        started_in = all_.each(time.perf_counter() - began)[0]
        state.seconds += started_in * (state.total == 0)  # starting again takes no time from a settled run
        sinks = options.log_to if all_.first and not finished(state) else ()
        told = tracked(sinks, folder.path, f"{plan.dataset} {folder.path.name}", facts(run))
        with after_the_step(watch or proceed) as check, told as tell:
            if not finished(state):
                _train(state, course, folder, plan, run, on_epoch=on_epoch, tell=tell, check=together(check, all_))
            elif all_.first and not shipped(folder):
                ship(folder, course, state)
            all_.wait()
    return folder.model


def _train(
    state: State,
    course: Course,
    folder: Folder,
    plan: Plan,
    run: Run,
    *,
    on_epoch: Callable[[Epoch], None],
    tell: Callable[[Epoch], None],
    check: Callable[[], None],
) -> None:
    """Run the loop: stop early; and, in the first process, log, keep the best, save."""
    saved, score, first = time.perf_counter(), None, course.processes.first
    check = saving_the_end(state, folder.state, check, writes=first and course.budget is not None)
    if first and not has_state(folder.state):
        save_state(state, folder.state)
    try:
        for epoch in _guarded(state, course, folder, check):
            score = epoch.dice
            if first:
                log(epoch, folder)
                tell(epoch)
            if first and epoch.improved:
                save(bundle(state, plan, run, score), folder.best)
            on_epoch(epoch)
            if epoch.patience_left == 0 and not finished(state):
                state.total = state.step
            elif first and time.perf_counter() - saved > SAVE_EVERY:
                keep(folder, state, plan, run, score)
                saved = time.perf_counter()
    except Stopped:
        if first:
            keep(folder, state, plan, run, None)
        raise
    if first:
        keep(folder, state, plan, run, score)
        ship(folder, course, state)


def _guarded(state: State, course: Course, folder: Folder, check: Callable[[], None]) -> Iterator[Epoch]:
    """Yield epochs; where a step was not finite, go back to the last saved state once, and on at half the rate."""
    while True:
        try:
            yield from epochs(state, course, check=check)
        except DivergedError as error:
            if state.setbacks:
                raise
            all_ = course.processes
            go_back(folder, state, writes=all_.first)
            state.setbacks = 1
            all_.wait()  # until all have read what is now written anew
            if all_.first:
                save_state(state, folder.state)
            warnings.warn(
                f"{error}; going on from step {state.step} of the last saved state, at half the rate",
                MambinoWarning,
                stacklevel=2,
            )
        else:
            return


def _started(network: nn.Module, plan: Plan, config: Config, options: TrainOptions) -> Initialisation | None:
    """Fill the network from the bundle that the options name, if they do."""
    if options.init is None:
        return None
    return initialise(network, config.network, load(options.init), plan.labels, slip=options.init_slip)


def _asked(options: TrainOptions, old: Run | None) -> Literal["auto", "float32", "bf16", "fp16"]:
    """Return the precision asked for; a run that goes on keeps the one it has chosen."""
    return old.precision if old and options.precision == "auto" else options.precision


def _agreed(mine: Precision, all_: Processes) -> Precision:
    """Return the precision of the first process: others may have measured something else.

    All wait here for one another, so that nobody writes what another has yet to look at.
    """
    name: Any = all_.each_text(mine.name)[0]
    return replace(mine, name=name)


def _run(name: str, config: Config, cases: Material, options: TrainOptions, precision: Precision) -> Run:
    return Run(
        options=options,
        name=name,
        config=config,
        precision=precision.name,
        training=tuple(case.id for case in cases.training),
        held_out=tuple(case.id for case in cases.held_out),
    )


def _state(network: nn.Module, run: Run, device: torch.device) -> State:
    average = copy.deepcopy(network).requires_grad_(False)
    if run.options.checkpointing:
        checkpoint(network)
    if run.options.compile:
        compile_methods(network)
    rule = optimiser(network, run.config.recipe)
    return State(network=network, average=average, optimiser=rule, scaler=scaler(device, run.precision))


def _part_ways(all_: Processes, seed: int, state: State) -> None:
    """Let dropout draw differently in each process; the first one draws as it would alone."""
    if not all_.first:
        torch.manual_seed(mixed(seed + all_.rank, state.step))


def _course(
    plan: Plan, run: Run, cases: Material, precision: Precision, all_: Processes, *, pretrained: bool
) -> Course:
    options, config = run.options, run.config
    freeze = config.recipe.freeze if pretrained else 0
    how = augmentation(config, plan.labels, options.seed)
    channels = config.network.in_channels
    training, held_out = held(cases.training, channels, all_.here), held(cases.held_out, channels, all_.here)
    return Course(
        config=config,
        labels=plan.labels,
        precision=precision,
        patches=patches(training, config, plan.labels, how, options.seed, all_=all_),
        held_out=held_out,
        epochs=options.epochs,
        budget=60 * options.minutes if options.minutes else None,
        validate_every=options.validate_every,
        patience=options.patience,
        workers=_workers(precision.device, all_),
        frozen=freeze if options.freeze_encoder is None else options.freeze_encoder,
        processes=all_,
        compared=held_out or training,
    )


def _workers(device: torch.device, all_: Processes) -> int:
    """Return how many threads prepare batches: a GPU waits for them, a processor computes itself."""
    return 0 if device.type == "cpu" else max(1, min(8, machine.cores() // all_.here - 1))


@contextmanager
def _prepared_torch(options: TrainOptions, all_: Processes) -> Iterator[torch.device]:
    """Set threads and the seed of torch for the time of a run, and put both back."""
    device = choose_device(options.device)
    keep_allocations()
    threads = torch.get_num_threads()
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads or max(1, machine.cores() // all_.here))
        try:
            yield device
        finally:
            torch.set_num_threads(threads)
