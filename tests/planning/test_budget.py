"""What nobody asked for follows from the machine, and is said."""

import math

import pytest

from mambino.core.options import PlanOptions
from mambino.planning import budget
from mambino.planning.budget import make_budget, wanted_steps


def test_a_processor_gets_an_hour_and_most_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(budget, "memory", lambda: 10.0)
    made = make_budget(PlanOptions(device="cpu"))
    assert (made.device, made.memory, made.minutes, made.timed) == ("cpu", 7.0, 60.0, True)
    assert "7.0 GiB" in made.assumed
    assert "60 minutes" in made.assumed


def test_a_gpu_gets_nnunets_memory_and_all_the_time_it_takes(monkeypatch):
    monkeypatch.setattr(budget, "is_here", lambda _: False)
    monkeypatch.setattr(budget, "device_memory", lambda _: None)
    made = make_budget(PlanOptions(device="cuda"))
    assert (made.memory, made.minutes, made.seconds, made.core_seconds) == (8.0, None, None, None)
    assert not made.timed
    monkeypatch.setattr(budget, "device_memory", lambda _: 4.0)
    assert make_budget(PlanOptions(device="cuda")).memory == 4.0


def test_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(budget, "cores", lambda: 4)
    made = make_budget(PlanOptions(device="cpu", memory=2.5, params=9, minutes=10))
    assert (made.memory, made.params, made.minutes, made.assumed) == (2.5, 9, 10, "")
    assert made.seconds == pytest.approx(510)
    assert made.core_seconds == pytest.approx(2040)


def test_more_time_is_shared_between_more_steps_and_longer_ones():
    assert wanted_steps(8 * 60 * budget.STEPPING) == 500
    assert wanted_steps(32 * 60 * budget.STEPPING) == 1000
    assert wanted_steps(1) == 100
    assert math.isclose(wanted_steps(4000) / wanted_steps(1000), 2, rel_tol=0.01)
