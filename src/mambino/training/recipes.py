"""Recipes: how the published networks were trained, as values, and how a user changes them.

Each is what the authors' code does, not what a paper says where the two differ. A recipe is about learning:
how images are prepared, and the size of a patch, stay the plan's. Where the authors learnt from a fixed number of
images a step, as many batches of the plan are added up as come to that number.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

from mambino.core.labels import Labels
from mambino.core.options import RecipeName, TrainOptions, named_values
from mambino.core.plan import Config
from mambino.core.recipe import Recipe
from mambino.core.records import dump, fields_of, from_json, parse
from mambino.errors import Error, MambinoWarning, OptionError
from mambino.training.loss import check_loss


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a published recipe depends on.

    Attributes:
        config: of the network, with the plan's recipe.
        labels: of the data set.
        images: how many there are to learn from; slices, where a network sees slices of volumes.
        pretrained: whether the network starts from another's weights.
    """

    config: Config
    labels: Labels
    images: int
    pretrained: bool = False


def chosen_recipe(
    config: Config, labels: Labels, images: int, options: TrainOptions, *, pretrained: bool = False
) -> Recipe:
    """Return the recipe that the options ask for, their changes included.

    Args:
        config: of the network, with the plan's recipe.
        labels: of the data set.
        images: how many there are to learn from; slices, where a network sees slices of volumes.
        options: `recipe`, `set`, `loss` and `class_weights` are used.
        pretrained: whether the network starts from another's weights.

    Raises:
        OptionError: a value is not known or does not fit, or weights name a structure that there is not.
    """
    setting = Setting(config, labels, images, pretrained)
    recipe = config.recipe if options.recipe == "default" else RECIPES[options.recipe](setting)
    changes: dict[str, object] = dict(named_values(options.set, example="rate=0.01"))
    unknown = [name for name in changes if name not in fields_of(Recipe)]
    if unknown:
        raise OptionError(
            f"--set {unknown[0]}: a recipe has no such value; it has {', '.join(fields_of(Recipe))}",
            hint="as in --set rate=0.01",
        )
    for flag, words, example in (
        ("loss", options.loss, "dice=1 ce=1"),
        ("class-weights", options.class_weights, "tumour=3"),
    ):
        if words:
            changes[flag.replace("-", "_")] = dict(named_values(words, flag, example))
    recipe = _changed(recipe, changes)
    check_loss(recipe, labels)
    return recipe


def _changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    """Return a recipe with other values, read as strictly as those of a file."""
    if not changes:
        return recipe
    values = {**from_json(dump(recipe)), **changes}
    try:
        return parse(Recipe, json.dumps(values), "the recipe with these options")
    except Error as error:
        raise OptionError(str(error), hint="as in --set rate=0.01 average=0 or --loss dice=1 ce=1") from None


def _nnunet(setting: Setting) -> Recipe:
    """nnU-Net 2.1.1, `nnUNetTrainer`: the base of all trainers that were written into it."""
    config = setting.config
    lower = config.dim == 3 and prod(config.patch) < 0.25 * prod(config.shape)  # it would plan a low resolution, too
    return Recipe(
        optimiser="sgd",
        rate=1e-2,
        weight_decay=3e-5,
        decay_vectors=True,
        schedule="poly",
        pace="epoch",
        epochs=1000,
        steps=250,
        average=0.0,
        centred="last",
        outside="background",
        augmentation="nnunet",
        batch_dice=config.dim == 2 or lower,
        clip=12.0,
    )


def _lightm_unet(setting: Setting) -> Recipe:
    """LightM-UNet, `nnUNetTrainerLightMUNet`; its paper says SGD."""
    return replace(
        _nnunet(setting),
        optimiser="adam",
        rate=1e-4,
        weight_decay=1e-5,
        eps=1e-5,
        epochs=100,
        deep_supervision=False,
        half=False,
    )


def _unetr(setting: Setting) -> Recipe:
    """UNETR in LightM-UNet's repository."""
    return replace(_lightm_unet(setting), optimiser="adamw", weight_decay=0.01, power=1.0)


def _swin_unetr(setting: Setting) -> Recipe:
    """SwinUNETR in LightM-UNet's repository."""
    return replace(_unetr(setting), rate=8e-4, schedule="cosine", floor=1e-6)


def _swin_umamba(setting: Setting) -> Recipe:
    """Swin-UMamba and its dagger variant; its scripts evaluate epochs 100, 250 and 350 of a schedule of 1000.

    The dagger variant from random weights learns without deep supervision, as it does not converge with it ("*" in
    the paper).
    """
    return replace(
        _nnunet(setting),
        optimiser="adamw",
        rate=1e-4,
        weight_decay=0.05,
        eps=1e-5,
        schedule="cosine",
        floor=1e-6,
        period=1000,
        freeze=10,
        deep_supervision=setting.pretrained or setting.config.network.name != "swin_umamba_dagger",
    )


def _vm_unet(setting: Setting) -> Recipe:
    """VM-UNet: as on ISIC for one structure, as on Synapse for several.

    The rate rises and falls: half a wave lasts 50 epochs on ISIC, 100 on Synapse, of 300.
    """
    binary = len(setting.labels.names) == 1
    scheme = next((how.scheme for how in setting.config.normalise if how.scheme != "range"), None)
    if binary and scheme:
        warnings.warn(
            f"VM-UNet learnt from pictures whose values each span 0 to 255, but this plan scales them by {scheme}; for "
            'the same, make the scheme of each channel "range" in plan.json and preprocess again',
            MambinoWarning,
            stacklevel=3,
        )
    return replace(
        _passes(setting, 32),
        optimiser="adamw",
        rate=1e-3,
        weight_decay=0.01,
        schedule="cosine",
        floor=1e-5,
        period=50 if binary else 100,
        pace="epoch",
        epochs=300,
        augmentation="isic" if binary else "synapse",
        loss={"bce": 1.0, "sample_dice": 1.0} if binary else {"ce": 1.0, "squared_dice": 1.0},
    )


def _swin_unet(setting: Setting) -> Recipe:
    """Swin-Unet as its script trains it on Synapse."""
    return replace(
        _passes(setting, 24),
        optimiser="sgd",
        rate=0.05,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        schedule="poly",
        pace="late",
        epochs=150,
        augmentation="synapse",
        loss={"ce": 0.4, "squared_dice": 0.6},
    )


def _passes(setting: Setting, batch: int) -> Recipe:
    """Return what networks have in common that see each image once an epoch, so many a step."""
    return Recipe(
        decay_vectors=True,
        steps=max(1, ceil(setting.images / batch)),
        accumulate=ceil(batch / setting.config.batch),
        average=0.0,
        foreground=0.0,
        order="passes",
        outside="background",
        deep_supervision=False,
        clip=0.0,
        half=False,
    )


RECIPES: Mapping[RecipeName, Callable[[Setting], Recipe]] = {
    "lightm_unet": _lightm_unet,
    "vm_unet": _vm_unet,
    "swin_umamba": _swin_umamba,
    "umamba": _nnunet,
    "nnunet": _nnunet,
    "segresnet": _lightm_unet,
    "unetr": _unetr,
    "swin_unetr": _swin_unetr,
    "swin_unet": _swin_unet,
}
"""By name; "default" is the plan's own. U-Mamba trains as nnU-Net, SegResNet as LightM-UNet (its repository)."""
