"""Work on many files at once, in processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from mambino.core.machine import cores

T = TypeVar("T")
R = TypeVar("R")

_POOL_PAYS = 8 << 20  # bytes; reading less takes no longer than starting the processes
_SHARES = 16  # parts of the work that each process gets: few enough to be cheap, enough to end together


def spread(work: Callable[[T], R], jobs: Sequence[T], files: Sequence[Path], workers: int) -> Iterator[R]:
    """Yield the result of every job in order; `files` are what the jobs will read, `workers` 0 is one a core."""
    workers = min(workers or cores(), len(jobs))
    if workers < 2 or sum(file.stat().st_size for file in files if file.is_file()) < _POOL_PAYS:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs, chunksize=max(1, len(jobs) // (workers * _SHARES)))
