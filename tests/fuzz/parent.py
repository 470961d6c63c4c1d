"""Starts the reading of damaged files, starts it again after a crash, and says what went wrong."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.places import ROOT

KINDS = ("tests.fuzz.images", "tests.fuzz.records")
MOST_TAKEN = 64 * 2**20
"""Bytes that all files of a kind may leave taken; allocators keep some."""

Job = tuple[str, int, int]
"""Name of the kind, first seed, and the seed to stop before."""


@dataclass(slots=True)
class Found:
    """What became of the files.

    Attributes:
        counts: how many were "read" and how many "refused".
        wrong: what must not happen, with the kind and the seed that make it happen again.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


SECONDS = 20.0
"""For one file; reading the whole one takes milliseconds."""


def read_damaged(jobs: Iterable[Job], folder: Path, *, kinds: Iterable[str] = KINDS, seconds: float = SECONDS) -> Found:
    """Read damaged files in processes of their own.

    Args:
        jobs: which.
        folder: for what the processes write; emptied before each.
        kinds: modules with a function `kinds`.
        seconds: after which a file hangs.
    """
    found, left = Found(), list(jobs)
    while left:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        asked = {"kinds": list(kinds), "jobs": left, "seconds": seconds}
        (folder / "work.json").write_text(json.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.child", str(folder)],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
        notes = folder / "notes"
        lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        for line in lines:
            _take(line, found)
        if done.returncode == 0:
            break
        if not lines:
            raise RuntimeError(f"the reading did not start: {done.stderr[-3000:]}")
        last = lines[-1]
        found.wrong.append(f"{last['kind']} {last['seed']}: ended with {done.returncode}: {done.stderr[-3000:]}")
        left = list(_rest(left, last["kind"], last["seed"]))
    return found


def _take(note: dict[str, Any], found: Found) -> None:
    said, place = note.get("said"), f"{note['kind']} {note.get('seed', 'all')}"
    if said in {"read", "refused"}:
        found.counts[said] += 1
    elif said:
        found.wrong.append(f"{place}: {said}")
    if note.get("left"):
        found.wrong.append(f"{place}: left {note['left']}")
    if note.get("files", 0) > 0 or note.get("taken", 0) > MOST_TAKEN:
        found.wrong.append(f"{place}: {note['files']} files stay open and {note['taken']} bytes taken")


def _rest(jobs: list[Job], kind: str, seed: int) -> Iterable[Job]:
    """Yield what is left to do after one file of `kind`."""
    names = [name for name, *_ in jobs]
    for name, first, last in jobs[names.index(kind) :]:
        start = seed + 1 if name == kind else first
        if start < last:
            yield name, start, last
