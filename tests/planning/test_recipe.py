"""Short trainings take AdamW and little augmentation; long ones nnU-Net's recipe."""

from mambino.planning.budget import Budget
from mambino.planning.recipe import EPOCH_STEPS, EPOCHS, MANY_PASSES, make_recipe
from mambino.planning.sizing import Problem, fit
from tests.planning.measured import price


def recipe(name, minutes, cases=200, seconds=2.5e-7, shape=(36, 50, 35)):
    voxels = cases * shape[0] * shape[1] * shape[2]
    problem = Problem(dim=3, channels=1, classes=3, spacing=(1, 1, 1), shape=shape, voxels=voxels)
    device = "cpu" if minutes else "cuda"
    budget = Budget(device=device, memory=8, params=None, minutes=minutes, timed=True, assumed="")
    fitted = fit(name, problem, budget, price(seconds))
    return *make_recipe(name, problem, fitted, budget), fitted, budget


def test_the_steps_fill_the_time():
    made, why, fitted, budget = recipe("unet", 8)
    assert made.optimiser == "adamw"
    assert made.schedule == "cosine"
    assert made.epochs >= EPOCHS
    assert made.steps <= EPOCH_STEPS
    assert 0.9 * budget.seconds <= made.epochs * made.steps * fitted.step.value <= budget.seconds
    named = {"optimiser", "rate", "weight_decay", "clip", "augmentation", "foreground", "deep_supervision"}
    assert set(why) == named


def test_every_scale_of_a_unet_is_learnt_from_however_short_the_training():
    assert recipe("unet", 8)[0].deep_supervision
    assert recipe("unet", None)[0].deep_supervision
    assert not recipe("lightm_unet", 8)[0].deep_supervision


def test_augmentation_is_full_where_images_are_seen_again_and_again():
    assert recipe("unet", 8)[0].augmentation == "light"
    assert recipe("unet", 8 * MANY_PASSES)[0].augmentation == "full"
    assert recipe("unet", 60, cases=4)[0].augmentation == "full"


def test_patches_that_show_little_of_a_case_are_centred_on_structures_more_often():
    assert recipe("unet", 8)[0].foreground == 0.33
    assert recipe("unet", 8, shape=(200, 200, 200))[0].foreground == 0.5


def test_without_a_limit_of_time_the_unet_is_trained_as_by_nnunet():
    made, _, _, _ = recipe("unet", None)
    assert (made.optimiser, made.rate, made.weight_decay, made.schedule) == ("sgd", 1e-2, 3e-5, "poly")
    assert (made.epochs, made.steps, made.augmentation, made.deep_supervision) == (1000, 250, "full", True)
    assert recipe("lightm_unet", None)[0].optimiser == "adamw"


def test_where_steps_cannot_be_timed_epochs_have_their_longest():
    assert recipe("unet", 8, seconds=None)[0].steps == EPOCH_STEPS
