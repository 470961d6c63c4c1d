"""Batches prepared in advance by threads that are watched: errors are raised, and what hangs is named.

A thread says what it reads (`reading`), so that a warning and an error can name the case. Threads are daemons: one that
waits for a dead file system for ever does not keep the program alive.
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

_READING: dict[int, tuple[str, float]] = {}
"""By the thread, what it reads and since when."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tell whoever waits for this thread what it reads."""
    thread = threading.get_ident()
    _READING[thread] = what, time.monotonic()
    try:
        yield
    finally:
        _READING.pop(thread, None)


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

    What goes wrong in a thread is raised here, in its turn. Without workers everything happens on demand.

    Args:
        make: from a number to a batch.
        first: number.
        workers: threads.
        slow, hung: seconds without a batch after which there is a warning, and an error.

    Raises:
        DataError: no batch came for `hung` seconds; names the case that is being read.
    """
    if workers == 0:
        yield from map(make, count(first))
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
        for thread in threads:
            thread.join(0.0 if thread.ident in _READING and _since(thread) > slow else None)


def _work(make: Callable[[int], T], tasks: "SimpleQueue[_Slot[T] | None]") -> None:
    torch.set_num_threads(1)
    while (slot := tasks.get()) is not None:
        try:
            slot.value = make(slot.number) if slot.number >= 0 else None
        except BaseException as error:
            slot.error = error
        finally:
            slot.done.set()


def _since(thread: threading.Thread) -> float:
    _, begin = _READING.get(thread.ident or 0, ("", time.monotonic()))
    return time.monotonic() - begin


def _read_by(workers: "list[threading.Thread]") -> str:
    """Say what the threads read, the longest first."""
    now = time.monotonic()
    found = sorted((_READING[t.ident] for t in workers if t.ident in _READING), key=lambda entry: entry[1])
    if not found:
        return "nothing is being read"
    return ", ".join(f"case {what} has been read for {now - begin:.4g} s" for what, begin in found)
