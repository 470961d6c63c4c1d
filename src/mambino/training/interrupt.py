"""Ctrl-C while training: the step is finished and the state saved before the program ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mambino.training.loop import proceed


class Stopped(KeyboardInterrupt):
    """Ctrl-C, noticed where the state is whole."""


@contextmanager
def after_the_step() -> Iterator[Callable[[], None]]:
    """Lend a check that raises `Stopped` if Ctrl-C was pressed since; a second Ctrl-C acts at once.

    The handler that was there before is put back at the end. Outside of the main thread, which alone gets
    signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield proceed
        return
    pressed = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    def check() -> None:
        if pressed.is_set():
            raise Stopped

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, before)
