"""A damaged file is read or refused in words of ours: no crash, no hang, no memory beyond a limit, nothing left behind.

`make test-slow` damages each kind `EACH` times, more than 10 000 files in all; what once went wrong is tried at once.
"""

import os
import sys

import pytest

from tests.fuzz import images, records
from tests.fuzz.parent import Found, read_damaged

KINDS = tuple(kind.name for kind in (*images.kinds(), *records.kinds()))
EACH = 300
QUICK = 12
START = 1_000_000
"""First seed of the many, so that they are others than the few."""

ONCE_WRONG = (
    *(("mha", 42), ("mhd", 42), ("mgh", 34), ("tiff pages", 13), ("prepared labels", 87), ("log", 1)),
    *(("plan", START + 39), ("dicom deflated", START + 131), ("tiff", START + 71), ("dicomdir", START + 10)),
)
SHARES = 4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")


def check(found: Found, count: int) -> None:
    assert found.wrong == []
    assert found.counts.total() == count
    assert min(found.counts["read"], found.counts["refused"]) > count / 50  # neither harmless nor refused unread


@pytest.mark.parametrize("share", range(2))
def test_a_few_damaged_files_of_every_kind(tmp_path, share):
    kinds = KINDS[share::2]
    check(read_damaged([(kind, 0, QUICK) for kind in kinds], tmp_path / "read"), QUICK * len(kinds))


def test_files_that_once_went_wrong(tmp_path):
    found = read_damaged([(kind, seed, seed + 1) for kind, seed in ONCE_WRONG], tmp_path / "read")
    assert found.wrong == []
    assert found.counts.total() == len(ONCE_WRONG)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_thousands_of_damaged_files(tmp_path, share):
    kinds = KINDS[share::SHARES]
    each = int(os.environ.get("MAMBINO_FUZZ", EACH))
    check(read_damaged([(kind, START, START + each) for kind in kinds], tmp_path / "read"), each * len(kinds))


@pytest.mark.slow
def test_these_are_ten_thousand():
    assert EACH * len(KINDS) > 10_000
