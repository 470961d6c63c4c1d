"""How a network is trained: optimiser, schedule, loss, augmentation, all as plain values."""

from dataclasses import field
from math import inf
from typing import Literal

from mambino.core.records import record
from mambino.errors import OptionError

TERMS = ("dice", "ce", "bce", "sample_dice", "squared_dice", "focal_tversky", "cldice")
"""Terms of a loss; `training.terms` says what each is."""

Changes = Literal["full", "light", "none", "nnunet", "isic", "synapse"]
"""What may happen to a patch; `training.augmentation` says what each is."""


@record
class Recipe:
    """How the network is trained. Planning makes one for the budget; `training.recipes` has those of the papers.

    Attributes:
        optimiser: "sgd" with `momentum`; "adam" adds the decay to the gradient, "adamw" takes it off the weights.
        rate: peak learning rate.
        weight_decay: of matrices and kernels, and of everything with `decay_vectors`.
        decay_vectors: biases, norms and the parameters of a scan decay, too, as where an optimiser is given all.
        momentum: of "sgd".
        nesterov: whether that is Nesterov's.
        betas, eps: of "adam" and "adamw".
        schedule: "poly" is (1 - share done) ** `power`; "cosine" falls from `rate` to `floor` in half a wave.
        power: of "poly".
        floor: rate at the lowest point of "cosine".
        period: epochs of half a wave of "cosine", after which the rate rises again; 0 is the whole run.
        pace: whether the rate changes with every step, being that of its middle; or stays for an epoch; or with every
            step but is that of the step before ("late"), as where a script sets it after each step.
        warmup: share of all steps over which the rate rises from zero.
        epochs, steps: length, where no time budget is given: epochs of so many steps each.
        accumulate: batches whose gradients are added up for one step.
        average: longest memory of the averaged weights, which are shipped: the share that a step keeps;
            0 ships the weights themselves.
        foreground: share of patches that are centred on a structure.
        centred: which these are: each patch with that probability ("random"), or the last ones of each step, as many
            as the share of what a step learns from comes to ("last").
        order: whether each patch is of a case drawn anew ("random"), or each case, each slice where a network sees
            slices, comes once before any comes again, in an order drawn anew each time ("passes").
        outside: whether what lies outside of a case is learnt as background, or ignored.
        augmentation: "full" is nnU-Net's list within what the plan allows, "nnunet" as it is there, on all axes
            whatever the plan says; "light" leaves the blurring ones out and turns less, for short runs; "isic" and
            "synapse" are VM-UNet's for these data.
        loss: weight of each term.
        batch_dice: "dice" sums over the voxels of the whole batch, else over those of each patch.
        class_weights: weight of structures, and of "background", by name, in every term; 1 for the others.
        deep_supervision: learn from the coarser scales of the network too, where it has them.
        clip: largest gradient norm; 0 sets no limit.
        freeze: epochs for which the encoder learns nothing, where the network started from another's weights.
        half: whether half precision may be taken where the device gains from it.
    """

    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    rate: float = 1e-3
    weight_decay: float = 1e-2
    decay_vectors: bool = False
    momentum: float = 0.99
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["poly", "cosine"] = "cosine"
    power: float = 0.9
    floor: float = 0.0
    period: int = 0
    pace: Literal["step", "epoch", "late"] = "step"
    warmup: float = 0.0
    epochs: int = 100
    steps: int = 50
    accumulate: int = 1
    average: float = 0.999
    foreground: float = 0.33
    centred: Literal["random", "last"] = "random"
    order: Literal["random", "passes"] = "random"
    outside: Literal["ignored", "background"] = "ignored"
    augmentation: Changes = "full"
    loss: dict[str, float] = field(default_factory=lambda: {"dice": 1.0, "ce": 1.0})
    batch_dice: bool = True
    class_weights: dict[str, float] = field(default_factory=dict)
    deep_supervision: bool = True
    clip: float = 12.0
    freeze: int = 0
    half: bool = True

    def __post_init__(self) -> None:
        for name, fits, words in (
            ("rate", 0 < self.rate < inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < inf, "0 or more"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("nesterov", self.momentum > 0 or not self.nesterov, "false without momentum"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers, at least 0 and below 1"),
            ("eps", 0 < self.eps < inf, "above 0"),
            ("power", 0 <= self.power < inf, "0 or more"),
            ("floor", 0 <= self.floor <= self.rate, f"0 to the rate {self.rate}"),
            ("period", self.period >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup < 1, "a share, at least 0 and below 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("average", 0 <= self.average < 1, "at least 0 and below 1"),
            ("foreground", 0 <= self.foreground <= 1, "a share, 0 to 1"),
            ("order", self.order == "random" or self.foreground == 0, "random where foreground is above 0"),
            ("loss", set(self.loss) <= set(TERMS), f"made of {', '.join(TERMS)}"),
            ("loss", _weights(self.loss) and any(self.loss.values()), "weights, 0 or more each and not all 0"),
            ("class_weights", _weights(self.class_weights), "0 or more each"),
            ("clip", 0 <= self.clip < inf, "0 or more"),
            ("freeze", self.freeze >= 0, "0 or more"),
        ):
            if not fits:
                raise OptionError(f"{name} must be {words}, got {getattr(self, name)}")


def _weights(values: dict[str, float]) -> bool:
    return all(0 <= value < inf for value in values.values())
