"""A device is the one asked for, and one that is not there is refused."""

import platform
import subprocess
import sys

import pytest
import torch

from mambino.errors import OptionError
from mambino.nn.device import choose_device


def test_the_processor_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(("name", "backend"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, backend):
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(OptionError, match=f"the device {name} is asked for, but torch .* finds none") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.hint


FAULTS = """
import resource
import torch
from mambino.nn.device import keep_allocations

def faults():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = faults()
kept = keep_allocations()
print(kept, by_default, [faults() for _ in range(5)][-1])  # some heaps take a few calls to find their place
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_memory_that_was_freed_is_not_cleared_page_by_page_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    assert kept == "True"
    assert int(before) > 100
    assert int(after) < int(before) / 10
