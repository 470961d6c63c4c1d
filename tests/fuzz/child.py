"""Reads damaged files, one after the other, and notes what became of each: `python -m tests.fuzz.child ...`.

It gives itself a limit of memory and each file one of time. What ends the process, a crash or a hang, is seen by
whoever started it: the last line of the notes names the file.
"""

import faulthandler
import gc
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import torch

from mambino.errors import Error
from tests.fuzz import images, records
from tests.fuzz.kinds import Kind

MEMORY = 2**30
"""Bytes that reading may take, beyond what the process has taken before the first file."""

SECONDS = 20.0
"""For one file; reading the whole one takes milliseconds."""

_WARM = 20  # files after which memory is measured, since libraries keep what they once took


def main(name: str, first: int, last: int, folder: Path) -> None:
    """Read the damaged files of one kind whose seeds run from `first` to before `last`; write notes as JSON lines."""
    kind = next(kind for kind in (*images.kinds(), *records.kinds()) if kind.name == name)
    whole, work, scratch = folder / "whole", folder / "work", folder / "scratch"
    for made in (whole, scratch):
        made.mkdir(parents=True)
    tempfile.tempdir = str(scratch)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind.make(whole / kind.file)
    data = (whole / kind.file).read_bytes()
    kind.read(_copied(whole, work) / kind.file)  # what is whole is read
    with (folder / "notes").open("w", encoding="utf-8", buffering=1) as notes:
        _limit_memory()
        for seed in range(first, last):
            notes.write(json.dumps({"seed": seed}) + "\n")
            damaged = kind.change(data, random.Random(seed))
            (_copied(whole, work) / kind.file).write_bytes(damaged)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            said = _became(kind, work / kind.file)
            faulthandler.cancel_dump_traceback_later()
            left = [file.name for file in scratch.iterdir()]
            if seed == first + _WARM:
                before = _held()
            notes.write(json.dumps({"seed": seed, "said": said, "left": left}) + "\n")
        gc.collect()
        if last - first > _WARM:
            files, taken = (now - then for now, then in zip(_held(), before, strict=True))
            notes.write(json.dumps({"files": files, "taken": taken}) + "\n")


def _copied(whole: Path, work: Path) -> Path:
    """Put the valid files of a kind into an empty folder."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work)
    return work


def _became(kind: Kind, path: Path) -> str:
    """Return how reading a file ended: "read", "refused", or the traceback of what must not happen."""
    try:
        kind.read(path)
    except Error as error:
        return "refused" if str(error).strip() else "an error without words"
    except BaseException:
        return traceback.format_exc()
    return "read"


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _held() -> tuple[int, int]:
    """Return how many files are open, and the bytes in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return len(os.listdir("/proc/self/fd")), pages * resource.getpagesize()  # noqa: PTH208


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
