"""The loss is the weighted sum of a recipe's terms of the voxels that may be learnt, on every scale."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.labels import Labels
from mambino.core.recipe import TERMS, Recipe
from mambino.errors import OptionError
from mambino.training.loss import check_loss, deep_parts, learnable, parts, scale_weights
from mambino.training.terms import IGNORED, TERM, Seen, region_targets, skeleton
from tests.close import assert_close

PLAIN = Labels(names={"a": (1,), "b": (2,)})
ONE = Labels(names={"a": (1,)})
REGIONS = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))
ALL = Recipe(loss=dict.fromkeys(TERMS, 1.0))


def sample(seed, labels, shape=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.out_channels, *shape, generator=generator)
    return logits, torch.randint(0, 1 + len(labels.names), (2, *shape), generator=generator)


def sure(target, labels):
    if labels.has_regions:
        return 200.0 * region_targets(target, labels) - 100
    return 100.0 * F.one_hot(target, labels.out_channels).movedim(-1, 1).float()


def test_every_term_has_a_function():
    assert tuple(TERM) == TERMS


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
@given(seed=st.integers(0, 99), where=st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_what_the_network_says_of_ignored_voxels_does_not_matter(labels, batch_dice, seed, where):
    logits, target = sample(seed, labels)
    target[:, where] = IGNORED
    other = logits.clone()
    other[:, :, where] += 5 * torch.randn_like(other[:, :, where])
    recipe = replace(ALL, batch_dice=batch_dice, class_weights={"whole" if labels.has_regions else "a": 3.0})
    one, two = (parts(x, target, labels, recipe) for x in (logits, other))
    for name in TERMS:
        assert_close(one[name], two[name])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
@pytest.mark.parametrize("name", TERMS)
def test_being_right_and_sure_costs_nothing_and_being_wrong_and_sure_has_a_slope(name, labels, shape):
    _, target = sample(0, labels, shape)
    recipe = Recipe(loss={name: 1.0})
    right = parts(sure(target, labels), target, labels, recipe)[name]
    assert right.item() == pytest.approx(0, abs=1e-4)
    wrong = (sure((target + 1) % 3, labels) / 25).requires_grad_()
    loss = parts(wrong, target, labels, recipe)[name]
    loss.backward()
    assert loss.item() > 0.3
    assert torch.isfinite(wrong.grad).all()
    assert wrong.grad.abs().max() > 0


@pytest.mark.parametrize("name", TERMS)
def test_a_step_down_the_slope_makes_every_term_smaller(name):
    logits, target = sample(4, PLAIN)
    logits.requires_grad_()
    recipe = Recipe(loss={name: 1.0})
    loss = parts(logits, target, PLAIN, recipe)[name]
    loss.backward()
    after = parts(logits.detach() - 0.01 * logits.grad / logits.grad.norm(), target, PLAIN, recipe)[name]
    assert after < loss


def test_two_voxels_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])  # probability of "a": 1/2 and 3/4
    found = parts(logits, torch.tensor([[0, 1]]), ONE, ALL)
    assert found["ce"].item() == pytest.approx((math.log(2) - math.log(3 / 4)) / 2)
    assert found["bce"].item() == pytest.approx((math.log(2) - math.log(3 / 4)) / 2)
    assert found["dice"].item() == pytest.approx(1 - 2 * 0.75 / (1.25 + 1), abs=1e-5)
    assert found["sample_dice"].item() == pytest.approx(1 - (2 * 0.75 + 1) / (1.25 + 1 + 1))
    a = 2 * 0.75 / (1 / 4 + 9 / 16 + 1)
    background = 2 * 0.5 / (1 / 4 + 1 / 16 + 1)
    assert found["squared_dice"].item() == pytest.approx(1 - (a + background) / 2, abs=1e-5)
    tversky = 0.75 / (0.75 + 0.7 * 0.25 + 0.3 * 0.5)
    assert found["focal_tversky"].item() == pytest.approx((1 - tversky) ** 0.75, abs=1e-5)


def test_weights_of_terms_and_none_for_those_of_weight_zero():
    logits, target = sample(1, PLAIN)
    once = parts(logits, target, PLAIN, Recipe(loss={"dice": 1.0, "ce": 1.0}))
    found = parts(logits, target, PLAIN, Recipe(loss={"dice": 0.6, "ce": 0.4, "cldice": 0.0}))
    assert set(found) == {"dice", "ce"}
    assert_close(found["ce"], 0.4 * once["ce"])
    assert_close(found["dice"], 0.6 * once["dice"])


def test_monai_says_the_same():
    losses = pytest.importorskip("monai.losses")
    logits, target = sample(3, PLAIN)
    common = {"include_background": False, "to_onehot_y": True, "softmax": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    theirs = losses.DiceCELoss(**common, batch=True)
    ours = parts(logits, target, PLAIN, Recipe())
    assert_close(sum(ours.values()), theirs(logits, target[:, None]))
    each = losses.DiceLoss(**common, batch=False)
    assert_close(parts(logits, target, PLAIN, Recipe(batch_dice=False))["dice"], each(logits, target[:, None]))
    squared = losses.DiceLoss(**common | {"include_background": True}, batch=True, squared_pred=True)
    assert_close(parts(logits, target, PLAIN, ALL)["squared_dice"], squared(logits, target[:, None]))


def test_torch_weighs_a_cross_entropy_in_the_same_way():
    logits, target = sample(5, PLAIN)
    target[0, 0] = IGNORED
    theirs = F.cross_entropy(logits, target, torch.tensor([0.5, 1.0, 3.0]), ignore_index=IGNORED)
    recipe = Recipe(loss={"ce": 1.0}, class_weights={"background": 0.5, "b": 3.0})
    assert_close(parts(logits, target, PLAIN, recipe)["ce"], theirs)


@pytest.mark.parametrize("name", ["dice", "bce", "sample_dice", "squared_dice", "focal_tversky", "cldice"])
def test_a_weight_of_zero_takes_a_structure_out_of_every_mean(name):
    logits, target = sample(6, REGIONS)
    recipe = Recipe(loss={name: 1.0}, class_weights={"core": 0.0})
    other = logits.clone()
    other[:, 1] += torch.randn_like(other[:, 1])
    assert_close(parts(logits, target, REGIONS, recipe)[name], parts(other, target, REGIONS, recipe)[name])
    alone = Labels(names={"whole": (1, 2)}, paint=(1,))
    expected = parts(logits[:, :1], target, alone, Recipe(loss={name: 1.0}))[name]
    assert_close(parts(logits, target, REGIONS, recipe)[name], expected)


def test_the_binary_cross_entropy_of_a_softmax_is_that_of_its_probabilities():
    logits, target = sample(7, PLAIN)
    truth = F.one_hot(target, 3).movedim(-1, 1)[:, 1:].double()
    theirs = F.binary_cross_entropy(logits.double().softmax(1)[:, 1:], truth)
    assert_close(parts(logits, target, PLAIN, ALL)["bce"], theirs.float())


def test_one_structure_is_learnt_as_by_a_single_sigmoid():
    """VM-UNet has one output for skin lesions, where there are two here: the same function of their difference."""
    logits, target = sample(8, ONE)
    single = (logits[:, 1] - logits[:, 0]).double()
    theirs = F.binary_cross_entropy_with_logits(single, target.double())
    assert_close(parts(logits, target, ONE, ALL)["bce"], theirs.float())
    p, y = single.sigmoid().flatten(1), target.double().flatten(1)
    dice = 1 - ((2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()
    assert_close(parts(logits, target, ONE, ALL)["sample_dice"], dice.float())


def test_vm_unet_s_loss_on_skin_lesions_is_that_of_its_code():
    logits, target = sample(0, ONE)
    target[1] = 0  # a picture without a lesion
    p, y = (logits[:, 1] - logits[:, 0]).sigmoid().flatten(1), target.float().flatten(1)
    overlap = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    seen = Seen(logits, target, ONE)
    assert_close(TERM["bce"](seen), torch.nn.BCELoss()(p.flatten(), y.flatten()))
    assert_close(TERM["sample_dice"](seen), 1 - overlap.sum() / 2)


def test_the_dice_of_synapse_is_that_of_transunet_s_code():
    organs = Labels(names={f"organ {k}": (k,) for k in range(1, 9)})
    logits, target = sample(0, organs)
    target[target == 8] = 0  # nowhere in the batch
    total = torch.zeros(())
    for k in range(9):
        p, y = logits.softmax(1)[:, k], (target == k).float()
        total += 1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5)
    seen = Seen(logits, target, organs)
    assert_close(TERM["squared_dice"](seen), total / 9)
    assert_close(TERM["ce"](seen), torch.nn.functional.cross_entropy(logits, target))


def test_the_skeleton_of_a_tube_is_its_middle():
    tube = torch.zeros(1, 1, 9, 20)
    tube[..., 2:7, 2:18] = 1
    bones = skeleton(tube)[0, 0]
    assert bones[:, 5:15].sum(0).tolist() == [1.0] * 10
    assert bones[4, 5:15].tolist() == [1.0] * 10


def test_cldice_minds_a_gap_that_dice_does_not():
    target = torch.zeros(1, 9, 40, dtype=torch.long)
    target[:, 3:6, 2:38] = 1
    gap, thin = target.clone(), target.clone()
    gap[..., 19:21] = 0  # 6 voxels less, and the tube is broken
    thin[:, 3, 17:23] = 0  # 6 voxels less at its side
    found = {
        name: [parts(sure(mask, ONE), target, ONE, ALL)[name].item() for mask in (gap, thin)]
        for name in ("dice", "cldice")
    }
    assert found["dice"][0] == pytest.approx(found["dice"][1], abs=1e-4)
    assert found["cldice"][0] > 1.5 * found["cldice"][1]


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
def test_no_voxel_to_learn_from_is_no_reason_for_nan(labels):
    logits, target = sample(0, labels)
    logits.requires_grad_()
    recipe = replace(ALL, class_weights={next(iter(labels.names)): 2.0})
    loss = sum(parts(logits, torch.full_like(target, IGNORED), labels, recipe).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_ignore_label_and_what_lies_outside_are_not_learnt():
    labels = Labels(names={"a": (1,)}, ignore=2)
    assert learnable(labels, torch.tensor([0, 1, 2, -1], dtype=torch.int16)).tolist() == [0, 1, IGNORED, IGNORED]


def test_half_precision_is_summed_in_float32():
    logits, target = sample(2, PLAIN)
    found = parts(logits.half(), target, PLAIN, ALL)
    assert {part.dtype for part in found.values()} == {torch.float32}
    assert_close(found["ce"], parts(logits.half().float(), target, PLAIN, ALL)["ce"])


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_scales_weigh_half_as_much_each_and_the_coarsest_nothing(count):
    weights = scale_weights(count)
    assert sum(weights) == pytest.approx(1)
    assert all(two == pytest.approx(one / 2) for one, two in pairwise(weights[:-1]))
    assert count == 1 or weights[-1] == 0


def test_the_scales_of_swin_umamba_weigh_as_in_its_code():
    assert scale_weights(4) == pytest.approx([1 / 1.75, 0.5 / 1.75, 0.25 / 1.75, 0])


def test_coarse_scales_learn_from_the_nearest_voxels():
    logits, target = sample(0, PLAIN, (6, 4))
    coarse = logits[..., ::2, ::2]
    both = deep_parts((logits, coarse, coarse[..., :1, :1]), target, PLAIN, Recipe())
    fine = parts(logits, target, PLAIN, Recipe())
    rough = parts(coarse, target[:, 1::2, 1::2], PLAIN, Recipe())
    for name in ("dice", "ce"):
        assert_close(both[name], (2 * fine[name] + rough[name]) / 3)


def test_patches_by_themselves_are_averaged():
    logits, target = sample(9, PLAIN)
    recipe = Recipe(loss={"dice": 1.0}, batch_dice=False)
    each = [parts(logits[i : i + 1], target[i : i + 1], PLAIN, recipe)["dice"] for i in range(2)]
    assert_close(parts(logits, target, PLAIN, recipe)["dice"], (each[0] + each[1]) / 2)


def test_a_weight_of_a_structure_that_is_not_there_is_refused():
    with pytest.raises(OptionError, match="class_weights names c, but the structures are a, b, background"):
        check_loss(Recipe(class_weights={"c": 1.0}), PLAIN)
    with pytest.raises(OptionError, match="names background, but the structures are whole, core"):
        check_loss(Recipe(class_weights={"background": 1.0}), REGIONS)


def test_what_is_seen_counts_known_voxels():
    logits, target = sample(0, PLAIN)
    target[0] = IGNORED
    assert Seen(logits, target, PLAIN).voxels.item() == 30
