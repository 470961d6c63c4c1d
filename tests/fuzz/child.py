"""Reads damaged files, one after the other, and notes what became of each: `python -m tests.fuzz.child FOLDER`.

It gives itself a limit of memory and each file one of time. What ends the process, a crash or a hang, is seen by
whoever started it: the last line of the notes names the file.
"""

import ctypes
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
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from mambino.errors import Error
from tests.fuzz.kinds import Kind

MEMORY = 2**30
"""Bytes that reading may take, beyond what the process has taken before the first file."""

_WARM = 20  # files after which memory is measured, since libraries keep what they once took


def main(folder: Path) -> None:
    """Read damaged files; `folder` holds `work.json`, as `parent.read_damaged` writes it.

    Notes go to `notes` in it, as lines of JSON.
    """
    asked = json.loads((folder / "work.json").read_text())
    scratch = folder / "scratch"
    scratch.mkdir()
    tempfile.tempdir = str(scratch)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kinds = {kind.name: kind for module in asked["kinds"] for kind in import_module(module).kinds()}
    jobs = [(kinds[name], first, last) for name, first, last in asked["jobs"]]
    gc.freeze()  # so that looking for what can be given back later is quick
    for kind, *_ in jobs:  # what is whole is read; and what is imported on first use does not count as taken
        whole = folder / "whole" / kind.name
        (whole / kind.file).parent.mkdir(parents=True)
        kind.make(whole / kind.file)
        kind.read(_copied(whole, folder / "work") / kind.file)
    _limit_memory()
    with (folder / "notes").open("w", encoding="utf-8", buffering=1) as notes:
        for kind, first, last in jobs:
            for note in _read_all(kind, range(first, last), folder, asked["seconds"]):
                notes.write(json.dumps({"kind": kind.name, **note}) + "\n")


def _read_all(kind: Kind, seeds: range, folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a note before each file, one after it, and one at the end of what was not given back."""
    whole, work, scratch = folder / "whole" / kind.name, folder / "work", folder / "scratch"
    data, kept, before = (whole / kind.file).read_bytes(), set(scratch.iterdir()), _held()
    for seed in seeds:
        yield {"seed": seed}
        (_copied(whole, work) / kind.file).write_bytes(kind.change(data, random.Random(seed)))
        faulthandler.dump_traceback_later(seconds, exit=True)
        said = _became(kind, work / kind.file)
        faulthandler.cancel_dump_traceback_later()
        left = set(scratch.iterdir()) - kept
        kept |= left
        yield {"seed": seed, "said": said, "left": [file.name for file in left]}
        if seed == seeds.start + _WARM:
            before = _held()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not lost
    files, taken = (now - then for now, then in zip(_held(), before, strict=True))
    yield {"files": 0 if kind.keeps_open else files, "taken": taken}


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
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return len(os.listdir("/proc/self/fd")), pages * resource.getpagesize()  # noqa: PTH208


if __name__ == "__main__":
    main(Path(sys.argv[1]))
