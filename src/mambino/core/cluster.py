"""Work on several machines: each job a task of a Dask cluster, given to another worker where one dies.

The one file that knows Dask. All machines must see the same files under the same names. What is found in a file is
never unpickled; but Dask pickles what it sends between this program and the workers, so a scheduler must be trusted
as this machine is.
"""

import platform
import shutil
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from mambino.core.records import unwritable
from mambino.errors import Error, MambinoWarning, need

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 10.0  # seconds until a scheduler that does not answer counts as away
_PREFIX = ".part-cluster-"
_TURN = threading.Lock()
_AGAIN = "the same command goes on from here (train: add --resume)"
_SAME = "start scheduler and workers from an installation like that of this program"


class ClusterError(Error):
    """Workers of a cluster cannot be reached, or cannot do what they are asked to."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever waits for a job, as the job sees it on its worker.

    Attributes:
        topic: under which the job tells of itself.
        place: is there for as long as somebody waits.
        marks: pattern of the files in `place` by which workers say that they have begun with the job.
        begun: how many of them there were when this worker began.
    """

    topic: str
    place: Path
    marks: str
    begun: int

    def tell(self, text: str) -> None:
        """Let the caller hear something on the way."""
        need("distributed", extra="cluster", why="--scheduler").get_worker().log_event(self.topic, text)

    def check(self) -> None:
        """Refuse to work on for nobody.

        Raises:
            ClusterError: nobody waits any more; or another worker was given the job, since this one counts as dead.
        """
        _check_waited_for(self.place)
        if len(list(self.place.glob(self.marks))) > self.begun:
            raise ClusterError(
                f"the worker on {platform.node()} counts as dead, and another has begun with what it was at",
                hint="see whether the network or the memory of its machine fails",
            )


@dataclass(frozen=True, slots=True)
class _Order(Generic[T, R]):
    """What a worker is told.

    Attributes:
        work: a function that the worker can import.
        job: what it is called with.
        place: is there for as long as somebody waits for the job, under the same name on all machines.
        version: of mambino, on the machine that waits.
        topic: under which the job tells of itself.
        number: of the job.
    """

    work: Callable[[T, Caller], R]
    job: T
    place: Path
    version: str
    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[R]):
    """What a worker answers: a result or an error of ours, and the warnings on the way."""

    result: R | None = None
    error: Error | None = None
    warned: tuple[str, ...] = ()


@contextmanager
def tasks(
    scheduler: str,
    work: Callable[[T, Caller], R],
    jobs: Mapping[str, T],
    place: Path,
    *,
    hear: Callable[[str], None] = lambda _: None,
) -> Iterator[Iterator[tuple[str, R | ClusterError]]]:
    """Lend the results of all jobs, each as it comes, with its name; leaving the block cancels what has not begun.

    A job whose worker dies is given to another worker, so it may run twice: in part, or even to its end where the
    worker dies before it can say so. `work` must bear that. Where more workers die over a job than the scheduler
    allows (`distributed.scheduler.allowed-failures`), an error that names it takes the place of its result. A job that
    only waited at a worker which died over another is not blamed.

    A worker does one job at a time, whatever its number of threads.

    Args:
        scheduler: the address of a Dask scheduler, or "slurm" for one here whose workers are SLURM jobs, as Dask's own
            configuration file describes them.
        work: a function that workers can import. It gets a job, and the caller, whom it can tell what `hear` is told.
        jobs: by names that end up in messages, "case heart_1".
        place: see `meeting_place`.
        hear: told what jobs tell, from a thread of its own.

    Raises:
        MissingExtraError: Dask is not installed.
        ClusterError: there is no such scheduler, it went away, or its workers lack mambino or the files.
        Error: whatever `work` raises.
    """
    dask = need("distributed", extra="cluster", why="--scheduler")
    with ExitStack() as stack:
        client = stack.enter_context(_client(dask, scheduler))
        topic = f"mambino-{uuid.uuid4().hex}"
        client.subscribe_topic(topic, lambda event: hear(event[1]))
        orders = [_Order(work, job, place, version("mambino"), topic, i) for i, job in enumerate(jobs.values())]
        # Numbers, not names: names of cases are nothing for the scheduler's pages. One group of keys makes the
        # scheduler keep what no worker has begun, so that it goes to whoever is free.
        keys = [(topic, number) for number in range(len(orders))]
        futures = client.map(_obey, orders, key=keys, pure=False) if orders else []
        stack.callback(client.cancel, futures)
        yield _answers(dask.as_completed(futures, loop=client.loop), client, orders, tuple(jobs), scheduler, futures)


@contextmanager
def meeting_place(folder: Path) -> Iterator[Path]:
    """Make a folder inside `folder` that workers must see under its full name, for as long as they are waited for.

    It has a name that nobody can guess: a worker that finds it has the same file system. What lies in it is removed
    at the end.

    Raises:
        FileFormatError: the folder cannot be written to.
    """
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove the meeting places that programs which were killed have left in a folder."""
    for place in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(place, ignore_errors=True)


def _check_waited_for(place: Path) -> None:
    """Refuse to work for nobody: the place is gone, or was never here."""
    if not place.is_dir():
        raise ClusterError(
            f"the worker on {platform.node()} does not find {place}: it has another file system than the machine that "
            "gave it work, or is no longer waited for",
            hint="a cluster needs one file system that all its machines see under the same names",
        )


def _answers(
    ending: Any,
    client: Any,
    orders: Sequence[_Order[T, R]],
    names: Sequence[str],
    scheduler: str,
    futures: list[Any],
) -> Iterator[tuple[str, Any]]:
    for future in ending:
        topic, number, *tries = future.key
        if len(tries) < len(names) - 1 and _is_blamed_for_others(future, orders[number]):
            again = client.submit(_obey, orders[number], key=(topic, number, *tries, "again"), pure=False)
            futures.append(again)
            ending.add(again)
        else:
            yield _ended(future, names[number], scheduler)


def _is_blamed_for_others(future: Any, order: _Order[T, R]) -> bool:
    """Tell whether workers died over a task, but fewer of them had begun with it than may die."""
    problem: Any = future.exception() if future.status == "error" else None
    if not _killed_workers(problem):
        return False
    begun = len(list(order.place.glob(_mark(order, "*"))))
    return begun <= int(problem.allowed_failures)


def _killed_workers(problem: object) -> bool:
    return type(problem).__name__ == "KilledWorker"


def _mark(order: _Order[T, R], text: str) -> str:
    return f"begun-{order.number}-{text}"


def _obey(order: _Order[T, R]) -> _Outcome[R]:
    """Do one job on a worker; errors and warnings of ours travel as values, all else is Dask's to carry."""
    # Threads of torch, its random numbers and Python's warnings belong to the whole process.
    with _TURN, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MambinoWarning)
        outcome: _Outcome[R]
        try:
            _check_version(version("mambino"), order.version, f"on {platform.node()}")
            _check_waited_for(order.place)
            (order.place / _mark(order, uuid.uuid4().hex)).touch()
            marks = _mark(order, "*")
            caller = Caller(order.topic, order.place, marks, len(list(order.place.glob(marks))))
            outcome = _Outcome(order.work(order.job, caller))
        except Error as error:
            outcome = _Outcome(error=error)
        said = tuple(str(one.message) for one in caught if issubclass(one.category, MambinoWarning))
    return _Outcome(outcome.result, outcome.error, said)


def _check_versions(client: Any) -> None:
    """Refuse workers that lack mambino, or have another one.

    They would die over what they cannot read. Hence they are asked with a function of Python's own.
    """
    for address, found in client.run(version, "mambino", on_error="return").items():
        _check_version(found if isinstance(found, str) else "none", version("mambino"), address)


def _check_version(there: str, here: str, worker: str) -> None:
    if there != here:
        raise ClusterError(f"the worker {worker} has mambino {there}, who gives it work has {here}", _SAME)


def _ended(future: Any, name: str, scheduler: str) -> tuple[str, Any]:
    """Return what became of a task that is no longer waited for."""
    if future.status == "cancelled":
        raise ClusterError(f"the scheduler {scheduler} went away while {name} was being worked on", _AGAIN)
    problem = future.exception()
    if problem is None:
        outcome = future.result()
        future.release()
        for text in outcome.warned:
            warnings.warn(text, MambinoWarning, stacklevel=2)
        if outcome.error is not None:
            raise outcome.error
        return name, outcome.result
    if _killed_workers(problem):
        return name, _killed(name, problem)
    if "deserializ" in str(problem) or isinstance(problem, ImportError):
        raise ClusterError(f"the cluster cannot read what it is given: {_first_line(problem)}", _SAME) from problem
    problem.add_note(f"while working on {name}")
    raise problem


def _killed(name: str, problem: Any) -> ClusterError:
    count = problem.allowed_failures + 1
    return ClusterError(
        f"{name}: its worker died, {count} times of {count} allowed, the last at {problem.last_worker.address}",
        hint="its log may say why: it needs mambino, and more memory where that ran out; what is done is kept",
    )


@contextmanager
def _client(dask: Any, scheduler: str) -> Iterator[Any]:
    """Connect to a scheduler, and part from it at the end."""
    with ExitStack() as stack:
        address = stack.enter_context(_slurm()) if scheduler == "slurm" else scheduler
        try:
            client = dask.Client(address, timeout=_PATIENCE, set_as_default=False, name="mambino")
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"--scheduler {scheduler}: no Dask scheduler answers there ({_first_line(error)})",
                hint='start one with "dask scheduler" and give the address that it prints, tcp://HOST:8786; or "slurm"',
            ) from None
        stack.callback(client.close)
        _check_versions(client)
        if scheduler != "slurm":
            _look_at_workers(client, scheduler)
        yield client


def _look_at_workers(client: Any, scheduler: str) -> None:
    """Warn where work has to wait: there is no worker yet, or workers take jobs that they do one after the other."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    many = [address for address, facts in workers.items() if facts["nthreads"] > 1]
    if not workers:
        warnings.warn(
            f"the scheduler {scheduler} has no workers yet: work waits for them", MambinoWarning, stacklevel=2
        )
    if many:
        warnings.warn(
            f"the worker {many[0]} has {workers[many[0]]['nthreads']} threads, but does one case at a time and lets as "
            "many wait: start it with --nthreads 1",
            MambinoWarning,
            stacklevel=2,
        )


@contextmanager
def _slurm() -> Iterator[Any]:
    """Start a scheduler here, which asks SLURM for as many workers as there is work."""
    jobqueue = need("dask_jobqueue", extra="cluster", why="--scheduler slurm")
    try:
        cluster = jobqueue.SLURMCluster()
    except (ValueError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"--scheduler slurm: Dask does not know how to ask for workers ({_first_line(error)})",
            hint="describe a job in ~/.config/dask/jobqueue.yaml, under jobqueue: slurm:",
        ) from None
    try:
        cluster.adapt()
        yield cluster
    finally:
        cluster.close()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
