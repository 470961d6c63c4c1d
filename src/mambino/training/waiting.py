"""Batches prepared in advance by threads that are watched: errors are raised, and what hangs is named.

A thread says what it reads (`reading`), so that a warning and an error can name the case. Threads are daemons: one that
waits for a dead file system for ever does not keep the program alive. What the thread that learns reads by itself is
watched as well: whole cases to validate on, and without workers every patch.
"""

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Generator as Yielding
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

from mambino.errors import DataError, MambinoWarning

T = TypeVar("T")

AHEAD = 4
"""Batches that are prepared in advance."""
SLOW, HUNG = 60.0, 1800.0
"""Seconds without a batch after which a warning names what is read, and after which the run ends with an error."""
LEAVING = 5.0
"""Seconds that threads have to end in when a run does; one that still reads then is left to the system."""

_READING: dict[int, tuple[str, float]] = {}
"""By the thread, what it reads and since when."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tell whoever waits for this thread what it reads, as in "case heart_7"."""
    thread = threading.get_ident()
    _READING[thread] = what, time.monotonic()
    try:
        yield
    finally:
        _READING.pop(thread, None)


@contextmanager
def watched(slow: float = SLOW) -> Iterator[None]:
    """Warn where this thread, for which nobody waits, reads something for longer than `slow` seconds."""
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(threading.get_ident(), slow, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join(LEAVING)


class _Slot(Generic[T]):
    """Where a thread puts a batch, or what went wrong."""

    def __init__(self, number: int) -> None:
        self.number, self.done = number, threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None

    def result(self, workers: "list[threading.Thread]", slow: float, hung: float) -> T:
        """Wait for the batch; raise what went wrong.

        Raises:
            DataError: nothing came for too long.
        """
        if not self.done.wait(slow):
            warnings.warn(
                f"no batch for {slow:.4g} s: {_read_by(workers)}; waiting until {hung:.4g} s",
                MambinoWarning,
                stacklevel=4,
            )
            if not self.done.wait(max(0.0, hung - slow)):
                raise DataError(
                    f"no batch for {hung:.4g} s: {_read_by(workers)}",
                    hint="see whether the disk that it lies on still answers, then go on with --resume",
                )
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def stream(
    make: Callable[[int], T], first: int, workers: int, *, slow: float = SLOW, hung: float = HUNG
) -> Yielding[T, None, None]:
    """Yield make(first), make(first + 1), ... for ever, prepared in advance by `workers` threads.

    What goes wrong in a thread is raised here, in its turn. Without workers all happens on demand, and what hangs
    is named by a warning; there is nobody then to raise an error.

    Args:
        make: from a number to a batch.
        first: number.
        workers: threads.
        slow, hung: seconds without a batch after which there is a warning, and an error.

    Raises:
        DataError: no batch came for `hung` seconds; names the case that is being read.
    """
    with watched(slow):
        if workers == 0:
            yield from map(make, count(first))
        else:
            yield from _prepared(make, first, workers, slow, hung)


def _prepared(make: Callable[[int], T], first: int, workers: int, slow: float, hung: float) -> Yielding[T, None, None]:
    tasks: SimpleQueue[_Slot[T] | None] = SimpleQueue()
    threads = [threading.Thread(target=_work, args=(make, tasks), daemon=True) for _ in range(workers)]
    before = torch.get_num_threads()
    for thread in threads:
        thread.start()
    waiting: deque[_Slot[T]] = deque()
    numbers = count(first)

    def ask() -> None:
        waiting.append(_Slot(next(numbers)))
        tasks.put(waiting[-1])

    try:
        for _ in range(AHEAD):
            ask()
        while True:
            batch = waiting.popleft().result(threads, slow, hung)
            torch.set_num_threads(before)  # a starting worker sets it for everybody
            ask()
            yield batch
    finally:
        for slot in waiting:
            slot.number = -1  # nobody wants it any more
        for _ in threads:
            tasks.put(None)
        end = time.monotonic() + LEAVING
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _work(make: Callable[[int], T], tasks: "SimpleQueue[_Slot[T] | None]") -> None:
    torch.set_num_threads(1)
    while (slot := tasks.get()) is not None:
        try:
            slot.value = make(slot.number) if slot.number >= 0 else None
        except BaseException as error:
            slot.error = error
        finally:
            slot.done.set()


def _watch(thread: int, slow: float, over: threading.Event) -> None:
    """Warn, once for each read that takes too long."""
    told: tuple[str, float] | None = None
    while not over.wait(slow / 4):
        now = _READING.get(thread)
        if now and now is not told and time.monotonic() - now[1] > slow:
            told = now
            warnings.warn(f"{_said(now)}; waiting on", MambinoWarning, stacklevel=2)


def _read_by(workers: "list[threading.Thread]") -> str:
    """Say what the threads read, the longest first."""
    now = [_READING.get(thread.ident or 0) for thread in workers]
    found = sorted((entry for entry in now if entry), key=lambda entry: entry[1])
    return ", ".join(map(_said, found)) or "nothing is being read"


def _said(entry: tuple[str, float]) -> str:
    what, begin = entry
    return f"{what} has been read for {time.monotonic() - begin:.4g} s"
