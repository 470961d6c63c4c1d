"""Two processes that learn together on one processor: what tests of them start, and what these run."""

import os
import subprocess
import sys

from tests.places import ROOT

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def launched(*words, count=2, env=None, timeout=120):
    """Run `python WORDS` in so many processes and return what became of them."""
    command = [*TORCHRUN, str(count), *map(str, words)]
    values = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT, env=values)
