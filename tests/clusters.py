"""A Dask cluster of two processes on this machine, and what its workers are made to do."""

import importlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed

from mambino.core.options import Progress
from mambino.errors import DataError, MambinoWarning

ALLOWED = 1
"""So many workers may die over a task, and the task is done all the same."""


@contextmanager
def two_workers() -> Iterator[str]:
    """Lend the address of a scheduler with two workers, processes that are started again when they die."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED, "distributed.comm.timeouts.connect": 60}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
    ):
        yield cluster.scheduler_address


@contextmanager
def workers_with(address: str, plugin: distributed.WorkerPlugin) -> Iterator[None]:
    """Change workers of a cluster for the rest of its life, those too that are started later."""
    with distributed.Client(address, set_as_default=False) as client:
        client.register_plugin(plugin)
        yield


@contextmanager
def killing(flag: Path) -> Iterator[None]:
    """Kill the process that waits to be killed, once."""
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if flag.exists() and (number := flag.read_text()):
                os.kill(int(number), signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=look)
    killer.start()
    try:
        yield
    finally:
        ended.set()
        killer.join()


def wait_to_be_killed(flag: Path) -> None:
    """Wait for `killing`, unless there was such a wait before."""
    part = flag.with_suffix(f".{os.getpid()}")
    part.write_text(str(os.getpid()))
    try:
        flag.hardlink_to(part)
    except FileExistsError:
        return
    time.sleep(600)


class Waiting(distributed.WorkerPlugin):
    """Makes one function of workers note its calls, and wait to be killed in the first one for a certain name.

    Args:
        place: the module and name of the function.
        name: must stand in the text of the arguments.
        folder: for the notes, and for `killing`.
        after: wait when the function has done its work, not before.
    """

    name = "waiting"

    def __init__(self, place: tuple[Any, str], name: str, folder: Path, *, after: bool = False) -> None:
        self.place, self.part, self.folder, self.after = (place[0].__name__, place[1]), name, folder, after

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - Dask's
        module = importlib.import_module(self.place[0])
        original = getattr(module, self.place[1])

        def changed(*given: Any, **named: Any) -> Any:
            with (self.folder / "calls").open("a") as notes:
                notes.write(f"{given}\n")
            asked = self.part in str(given)
            if asked and not self.after:
                wait_to_be_killed(self.folder / "waits")
            made = original(*given, **named)
            if asked and self.after:
                wait_to_be_killed(self.folder / "waits")
            return made

        setattr(module, self.place[1], changed)


def note(job: tuple[str, Path], caller: Any) -> str:
    """Say hello, and leave a line in a file."""
    name, folder = job
    caller.tell(f"hello {name}")
    with (folder / name).open("a") as file:
        file.write("done\n")
    return name.upper()


def warn(job: str, _: Any) -> None:
    """Warn in our way and in another."""
    warnings.warn(f"{job} was read in part", MambinoWarning, stacklevel=2)


def refuse(job: str, _: Any) -> None:
    """Raise an error of ours."""
    raise DataError(f"{job} is no image", hint="look at it")


def stumble(job: str, _: Any) -> float:
    """Meet a bug of ours."""
    return 1 / len(job[:0])


def die(job: tuple[str, Path], caller: Any) -> str:
    """Kill the worker: once for the job "once", always for "always"."""
    name, folder = job
    if name == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "once":
        wait_to_be_killed(folder / "waits")
    return note(job, caller)


def linger(job: tuple[str, Path], caller: Any) -> str:
    """Work until the test says so."""
    name, folder = job
    (folder / f"begun-{name}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return note(job, caller)


def look_again(job: str, caller: Any) -> str:
    """Ask whether the job is still this worker's, after another has begun with it if the job says so."""
    caller.check()
    if job == "with another":
        (caller.place / caller.marks.replace("*", "another")).touch()
    caller.check()
    return job


def until(there: Any) -> None:
    """Wait for a condition."""
    for _ in range(6000):
        if there():
            return
        time.sleep(0.01)
    raise TimeoutError


def heard() -> tuple[list[tuple[int, int, str]], Progress]:
    """Return a list, and a callback that fills it."""
    steps: list[tuple[int, int, str]] = []
    return steps, lambda *step: steps.append(step)
