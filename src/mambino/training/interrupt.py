"""Ctrl-C or a request to end while training: the step is finished and the state saved before the program ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mambino.training.loop import proceed
from mambino.training.processes import Processes


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, or nobody waits any more: noticed where the state is whole."""


@contextmanager
def after_the_step(watch: Callable[[], None] = proceed) -> Iterator[Callable[[], None]]:
    """Lend a check that raises `Stopped` if Ctrl-C was pressed since, or SIGTERM sent; a second one acts at once.

    The handlers that were there before are put back at the end. Outside of the main thread, which alone gets
    signals, nothing is changed.

    Args:
        watch: called by the check, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    pressed = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    def look() -> None:
        if pressed.is_set():
            raise Stopped

    def check() -> None:
        look()
        watch()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        look()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def together(check: Callable[[], None], all_: Processes) -> Callable[[], None]:
    """Return a check that raises `Stopped` in all processes if any of them was stopped; all have to call it."""
    if all_.count == 1:
        return check

    def agreed() -> None:
        try:
            check()
        except Stopped:
            all_.each(1.0)
            raise
        if any(all_.each(0.0)):
            raise Stopped

    return agreed
