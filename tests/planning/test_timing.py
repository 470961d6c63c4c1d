"""A step is measured once, on one thread, and without a device only its memory."""

import pytest
import torch

from mambino.planning import timing
from mambino.planning.networks import network, sizes
from mambino.planning.timing import clock, device_memory, find_device, is_here, outline
from mambino.planning.topology import topology

PLAN = topology((1, 1), (16, 16))
SMALL, LARGE = (network("unet", size, PLAN, PLAN.patch, 1, 2) for size in (sizes("unet")[0], sizes("unet")[-1]))


def test_a_larger_network_costs_more():
    measure = clock("cpu")
    small, large = measure(SMALL, (16, 16)), measure(LARGE, (16, 16))
    assert 0 < small.seconds < large.seconds < 1
    assert 4 < small.memory < large.memory
    assert (small.parameters, large.parameters) == (outline(SMALL).parameters, outline(LARGE).parameters)


def test_a_clock_remembers(monkeypatch):
    measure = clock("cpu")
    first = measure(SMALL, (16, 16))
    monkeypatch.setattr(timing, "_cost", None)
    assert measure(SMALL, (16, 16)) is first


def test_measuring_changes_neither_threads_nor_random_numbers():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    clock("cpu")(SMALL, (16, 16))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_here_has_a_memory_but_no_time():
    cost = clock("cuda")(SMALL, (16, 16))
    assert cost.seconds is None
    assert cost.memory > 0
    assert not is_here("cuda")
    assert device_memory("cuda") is None
    assert find_device("auto") == "cpu"
    assert find_device("cuda") == "cuda"
