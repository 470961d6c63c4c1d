"""Recipes are what section by section the authors' code does, and a user can change each value."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from mambino.core.labels import Labels
from mambino.core.options import RecipeName, TrainOptions
from mambino.core.plan import Normalise
from mambino.core.recipe import Recipe
from mambino.errors import MambinoWarning, OptionError
from mambino.training.loop import epochs
from mambino.training.recipes import RECIPES, chosen_recipe
from mambino.training.schedule import rate
from mambino.training.state import optimiser
from tests.training.toys import TWO, Toy, config, course, fresh

ONE = Labels(names={"lesion": (1,)})


def recipe(name="default", labels=TWO, images=320, dim=2, **options):
    chosen = config(dim=dim, shape=(64,) * dim)
    return chosen_recipe(chosen, labels, images, TrainOptions(recipe=name, **options))


def test_every_recipe_of_the_option_is_there():
    assert {"default", *RECIPES} == set(get_args(RecipeName))


def test_the_default_is_the_plan_s_own():
    assert recipe() == config().recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_on_what_the_plan_has_with_the_weights_that_were_learnt(name):
    found = recipe(name)
    assert found.average == 0  # none of the originals averages weights
    assert found.decay_vectors  # each gives its optimiser all parameters
    assert len(optimiser(Toy(), found).param_groups[0]["params"]) == len(list(Toy().parameters()))


TABLE = {
    # optimiser, rate, weight decay, epochs, loss, deep supervision, half precision
    "lightm_unet": ("adam", 1e-4, 1e-5, 100, {"dice", "ce"}, False, False),
    "segresnet": ("adam", 1e-4, 1e-5, 100, {"dice", "ce"}, False, False),
    "unetr": ("adamw", 1e-4, 0.01, 100, {"dice", "ce"}, False, False),
    "swin_unetr": ("adamw", 8e-4, 0.01, 100, {"dice", "ce"}, False, False),
    "umamba": ("sgd", 1e-2, 3e-5, 1000, {"dice", "ce"}, True, True),
    "nnunet": ("sgd", 1e-2, 3e-5, 1000, {"dice", "ce"}, True, True),
    "swin_umamba": ("adamw", 1e-4, 0.05, 1000, {"dice", "ce"}, True, True),
    "vm_unet": ("adamw", 1e-3, 0.01, 300, {"ce", "squared_dice"}, False, False),
    "swin_unet": ("sgd", 0.05, 1e-4, 150, {"ce", "squared_dice"}, False, False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_table_of_the_originals(name):
    found = recipe(name)
    row = (found.optimiser, found.rate, found.weight_decay, found.epochs, set(found.loss))
    assert (*row, found.deep_supervision, found.half) == TABLE[name]


NNUNET = ("lightm_unet", "segresnet", "unetr", "swin_unetr", "umamba", "nnunet", "swin_umamba")
EPS = {"lightm_unet": 1e-5, "segresnet": 1e-5, "unetr": 1e-5, "swin_unetr": 1e-5, "swin_umamba": 1e-5, "vm_unet": 1e-8}


@pytest.mark.parametrize("name", NNUNET)
def test_what_all_of_nnunet_s_family_share(name):
    found = recipe(name)
    assert (found.steps, found.clip, found.loss) == (250, 12.0, {"dice": 1.0, "ce": 1.0})
    assert (found.foreground, found.centred, found.order) == (0.33, "last", "random")
    assert (found.augmentation, found.outside, found.accumulate) == ("nnunet", "background", 1)
    assert (found.pace, found.warmup, found.class_weights) == ("epoch", 0.0, {})


@pytest.mark.parametrize("name", ["vm_unet", "swin_unet"])
def test_what_those_share_that_see_each_image_once_an_epoch(name):
    found = recipe(name)
    assert (found.clip, found.foreground, found.order, found.outside) == (0.0, 0.0, "passes", "background")
    assert found.augmentation == "synapse"
    assert found.pace == {"vm_unet": "epoch", "swin_unet": "late"}[name]


@pytest.mark.parametrize(("name", "eps"), EPS.items())
def test_what_their_optimisers_divide_by(name, eps):
    found = recipe(name)
    assert (found.eps, found.betas) == (eps, (0.9, 0.999))


@pytest.mark.parametrize(
    ("name", "momentum", "nesterov"), [("nnunet", 0.99, True), ("umamba", 0.99, True), ("swin_unet", 0.9, False)]
)
def test_momentum(name, momentum, nesterov):
    found = recipe(name)
    assert (found.momentum, found.nesterov) == (momentum, nesterov)


def test_weights_of_terms():
    assert recipe("vm_unet").loss == {"ce": 1.0, "squared_dice": 1.0}
    assert recipe("swin_unet").loss == {"ce": 0.4, "squared_dice": 0.6}


def test_the_default_draws_as_before():
    found = Recipe()
    assert (found.centred, found.order, found.outside) == ("random", "random", "ignored")


@pytest.mark.parametrize(("name", "pretrained", "deep"), [
    ("swin_umamba", False, True), ("swin_umamba", True, True),
    ("swin_umamba_dagger", False, False), ("swin_umamba_dagger", True, True),
])  # fmt: skip
def test_the_dagger_variant_from_random_weights_learns_from_the_finest_scale_alone(name, pretrained, deep):
    chosen = config()
    chosen = replace(chosen, network=replace(chosen.network, name=name))
    found = chosen_recipe(chosen, TWO, 320, TrainOptions(recipe="swin_umamba"), pretrained=pretrained)
    assert found.deep_supervision is deep


def rates(found, numbers):
    """Return the rate of each epoch, as the loop asks for it."""
    halves = found.epochs / found.period if found.period else 1.0
    return [
        rate(epoch / found.epochs, found.rate, found.schedule, found.warmup,
             power=found.power, floor=found.floor, halves=halves)
        for epoch in numbers
    ]  # fmt: skip


def theirs(scheduler, count):
    """Return the rates of a scheduler of torch, one an epoch."""
    found = []
    for _ in range(count):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:VM-UNet learnt from pictures")
@pytest.mark.parametrize(("labels", "period"), [(ONE, 50), (TWO, 100)])
def test_the_rate_of_vm_unet_rises_again_as_torch_s_scheduler_has_it(labels, period):
    found = recipe("vm_unet", labels)
    rule = torch.optim.AdamW(Toy().parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=period, eta_min=1e-5)
    assert rates(found, range(300)) == pytest.approx(theirs(scheduler, 300), rel=1e-6)


def test_the_rate_of_swin_umamba_is_nearly_as_high_after_a_hundred_epochs():
    found = recipe("swin_umamba")
    rule = torch.optim.AdamW(Toy().parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=1000, eta_min=1e-6)
    assert rates(found, range(100)) == pytest.approx(theirs(scheduler, 100), rel=1e-6)


def test_nnunet_s_rate_stays_for_an_epoch_and_falls_with_an_exponent():
    found = recipe("nnunet")
    assert found.pace == "epoch"
    assert rates(found, [0, 500]) == pytest.approx([0.01, 0.01 * 0.5**0.9])
    assert rates(recipe("unetr"), [50]) == pytest.approx([0.5e-4])  # exponent 1
    assert rates(recipe("swin_unetr"), [0, 100]) == pytest.approx([8e-4, 1e-6])


def test_swin_unet_s_rate_is_set_after_each_step_as_in_its_script():
    how = {"optimiser": "sgd", "rate": 0.05, "schedule": "poly", "steps": 4, "pace": recipe("swin_unet").pace}
    learnt, found = course({"recipe": how}, held_out=[], epochs=2), []
    state = fresh(learnt.config.recipe)
    for _ in epochs(state, learnt, check=lambda: found.append(state.optimiser.param_groups[0]["lr"])):
        pass
    used, now = [], 0.05
    for number in range(8):
        used.append(now)
        now = 0.05 * (1.0 - number / 8) ** 0.9
    assert found == pytest.approx(used)


def test_the_dice_of_nnunet_is_over_the_batch_where_it_would_plan_a_low_resolution():
    assert recipe("nnunet").batch_dice
    small = replace(config(dim=3), shape=(16, 16, 16))
    large = replace(config(dim=3), shape=(64, 64, 64))
    assert not chosen_recipe(small, TWO, 5, TrainOptions(recipe="nnunet")).batch_dice
    assert chosen_recipe(large, TWO, 5, TrainOptions(recipe="nnunet")).batch_dice


@pytest.mark.parametrize(("name", "batch"), [("vm_unet", 32), ("swin_unet", 24)])
def test_batches_of_the_plan_are_added_up_to_those_of_the_authors_and_an_epoch_sees_each_image_once(name, batch):
    found = recipe(name, images=320)
    assert found.accumulate * config().batch == batch
    assert found.steps == -(-320 // batch)
    assert found.foreground == 0


@pytest.mark.filterwarnings("ignore:VM-UNet learnt from pictures")
def test_vm_unet_learns_one_structure_as_on_isic():
    found = recipe("vm_unet", ONE)
    assert found.loss == {"bce": 1.0, "sample_dice": 1.0}
    assert found.augmentation == "isic"
    assert recipe("vm_unet").augmentation == "synapse"


def test_vm_unet_says_where_the_plan_scales_pictures_otherwise():
    with pytest.warns(MambinoWarning, match='this plan scales them by zscore; .* "range" in plan.json and preprocess'):
        recipe("vm_unet", ONE)
    same = replace(config(), normalise=(Normalise(scheme="range"),))
    chosen_recipe(same, ONE, 320, TrainOptions(recipe="vm_unet"))  # says nothing: a warning would be an error here
    recipe("vm_unet", TWO)


def test_swin_umamba_holds_its_encoder_for_ten_epochs():
    assert recipe("swin_umamba").freeze == 10


def test_a_user_changes_values_of_a_recipe():
    found = recipe(
        "umamba",
        set=("rate=0.005", "average=0.99", "augmentation=light", "betas=0.8,0.9", "deep_supervision=false"),
        loss=("dice=1", "cldice=0.5"),
        class_weights=("bright=3",),
    )
    expected = replace(
        recipe("umamba"),
        rate=0.005,
        average=0.99,
        augmentation="light",
        betas=(0.8, 0.9),
        deep_supervision=False,
        loss={"dice": 1.0, "cldice": 0.5},
        class_weights={"bright": 3.0},
    )
    assert found == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"set": ("speed=2",)}, "--set speed: a recipe has no such value; it has optimiser, rate,"),
        ({"set": ("rate",)}, "--set takes name=value, got 'rate'"),
        ({"set": ("rate=fast",)}, 'the recipe with these options is not a valid recipe: rate: .*got "fast"'),
        ({"set": ("rate=-1",)}, "rate must be above 0, got -1"),
        ({"set": ("optimiser=lion",)}, "optimiser: .*'sgd', 'adam' or 'adamw', got \"lion\""),
        ({"loss": ("dise=1",)}, "loss must be made of dice, ce, .*, got {'dise': 1"),
        ({"loss": ("dice=0",)}, "loss must be weights, 0 or more each and not all 0, got {'dice': 0"),
        ({"loss": ("dice",)}, "--loss takes name=value, got 'dice'"),
        ({"class_weights": ("dark=-1",)}, "class_weights must be 0 or more each, got {'dark': -1"),
        ({"class_weights": ("liver=2",)}, "class_weights names liver, but the structures are dark, bright, background"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, words):
    with pytest.raises(OptionError, match=words):
        recipe(**options)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("momentum", 1.0, "at least 0 and below 1"),
        ("nesterov", True, "false without momentum"),
        ("betas", (0.9, 1.0), "two numbers, at least 0 and below 1"),
        ("eps", 0.0, "above 0"),
        ("power", -1.0, "0 or more"),
        ("floor", 1.0, "0 to the rate"),
        ("period", -1, "0 or more"),
        ("accumulate", 0, "at least 1"),
        ("average", 1.0, "at least 0 and below 1"),
        ("freeze", -1, "0 or more"),
        ("order", "passes", "random where foreground is above 0, got passes"),
        ("clip", -1.0, "0 or more"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    others = {"momentum": 0.0} if name == "nesterov" else {}
    with pytest.raises(OptionError, match=f"{name} must be {words}"):
        Recipe(**{name: value}, **others)
