"""Changes of intensity keep the size, change nothing in place, and say the same for the same generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.training import intensity
from mambino.training.intensity import FULL, LIGHT
from tests.close import assert_close

CHANGES = [change for _, change in FULL]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", CHANGES)
@given(seed=st.integers(0, 50), shape=st.sampled_from([(1, 7, 9), (3, 8, 5), (2, 4, 5, 6), (1, 1, 1, 3)]))
@settings(max_examples=15, deadline=None)
def test_changes_are_finite_repeatable_and_not_in_place(change, seed, shape):
    image = torch.randn(shape, generator=generator(seed))
    before = image.clone()
    one, two = change(image, generator(seed)), change(image, generator(seed))
    assert one.shape == image.shape
    assert one.dtype == torch.float32
    assert torch.equal(one, two)
    assert torch.isfinite(one).all()
    assert torch.equal(image, before)


@pytest.mark.parametrize("change", CHANGES)
def test_a_constant_channel_stays_finite(change):
    assert torch.isfinite(change(torch.full((1, 5, 5), 3.0), generator())).all()


@pytest.mark.parametrize("change", [intensity.gamma, intensity.inverted_gamma])
def test_gamma_keeps_mean_and_deviation(change):
    image = torch.randn(2, 20, 20, generator=generator()) * 4 + 7
    bent = change(image, generator(1))
    assert not torch.allclose(bent, image)
    assert_close(bent.mean((1, 2)), image.mean((1, 2)))
    assert_close(bent.std((1, 2)), image.std((1, 2)))


def test_contrast_keeps_the_range():
    image = torch.randn(1, 20, 20, generator=generator())
    for seed in range(5):
        low, high = intensity.contrast(image, generator(seed)).aminmax()
        assert image.min() <= low
        assert high <= image.max()


def test_blur_is_a_mean_of_neighbours():
    spike = torch.zeros(4, 11, 11)
    spike[:, 5, 5] = 1
    blurred = intensity.blur(spike, generator(3))
    assert_close(blurred.sum((1, 2)), torch.ones(4))
    assert blurred.amax() <= 1
    assert (blurred.amax((1, 2)) < 0.9).any()


def test_the_light_list_is_part_of_the_full_one():
    assert {change for _, change in LIGHT} < set(CHANGES)
