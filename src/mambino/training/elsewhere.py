"""Several trainings at once on several machines, each a task of a Dask cluster that goes on where its worker dies."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mambino.core.cluster import Caller, ClusterError, meeting_place, tasks
from mambino.core.locks import holder
from mambino.core.options import Progress, TrainOptions, silent
from mambino.core.plan import read_plan
from mambino.core.records import checked, dump, parse
from mambino.errors import Error, MambinoWarning, OptionError
from mambino.training.choosing import choose_config
from mambino.training.interrupt import Stopped
from mambino.training.loop import Epoch
from mambino.training.processes import refuse_several
from mambino.training.runs import Folder, previous
from mambino.weights.initialisation import Initialisation

LOOK_EVERY = 2.0
"""Seconds between two looks of a worker at whether its run is still waited for."""


def say_nothing(run: str) -> None:
    """Show nothing: what is done with the name of a run by whoever does not ask for it."""


def pass_over(epoch: Epoch) -> None:
    """Show nothing: what is done with an epoch by whoever does not ask for it."""


def leave_unsaid(started: Initialisation) -> None:
    """Show nothing: what is done with a start from other weights by whoever does not ask for it."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What a worker is told: a work folder and options, both as all machines know them; and the run's own folder."""

    work: Path
    options: TrainOptions
    folder: Path


def train_all(
    runs: Sequence[tuple[Path, TrainOptions]],
    scheduler: str,
    *,
    on_run: Callable[[str], None] = say_nothing,
    on_epoch: Callable[[Epoch], None] = pass_over,
    on_init: Callable[[Initialisation], None] = leave_unsaid,
    progress: Progress = silent,
) -> tuple[Path, ...]:
    """Train several networks on the workers of a Dask cluster: folds, configurations, options of a sweep.

    What `train_fold` promises of a run holds for each of them. A run whose worker dies goes on, on another, from the
    last state saved; what was told since is told again. Ctrl-C cancels the runs that have not begun; workers that are
    at a run finish the step, save, and stop: `resume` goes on.

    One worker at a time trains a run: another one waits until the first has died, or has noticed that it counts as
    dead.

    Args:
        runs: work folders, prepared, with options; each run has a folder of its own.
        scheduler: address of a Dask scheduler, or "slurm".
        on_run: told the name of the folder of a run before what the others are told of it, unless that was of the same
            run before.
        on_epoch: told each epoch, like all that are told from a thread of its own.
        on_init: told what was taken from `options.init`, before the first step.
        progress: told the name of each run that has ended.

    Returns:
        The paths of the bundles to ship, in the order of `runs`.

    Raises:
        OptionError: two runs have one folder, or there is a run already and `resume` was not asked for.
        ClusterError: there is no such scheduler, its workers cannot do what they are given, or died over a run.
        Error: as `train_fold` does; of several errors the first, when all runs have ended.
    """
    refuse_several("train --scheduler")
    orders = [_order(Path(work), options) for work, options in runs]
    named = {f"run {order.folder}": order for order in orders}
    if len(named) < len(orders):
        folders = [order.folder for order in orders]
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise OptionError(f"several of {len(orders)} runs have the folder {twice}", hint="give each a fold of its own")
    answers: dict[str, Path | Error] = {}

    spoken = ""

    def hear(text: str) -> None:
        nonlocal spoken
        run, kind, said = text.split("\n", 2)
        if run != spoken:
            on_run(run)
        spoken = run
        source = f"what the worker of {run} says"
        match kind:
            case "epoch":
                on_epoch(parse(Epoch, said, source))
            case "init":
                on_init(parse(Initialisation, said, source))
            case _:
                warnings.warn(f"run {run} waits: {said} trains it", MambinoWarning, stacklevel=2)

    if not orders:
        return ()
    with meeting_place(orders[0].work) as place, tasks(scheduler, _train, named, place, hear=hear) as ended:
        progress(0, len(orders), "")
        for name, answer in ended:
            answers[name] = answer
            progress(len(answers), len(orders), named[name].folder.name)
    return tuple(_path(answers[name]) for name in named)


def _order(work: Path, options: TrainOptions) -> _Order:
    options = replace(checked(options), scheduler=None, init=options.init and options.init.absolute())
    work = work.absolute()
    name = choose_config(read_plan(work), options.config, options.model)
    folder = work / "runs" / f"{name}-{options.fold}"
    previous(Folder(folder), options)
    return _Order(work, replace(options, config=name, model=None), folder)


def _train(order: _Order, caller: Caller) -> Path | Error:
    """Train on a worker; go on where another worker has begun."""
    from mambino.training import train_fold  # noqa: PLC0415 - which imports this file

    run = order.folder.name
    try:
        if busy := holder(order.folder):
            caller.tell(f"{run}\nwait\n{busy}")
        return train_fold(
            order.work,
            order.options,
            on_epoch=lambda epoch: caller.tell(f"{run}\nepoch\n{dump(epoch, indent=None)}"),
            on_init=lambda started: caller.tell(f"{run}\ninit\n{dump(started, indent=None)}"),
            watch=_watch(caller),
        )
    except Stopped as stop:
        return ClusterError(f"run {run}: {stop}", "its state is saved: add --resume to go on")
    except Error as error:
        return type(error)(f"run {run}: {error}", error.hint)


def _watch(caller: Caller) -> Callable[[], None]:
    """Return a check that raises `Stopped` when a run is no longer waited for; it looks now and then only."""
    looked = time.monotonic()

    def watch() -> None:
        nonlocal looked
        if time.monotonic() - looked < LOOK_EVERY:
            return
        looked = time.monotonic()
        try:
            caller.check()
        except ClusterError as error:
            raise Stopped(str(error)) from None

    return watch


def _path(answer: Path | Error) -> Path:
    if isinstance(answer, Error):
        raise answer
    return answer
