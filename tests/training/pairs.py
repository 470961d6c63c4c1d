"""Two processes that learn together on one processor: what tests of them start, and what these run."""

import os
import subprocess
import sys

import pytest

from tests.places import ROOT

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def launched(*words, count=2, timeout=300):
    """Run `python WORDS` in so many processes and return what became of them; they end when their time is up."""
    command = [*TORCHRUN, str(count), *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env
    ) as agent:
        try:
            out, err = agent.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            agent.terminate()  # it ends its processes, which lie in sessions of their own; a kill would leave them
            out, err = agent.communicate()
            pytest.fail(f"{words} took more than {timeout} s: {err}")
    return subprocess.CompletedProcess(command, agent.returncode, out, err)
