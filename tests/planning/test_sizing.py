"""Whatever the budget, the choice keeps to it; and more of it never buys less."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import OptionError
from mambino.models import build
from mambino.planning.budget import Budget, wanted_steps
from mambino.planning.networks import PLANNED
from mambino.planning.sizing import LEAST_VOXELS, SLOW_SCAN, Problem, fit
from tests.planning.measured import price

HIPPOCAMPUS = Problem(dim=3, channels=1, classes=3, spacing=(1, 1, 1), shape=(36, 50, 35), voxels=200 * 36 * 50 * 35)
PICTURES = Problem(dim=2, channels=3, classes=2, spacing=(1, 1), shape=(230, 255), voxels=54 * 230 * 255)


def cpu(minutes=8.0, memory=8.0, params=None):
    return Budget(device="cpu", memory=memory, params=params, minutes=minutes, timed=True, assumed="")


def gpu(memory=8.0, params=None):
    return Budget(device="cuda", memory=memory, params=params, minutes=None, timed=False, assumed="")


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("problem", [HIPPOCAMPUS, PICTURES], ids=["volumes", "pictures"])
@given(minutes=st.floats(0.5, 500), memory=st.floats(2, 32), seconds=st.floats(1e-8, 1e-6))
@settings(max_examples=10, deadline=None)
def test_the_choice_fits_into_memory_and_time_or_is_the_smallest(name, problem, minutes, memory, seconds):
    budget = cpu(minutes, memory)
    found = fit(name, problem, budget, price(seconds))
    divisor = build(found.spec.value).divisor
    assert all(side % step == 0 for side, step in zip(found.patch.value, divisor, strict=True))
    assert found.batch.value >= (1 if name in SLOW_SCAN else 2)
    assert found.memory.value <= memory + 0.01
    steps = wanted_steps(budget.seconds)
    if found.step.value * steps > 1.01 * budget.seconds:
        assert math.prod(found.patch.value) <= 2 * LEAST_VOXELS[problem.dim]
        assert "the smallest" in found.spec.why


@pytest.mark.parametrize("name", PLANNED)
def test_more_minutes_buy_a_network_that_is_not_smaller(name):
    sizes = []
    for minutes in (1, 8, 60, 600, 6000):
        options = fit(name, HIPPOCAMPUS, cpu(minutes), price(1e-7)).spec.value.options
        sizes.append(options.get("width") or options["features"][0])
    assert sizes == sorted(sizes)
    assert sizes[-1] == 32 > sizes[0]


def test_a_quick_network_gets_whole_cases_in_small_batches():
    found = fit("unet", HIPPOCAMPUS, cpu(8), price(2.5e-7))  # 4 s a million voxels for width 16
    assert found.patch.value == (40, 56, 40)
    assert found.batch.value == 2
    assert found.spec.value.options["features"] == (16, 32, 64, 128)
    assert "whole median case" in found.patch.why


def test_a_slow_network_gets_a_smaller_patch_and_says_so():
    found = fit("lightm_unet", HIPPOCAMPUS, cpu(8), price(3e-6))
    assert math.prod(found.patch.value) < 40 * 56 * 40
    assert found.spec.value.options["width"] == 8
    assert "more minutes would help" in found.spec.why


def test_small_slices_come_in_batches_of_some_dozens():
    slices = Problem(dim=2, channels=1, classes=3, spacing=(1, 1), shape=(50, 35), voxels=200 * 36 * 50 * 35)
    assert 8 <= fit("unet", slices, cpu(15), price(1e-7)).batch.value <= 281


def test_without_a_limit_of_time_the_published_sizes_fill_the_memory():
    assert fit("unet", HIPPOCAMPUS, gpu(), price(None)).spec.value.options["features"] == (32, 64, 128, 256)
    found = fit("lightm_unet", HIPPOCAMPUS, gpu(4.0), price(None))
    assert found.spec.value.options["width"] == 32
    assert found.memory.value <= 4
    assert found.step.value == 0
    assert "there is no cuda device on this machine" in found.step.why


@pytest.mark.parametrize("budget", [cpu(500, params=400_000), gpu(params=400_000)], ids=["cpu", "gpu"])
def test_the_network_has_no_more_parameters_than_allowed(budget):
    for name in PLANNED:
        network = build(fit(name, HIPPOCAMPUS, budget, price(1e-9)).spec.value)
        assert sum(parameter.numel() for parameter in network.parameters()) <= 400_000


def test_too_few_parameters_are_refused():
    with pytest.raises(OptionError, match=r"--params 1000: the smallest unet for this data has \d+ parameters"):
        fit("unet", HIPPOCAMPUS, cpu(params=1000), price())


@pytest.mark.parametrize(
    ("name", "budget"), [("unet", cpu(memory=0.51)), ("unet", gpu(0.05)), ("lightm_unet", gpu(0.6))]
)
def test_too_little_memory_is_refused(name, budget):
    with pytest.raises(OptionError, match=rf"--memory .*: the smallest {name} for this data needs .* GiB"):
        fit(name, HIPPOCAMPUS, budget, price(1e-7, memory=10_000))


def test_a_network_that_scans_slowly_learns_from_single_patches_where_time_is_short():
    assert fit("lightm_unet", HIPPOCAMPUS, cpu(8.0), price(3e-6)).batch.value == 1
    assert fit("unet", HIPPOCAMPUS, cpu(8.0), price(3e-6)).batch.value == 2
