"""Preparing every training case of a data set once, in parallel, so that training reads only what it needs."""

import hashlib
import multiprocessing
import signal
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from mambino.core import machine
from mambino.core.cluster import Caller, clear, meeting_place, tasks
from mambino.core.dataset import Case, Dataset
from mambino.core.options import PreprocessOptions, Progress, silent
from mambino.core.plan import Config, Plan, read_plan
from mambino.core.records import checked
from mambino.errors import DataError, Error, MambinoWarning, OptionError
from mambino.imageio.folders import open_dataset, read_case, read_case_labels
from mambino.preprocessing.case import data_side, prepare, prepare_labels
from mambino.preprocessing.store import Origin, Store

_FORMAT = "1"  # of prepared cases; a new one makes all of them again
_COPIES = 10  # of a prepared case, that preparing it may hold at once: measured 4, but sizes vary
_DATA_FIELDS = ("spacing", "orientation", "slice_axis", "axes", "crop", "normalise", "resample")


def preprocess(work: Path, options: PreprocessOptions = PreprocessOptions(), *, progress: Progress = silent) -> Path:
    """Prepare every training case as the plan in `work` says; return the folder that holds them.

    Cases are written to `prepared/2d` or `prepared/3d`. Started again, it goes on with the cases that
    are missing, damaged, or made from other files or another plan, and gives the same bytes. With
    `options.scheduler` the workers of a Dask cluster prepare them, each case a task.

    Raises:
        ClusterError: there is no such scheduler, or its workers cannot do what they are given.
        FileFormatError: the plan is not valid, or the folder cannot be written to.
        OptionError: two configurations of one dimension want different data, or none has the dimension asked for.
        DataError: there is no plan, it is for another data set, or cases could not be prepared (the others are done).
    """
    options = checked(options)
    work = Path(work)
    plan = read_plan(work)
    dataset = open_dataset(Path(plan.folder))
    _check_planned_for(plan, dataset)
    dims = options.dims or (plan.configs[plan.default].dim,)
    for dim, config in [(dim, _agreed(plan, dim)) for dim in dict.fromkeys(dims)]:
        _prepare_all(dataset, config, Store(work / "prepared" / f"{dim}d"), options, progress)
    return work / "prepared"


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker process is told."""

    case: Case
    dataset: Dataset
    config: Config
    folder: Path
    key: str


def _check_planned_for(plan: Plan, dataset: Dataset) -> None:
    for what, planned, there in (
        ("name", plan.dataset, dataset.name),
        ("channels", list(plan.channels), list(dataset.channels)),
        ("labels", _described(plan), _described(dataset)),
    ):
        if planned != there:
            raise DataError(
                f"the plan is for another data set: its {what} {planned}, but {plan.folder} has {there}",
                hint=f"plan again: mambino plan {plan.folder} -o WORK",
            )


def _described(owner: Plan | Dataset) -> dict[str, object]:
    labels = owner.labels
    known: dict[str, object] = dict(labels.names)
    return known | {f"({name})": value for name in ("ignore", "paint") if (value := getattr(labels, name)) is not None}


def _agreed(plan: Plan, dim: int) -> Config:
    """Return a configuration of `dim`; all of them must want the same data, since they share one folder."""
    chosen = {name: config for name, config in plan.configs.items() if config.dim == dim}
    if not chosen:
        raise OptionError(
            f"the plan has no configuration with {dim} axes, only {', '.join(plan.configs)}",
            hint="choose another of --dims, or plan again",
        )
    (first, config), *others = chosen.items()
    for name, other in others:
        for field in _DATA_FIELDS:
            if getattr(config, field) != getattr(other, field):
                raise OptionError(
                    f"{first} and {name} share their prepared cases, but differ in {field}: "
                    f"{getattr(config, field)} and {getattr(other, field)}",
                    hint="make them equal in plan.json, or plan again",
                )
    return config


def _prepare_all(
    dataset: Dataset, config: Config, store: Store, options: PreprocessOptions, progress: Progress
) -> None:
    _tidy(store, dataset)
    keys = {case.id: _key(case, dataset, config) for case in dataset.training}
    kept = _kept(store, keys)
    jobs = [
        _Job(case, dataset, config, store.folder, keys[case.id]) for case in dataset.training if case.id not in kept
    ]
    total, done = len(dataset.training), len(kept)
    progress(done, total, "kept")
    failures: dict[str, Error] = {}
    elsewhere = _run_elsewhere(jobs, options.scheduler, options.workers) if options.scheduler else None
    with closing(elsewhere or _run(jobs, options.workers or _workers(config))) as ended:
        for job, failure in ended:
            done += 1
            if failure is not None:
                failures[job.case.id] = failure
            progress(done, total, job.case.id)
    if failures:
        raise _worst(failures, total)


def _tidy(store: Store, dataset: Dataset) -> None:
    """Remove what a killed run left half-written, and cases that the data set no longer has."""
    if not store.folder.is_dir():
        return
    store.sweep()
    for name in set(store.ids()) - {case.id for case in dataset.training}:
        store.remove(name)


def _key(case: Case, dataset: Dataset, config: Config) -> str:
    """Digest everything a prepared case depends on: its files, what their numbers mean, and the configuration."""
    files = [*case.images, *([case.label] if case.label else [])]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else file for file in files]
    seen = (_FORMAT, case.id, case.patient, facts, _described(dataset), dataset.codes, data_side(config))
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _kept(store: Store, keys: dict[str, str]) -> set[str]:
    """Find the cases that were made from the same and are whole."""
    there = sorted(set(store.ids()) & keys.keys())
    with ThreadPoolExecutor(machine.cores()) as pool:
        whole = pool.map(lambda name: store.holds(name, keys[name]), there)
        return {name for name, sound in zip(there, whole, strict=True) if sound}


def _workers(config: Config) -> int:
    """One a core, but no more than memory allows for cases of the planned size."""
    need = _COPIES * 4 * len(config.normalise) * prod(config.shape) / 2**30
    return max(1, min(machine.cores(), int(machine.memory() / need)))


def _run_elsewhere(
    jobs: Sequence[_Job], scheduler: str, workers: int
) -> Generator[tuple[_Job, Error | None], None, None]:
    """Do the jobs on the workers of a Dask cluster; yield each when it ends."""
    if not jobs:
        return
    if workers:
        warnings.warn(
            f"--workers {workers} is not used with --scheduler: each worker of the cluster prepares one case at a time",
            MambinoWarning,
            stacklevel=2,
        )
    named = {f"case {job.case.id}": _seen_from_elsewhere(job) for job in jobs}
    folder = jobs[0].folder.parent
    clear(folder)
    with meeting_place(folder) as place, tasks(scheduler, _attempt_once, named, place) as ended:
        for name, failure in ended:
            yield named[name], failure
    Store(jobs[0].folder).sweep()


def _seen_from_elsewhere(job: _Job) -> _Job:
    """Name files as other machines do, and no other cases."""
    label = job.case.label.absolute() if job.case.label else None
    case = replace(job.case, images=tuple(path.absolute() for path in job.case.images), label=label)
    dataset = replace(job.dataset, training=(case,), test=())
    return replace(job, case=case, dataset=dataset, folder=job.folder.absolute())


def _attempt_once(job: _Job, _: Caller) -> Error | None:
    """Prepare one case, unless a worker has done so that died before it could say so."""
    return None if Store(job.folder).holds(job.case.id, job.key) else _attempt(job)


def _run(jobs: Sequence[_Job], workers: int) -> Generator[tuple[_Job, Error | None], None, None]:
    """Do the jobs in processes, or here where there is one of either; yield each when it ends."""
    if min(workers, len(jobs)) < 2:
        yield from ((job, _attempt(job)) for job in jobs)
        return
    with _pool(min(workers, len(jobs))) as pool:
        running: dict[Future[Error | None], _Job] = {pool.submit(_attempt, job): job for job in jobs}
        left = [job.case.id for job in jobs]  # begun in this order
        try:
            for future in as_completed(running):
                failure = future.result()
                left.remove(running[future].case.id)
                yield running[future], failure
        except BrokenProcessPool:
            raise DataError(
                "a process that prepared cases was killed, as systems do when memory runs out, at one of "
                + ", ".join(left[:workers]),
                hint="run the same command again with --workers 1; cases that are done are kept",
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Ctrl-C is for the parent alone: it lets running cases end and starts no more.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )


def _attempt(job: _Job) -> Error | None:
    """Prepare and write one case; return what is wrong with it, with its name."""
    try:
        _prepare_one(job)
    except Error as error:
        named = str(error) if job.case.id in str(error) else f"case {job.case.id}: {error}"
        return type(error)(named, error.hint)
    except Exception as error:
        error.add_note(f"while preparing case {job.case.id}")
        raise
    return None


def _prepare_one(job: _Job) -> None:
    store = Store(job.folder)
    store.remove(job.case.id)
    image = read_case(job.case, job.dataset)
    segmentation = read_case_labels(job.case, job.dataset)
    prepared = prepare(image, job.config)
    labels = prepare_labels(segmentation, prepared, job.config)
    origin = Origin(
        key=job.key,
        data=data_side(job.config),
        patient=job.case.patient,
        shape=image.grid.shape,
        spacing=image.grid.spacing,
        prepared_spacing=prepared.grid.spacing,
        unit=image.grid.unit,
    )
    if store.holds(job.case.id, job.key):
        return  # by another worker of a cluster, while this one counted as dead
    store.write(job.case.id, prepared.array, labels, origin, slices=job.config.slice_axis is not None)


def _worst(failures: dict[str, Error], total: int) -> Error:
    """Make one error of all: the first in full, the others by name."""
    first, *others = sorted(failures)
    error = failures[first]
    if not others:
        return error
    named = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    return type(error)(f"{error}; {len(failures)} of {total} cases failed, also {named}", error.hint)
