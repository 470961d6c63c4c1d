"""One case is read while another goes through the network, and a third is written."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(items: Sequence[T], read: Callable[[T], R], beside: Callable[[T], bool]) -> Generator[tuple[T, R]]:
    """Yield items with what was read of each; the next one is read while the caller works on this one.

    Args:
        items: in the order in which they are wanted.
        read: of one item; what it raises is raised here.
        beside: tells whether an item may be in memory beside others. Only two such neighbours are.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        coming: Future[R] | None = None
        for number, item in enumerate(items):
            found = coming.result() if coming else read(item)
            following = items[number + 1 : number + 2]
            ready = all(map(beside, (item, *following))) and following
            coming = pool.submit(copy_context().run, read, following[0]) if ready else None
            yield item, found


class Writer:
    """Does what it is told in a thread of its own, one thing after the other; at most one waits."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._last: Future[None] | None = None

    def later(self, write: Callable[[], None]) -> None:
        """Do something once what was told before is done; raises what that has raised."""
        self.wait()
        self._last = self._pool.submit(copy_context().run, write)

    def now(self, write: Callable[[], None]) -> None:
        """Do something here, after what was told before."""
        self.wait()
        write()

    def wait(self) -> None:
        """Wait until all is done; raises what it has raised."""
        last, self._last = self._last, None
        if last:
            last.result()


@contextmanager
def writer() -> Iterator[Writer]:
    """Lend a writer; at the end, and where the block is left by an error, what was told is done."""
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        made = Writer(pool)
        yield made
        made.wait()
