"""The loss is 1 - Dice + cross-entropy of the voxels that may be learnt, on every scale."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.labels import Labels
from mambino.training.loss import IGNORED, deep_dice_ce, dice_ce, learnable, region_targets, scale_weights
from tests.close import assert_close

PLAIN = Labels(names={"a": (1,), "b": (2,)})
REGIONS = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))


def sample(seed, labels, shape=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.out_channels, *shape, generator=generator)
    return logits, torch.randint(0, 3, (2, *shape), generator=generator)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
@given(seed=st.integers(0, 99), where=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_what_the_network_says_of_ignored_voxels_does_not_matter(labels, seed, where):
    logits, target = sample(seed, labels)
    target[:, where] = IGNORED
    other = logits.clone()
    other[:, :, where] += 5 * torch.randn_like(other[:, :, where])
    for one, two in zip(dice_ce(logits, target, labels), dice_ce(other, target, labels), strict=True):
        assert_close(one, two)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
def test_being_right_and_sure_costs_nothing(labels):
    _, target = sample(0, labels)
    if labels is PLAIN:
        logits = 100.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    else:
        logits = 200.0 * region_targets(target, labels) - 100
    dice, entropy = dice_ce(logits, target, labels)
    assert dice.item() == pytest.approx(0, abs=1e-5)
    assert entropy.item() == pytest.approx(0, abs=1e-5)


def test_two_voxels_by_hand():
    labels = Labels(names={"a": (1,)})
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])  # probability of "a": 1/2 and 3/4
    dice, entropy = dice_ce(logits, torch.tensor([[0, 1]]), labels)
    assert entropy.item() == pytest.approx((math.log(2) - math.log(3 / 4)) / 2)
    assert dice.item() == pytest.approx(1 - 2 * 0.75 / (1.25 + 1), abs=1e-5)


def test_monai_says_the_same():
    losses = pytest.importorskip("monai.losses")
    logits, target = sample(3, PLAIN)
    theirs = losses.DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    assert_close(sum(dice_ce(logits, target, PLAIN)), theirs(logits, target[:, None]))


def test_no_voxel_to_learn_from_is_no_reason_for_nan():
    logits, target = sample(0, PLAIN)
    logits.requires_grad_()
    loss = sum(dice_ce(logits, torch.full_like(target, IGNORED), PLAIN))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_ignore_label_and_what_lies_outside_are_not_learnt():
    labels = Labels(names={"a": (1,)}, ignore=2)
    assert learnable(labels, torch.tensor([0, 1, 2, -1], dtype=torch.int16)).tolist() == [0, 1, IGNORED, IGNORED]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_weights_of_scales_halve_sum_to_one_and_end_with_nothing(count):
    weights = scale_weights(count)
    assert sum(weights) == pytest.approx(1)
    assert count == 1 or weights[-1] == 0
    assert all(a == pytest.approx(2 * b) for a, b in pairwise(weights[:-1]))


def test_scales_weigh_as_they_say():
    logits, target = sample(1, PLAIN, (8, 4))
    coarse = torch.randn(2, 3, 4, 2)
    both = deep_dice_ce((logits, coarse, coarse[..., :1, :1]), target, PLAIN)
    fine, rough = dice_ce(logits, target, PLAIN), dice_ce(coarse, target[:, 1::2, 1::2], PLAIN)
    for value, one, two in zip(both, fine, rough, strict=True):
        assert_close(value, (2 * one + two) / 3)
