"""How a network is trained, as the budget allows."""

import math

from mambino.core.recipe import Recipe
from mambino.planning.budget import Budget
from mambino.planning.networks import DEEP, STAGED
from mambino.planning.sizing import SLOW_SCAN, Fit, Problem

EPOCHS = 20  # at the least in a training with a limit of time: so often it reports, and may validate
EPOCH_STEPS = 100  # at the most, so that a line comes soon and `--epochs` stays a fine measure
LONG_EPOCHS, LONG_STEPS = 1000, 250  # nnU-Net's
MANY_PASSES = 100  # over each training voxel, from which on a network would learn the images by heart
HALF = 0.5  # of a median case in a patch, below which patches miss small structures too often

Reasons = dict[str, str]
"""Why each field of a recipe is what it is."""

RATE, HALF_WIDTH = 2e-3, 16
NARROW = (
    "with the inverse of the width (arXiv 2203.03466): after 1.6 minutes on 40 hippocampi with width 8, held-out "
    "training cases had 0.467 at 0.002, 0.786 at 0.004; 0.008 sometimes throws the weights off. It falls to zero"
)
ADAMW = {
    "rate": "the rate with which a U-Net of width 16 reached 0.876 on hippocampus in 8 minutes, falling to zero",
    "weight_decay": "AdamW's usual one; biases and normalisations are left alone",
    "clip": "of the norm of all gradients: one odd batch cannot throw a training of few steps off",
}
SGD = {
    "rate": "nnU-Net's",
    "weight_decay": "nnU-Net's",
    "clip": "of the norm of all gradients, as nnU-Net",
}


def make_recipe(name: str, problem: Problem, fit: Fit, budget: Budget) -> tuple[Recipe, Reasons]:
    """Choose optimiser, length and augmentation, and say why."""
    if budget.seconds is None:
        return _long(name)
    return _short(name, problem, fit, budget.seconds)


def _short(name: str, problem: Problem, fit: Fit, seconds: float) -> tuple[Recipe, Reasons]:
    """Learn fast: AdamW at a high rate that falls to zero, and no more augmentation than the data needs."""
    steps = max(EPOCHS, math.floor(seconds / fit.step.value)) if fit.step.value else EPOCHS * EPOCH_STEPS
    epoch = min(EPOCH_STEPS, steps // EPOCHS)
    patch = math.prod(fit.patch.value)
    passes = steps * fit.batch.value * patch / problem.voxels
    covers = min(1.0, patch / math.prod(problem.shape))
    recipe = Recipe(
        optimiser="adamw",
        rate=_rate(name, fit),
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.02,
        epochs=steps // epoch,
        steps=epoch,
        foreground=0.33 if covers >= HALF else 0.5,
        augmentation="full" if passes >= MANY_PASSES else "light",
        deep_supervision=name in DEEP,
        clip=1.0,
    )
    return recipe, {
        **ADAMW,
        **({"rate": NARROW} if name in SLOW_SCAN else {}),
        "optimiser": f"for about {steps} steps: AdamW gets further in few steps than SGD",
        "augmentation": f"each training voxel is seen about {passes:.2g} times; from {MANY_PASSES} on it would be full",
        "foreground": f"of the patches centred on a structure; a patch covers {covers:.0%} of a median case",
        "deep_supervision": "coarse outputs learn first and lead the fine one"
        if name in DEEP
        else "the paper has none",
    }


def _rate(name: str, fit: Fit) -> float:
    width = fit.spec.value.options.get("width")
    return RATE * HALF_WIDTH / width if name in SLOW_SCAN and isinstance(width, int) else RATE


def _long(name: str) -> tuple[Recipe, Reasons]:
    """Learn long: nnU-Net's recipe for its network, AdamW for the others."""
    unlimited = {
        "augmentation": "in a long training each image is seen many times",
        "foreground": "of the patches centred on a structure, as in nnU-Net",
    }
    if name in STAGED:
        recipe = Recipe(
            optimiser="sgd",
            rate=1e-2,
            weight_decay=3e-5,
            schedule="poly",
            epochs=LONG_EPOCHS,
            steps=LONG_STEPS,
            augmentation="full",
            deep_supervision=True,
        )
        return recipe, {
            **SGD,
            "optimiser": "no limit of time: nnU-Net's recipe",
            "deep_supervision": "as in nnU-Net",
            **unlimited,
        }
    recipe = Recipe(
        optimiser="adamw",
        rate=1e-3,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.02,
        epochs=LONG_EPOCHS // 4,
        steps=LONG_STEPS,
        augmentation="full",
        deep_supervision=name in DEEP,
        clip=1.0,
    )
    return recipe, {
        **ADAMW,
        "rate": "half of what short trainings take",
        "optimiser": "no limit of time: networks with a scan learn with Adam, in a quarter of nnU-Net's epochs",
        "deep_supervision": "as in the paper" if name in DEEP else "the paper has none",
        **unlimited,
    }
