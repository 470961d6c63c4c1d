"""How a network is trained, as the budget allows."""

import math

from mambino.core.plan import Recipe
from mambino.planning.budget import Budget
from mambino.planning.sizing import Fit, Problem

EPOCHS = 20  # of a training with a time limit: so often it can report and validate
LONG_EPOCHS, LONG_STEPS = 1000, 250
MANY_PASSES = 100  # over each training voxel, from which on a network would learn the images by heart


def make_recipe(name: str, problem: Problem, fit: Fit, budget: Budget) -> tuple[Recipe, str]:
    """Choose optimiser, length and augmentation, and say why."""
    if budget.seconds is None:
        return _long(name)
    step = fit.step.value or 1.0
    total = max(EPOCHS, math.floor(budget.seconds / step))
    passes = total * fit.batch.value * math.prod(fit.patch.value) / problem.voxels
    many = passes >= MANY_PASSES
    covers = math.prod(fit.patch.value) / math.prod(problem.shape)
    recipe = Recipe(
        optimiser="adamw",
        rate=2e-3,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.02,
        epochs=EPOCHS,
        steps=max(1, total // EPOCHS),
        foreground=0.33 if covers >= 0.5 else 0.5,
        augmentation="full" if many else "light",
        deep_supervision=False,
        clip=1.0,
    )
    why = (
        f"about {total} steps in {budget.minutes:g} minutes: AdamW with a cosine gets further in few steps than SGD; "
        f"each training voxel is seen about {passes:.0f} times, so augmentation is {'full' if many else 'light'}"
    )
    return recipe, why


def _long(name: str) -> tuple[Recipe, str]:
    if name == "unet":
        recipe = Recipe(
            optimiser="sgd",
            rate=1e-2,
            weight_decay=3e-5,
            schedule="poly",
            epochs=LONG_EPOCHS,
            steps=LONG_STEPS,
            augmentation="full",
        )
        return recipe, "no limit of time: nnU-Net's recipe"
    recipe = Recipe(
        optimiser="adamw",
        rate=1e-3,
        schedule="cosine",
        warmup=0.02,
        epochs=LONG_EPOCHS // 4,
        steps=LONG_STEPS,
        augmentation="full",
        deep_supervision=False,
        clip=1.0,
    )
    return recipe, "no limit of time: long enough for a scan to converge, with AdamW as in the authors' code"
