"""Work on parts of an array, shared between threads: numpy leaves the interpreter free while it computes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import TypeVar

from mambino.core.machine import cores

T = TypeVar("T")

_LIMIT: ContextVar[int] = ContextVar("threads", default=0)


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Share work between `count` threads inside the block; 0: one a core that this process may use."""
    token = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def shared(call: Callable[[T], object], parts: Sequence[T]) -> None:
    """Call with each of some parts, which do not depend on one another; what one raises is raised here."""
    count = min(_LIMIT.get() or cores(), len(parts))
    if count < 2:
        for part in parts:
            call(part)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="shared") as pool:
        for _ in pool.map(call, parts):
            pass


def spans(length: int, count: int = 0) -> list[slice]:
    """Cut a length into as many parts as there are threads, none of them empty."""
    count = max(1, min(length, count or _LIMIT.get() or cores()))
    edges = [length * i // count for i in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]
