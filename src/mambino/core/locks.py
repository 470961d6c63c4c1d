"""Folders that one program at a time may write in: the system's own locks, which end with whoever holds them."""

import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mambino.core.records import unwritable
from mambino.errors import MambinoWarning, OptionError

_PAUSE = 0.2  # seconds between two looks at a lock that is waited for

if sys.platform == "win32":
    import msvcrt

    _AWAY = 1 << 30  # a byte that nobody reads: Windows keeps others from what is locked

    def _lock(handle: int) -> None:
        os.lseek(handle, _AWAY, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _let_go(handle: int) -> None:
        os.lseek(handle, _AWAY, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _let_go(handle: int) -> None:
        # Closing would not do where a process that was forked meanwhile has the file open, too.
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def alone_in(folder: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep a folder for the block: whoever else asks for it is refused, or waits.

    The lock is on a file beside the folder, `.NAME.lock`, which stays; the system lets go of the lock when the program
    that holds it ends in any way. Between machines it holds where the locks of their file system do: on NFS, and on
    Lustre that is mounted with `-o flock`. Where a file system has none, a warning says so.

    Args:
        folder: need not be there.
        wait: called again and again while another program holds the folder, until it is free; what it raises ends the
            waiting. If not given, there is no waiting.

    Raises:
        OptionError: another program holds the folder, and there is no waiting.
        FileFormatError: the lock's file cannot be written.
    """
    handle = _opened(folder)
    try:
        while not _taken(handle, folder):
            if wait is None:
                raise OptionError(
                    f"{folder} is in use: {_who(handle)} writes there",
                    hint="wait until that has ended; what was killed holds nothing any more",
                )
            wait()
            time.sleep(_PAUSE)
        _sign(handle, f"process {os.getpid()} on {platform.node()}")
        try:
            yield
        finally:
            _sign(handle, "")
            with suppress(OSError):  # there are no locks
                _let_go(handle)
    finally:
        os.close(handle)


def holder(folder: Path) -> str:
    """Return who holds a folder, in words; nothing if nobody does."""
    handle = _opened(folder)
    try:
        return "" if _taken(handle, folder) else _who(handle)
    finally:
        os.close(handle)


def _opened(folder: Path) -> int:
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise unwritable(path, error) from None


def _taken(handle: int, folder: Path) -> bool:
    """Try to take a lock; where there are none, behave as if it was free."""
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it that no other program writes there",
            MambinoWarning,
            stacklevel=4,
        )
    return True


def _sign(handle: int, text: str) -> None:
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode())


def _who(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 200).decode(errors="replace") or "another program"
