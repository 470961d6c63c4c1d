"""What must not happen to a damaged file is noticed: a crash, a hang, too much memory, other errors, leaks."""

import faulthandler
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.kinds import Kind
from tests.fuzz.parent import read_damaged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
KEPT: list[object] = []


def _numbered(_: bytes, rng: random.Random) -> bytes:
    """Write the seed, found by what it gives first."""
    first = rng.random()
    return str(next(seed for seed in range(9) if random.Random(seed).random() == first)).encode()


def _seed(path: Path) -> int:
    return int(path.read_text())


def _crash(path: Path) -> None:
    if _seed(path) == 1:
        faulthandler._sigsegv()


def _hang(path: Path) -> None:
    if _seed(path) == 1:
        time.sleep(60)


def _memory(path: Path) -> None:
    if _seed(path) == 1:
        np.ones(2**28)


def _file(path: Path) -> None:
    if _seed(path) == 1:
        KEPT.append(path.open())


def _scratch(path: Path) -> None:
    if _seed(path) == 1:
        os.close(tempfile.mkstemp()[0])


def _silent(path: Path) -> None:
    from mambino.errors import DataError

    if _seed(path) == 1:
        raise DataError("")


def kinds() -> list[Kind]:
    """Return kinds of which the second of three files goes wrong."""
    reads = {"crash": _crash, "hang": _hang, "memory": _memory, "file": _file, "scratch": _scratch, "silent": _silent}
    return [Kind(name, "a.txt", lambda path: path.write_text("-1"), _numbered, read) for name, read in reads.items()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash", "crash 1: ended with -11"),
        ("hang", "hang 1: ended with 1"),
        ("memory", "memory 1: Traceback"),
        ("file", "file all: 1 files stay open"),
        ("scratch", "scratch 1: left ['tmp"),
        ("silent", "silent 1: an error without words"),
    ],
)
def test_what_goes_wrong_is_noticed_and_the_rest_is_read(tmp_path, name, words):
    found = read_damaged([(name, 0, 3)], tmp_path / "read", kinds=[__name__], seconds=1.0)
    assert len(found.wrong) == 1
    assert found.wrong[0].startswith(words)
    assert found.counts["read"] == (3 if name in {"file", "scratch"} else 2)
