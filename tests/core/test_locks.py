"""One program at a time holds a folder; one that was killed holds nothing."""

import errno
import os
import platform
import subprocess
import sys
import threading

import pytest

from mambino.core import locks
from mambino.core.locks import alone_in, holder
from mambino.errors import FileFormatError, MambinoWarning, OptionError

HOLD = """
import pathlib, sys, time
from mambino.core.locks import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_once_and_free_afterwards(tmp_path):
    folder = tmp_path / "runs" / "one"
    me = f"process {os.getpid()} on {platform.node()}"
    with alone_in(folder):
        assert holder(folder) == me
        with pytest.raises(OptionError, match=f"one is in use: {me} writes there$") as caught, alone_in(folder):
            pass
        with alone_in(tmp_path / "runs" / "two"):
            pass
    assert "wait until that has ended" in caught.value.hint
    assert holder(folder) == ""
    assert (tmp_path / "runs" / ".one.lock").read_bytes() == b""
    with alone_in(folder):
        pass


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "one"):
        raise ZeroDivisionError
    assert holder(tmp_path / "one") == ""


def test_a_program_that_was_killed_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "one"], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            assert holder(tmp_path / "one") == f"process {other.pid} on {platform.node()}"
        finally:
            other.kill()
    with alone_in(tmp_path / "one"):
        assert holder(tmp_path / "one") == f"process {os.getpid()} on {platform.node()}"


def test_whoever_waits_gets_the_folder_when_it_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PAUSE", 0.01)
    waited, order = threading.Event(), []

    def second():
        with alone_in(tmp_path / "one", waited.set):
            order.append("second")

    with alone_in(tmp_path / "one"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_what_waiting_raises_ends_it(tmp_path):
    def give_up():
        raise TimeoutError

    with alone_in(tmp_path / "one"):
        with pytest.raises(TimeoutError), alone_in(tmp_path / "one", give_up):
            pass
        assert holder(tmp_path / "one") != ""


def test_a_file_system_without_locks_is_spoken_of(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", fail)
    with pytest.warns(MambinoWarning, match=r"one cannot be locked \(No locks available\)"), alone_in(tmp_path / "one"):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match=r"\.one\.lock cannot be written"), alone_in(tmp_path / "file" / "one"):
        pass
