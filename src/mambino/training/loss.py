"""What training minimises: the weighted terms of a recipe, on every scale that the network offers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the habit of the field
from jaxtyping import Float, Int
from torch import Tensor, nn

from mambino.core.labels import Labels
from mambino.core.recipe import Recipe
from mambino.errors import OptionError
from mambino.training.terms import IGNORED, TERM, Seen

Parts = dict[str, Float[Tensor, ""]]
"""Weighted terms of a loss, by name; their sum is what is minimised."""


def learnable(labels: Labels, numbers: Int[Tensor, "b *s"]) -> Int[Tensor, "b *s"]:
    """Return label numbers as int64 with everything that must not be learnt set to `IGNORED`."""
    numbers = numbers.long()
    wrong = numbers < 0
    if labels.ignore is not None:
        wrong = wrong | (numbers == labels.ignore)
    return numbers.masked_fill(wrong, IGNORED)


def parts(logits: Float[Tensor, "b k *s"], target: Int[Tensor, "b *s"], labels: Labels, recipe: Recipe) -> Parts:
    """Return the terms of a recipe's loss, each times its weight; all are float32."""
    seen = Seen(logits, target, labels, recipe.batch_dice, recipe.class_weights)
    return {name: weight * TERM[name](seen) for name, weight in recipe.loss.items() if weight}


def scales_of(
    network: nn.Module, images: Float[Tensor, "b c *s"], *, deep: bool
) -> tuple[Float[Tensor, "b k *_"], ...]:
    """Return the logits that a network offers, finest first; the finest alone where `deep` is not asked for."""
    scales = getattr(network, "scales", None) if deep else None
    return tuple(scales(images)) if scales else (network(images),)


def deep_parts(
    scales: Sequence[Float[Tensor, "b k *_"]], target: Int[Tensor, "b *s"], labels: Labels, recipe: Recipe
) -> Parts:
    """Return `parts` summed over all scales, finest first; targets shrink to the nearest voxel."""
    found: Parts = {}
    for logits, weight in zip(scales, scale_weights(len(scales)), strict=True):
        if weight:
            for name, part in parts(logits, _shrunk(target, logits.shape[2:]), labels, recipe).items():
                found[name] = found.get(name, part.new_zeros(())) + weight * part
    return found


def scale_weights(count: int) -> tuple[float, ...]:
    """Return how much each of `count` scales weighs, finest first: halves, the coarsest nothing (as nnU-Net).

    Swin-UMamba's (1, 1/2, 1/4, 0) / 1.75 for its four scales are the same.
    """
    if count == 1:
        return (1.0,)
    weights = [0.5**i for i in range(count - 1)] + [0.0]
    return tuple(w / sum(weights) for w in weights)


def check_loss(recipe: Recipe, labels: Labels) -> None:
    """Refuse weights of structures that the data set does not have.

    Raises:
        OptionError: names the structure and those there are.
    """
    known = (*labels.names, *(() if labels.has_regions else ("background",)))
    unknown = [name for name in recipe.class_weights if name not in known]
    if unknown:
        raise OptionError(
            f"class_weights names {unknown[0]}, but the structures are {', '.join(known)}",
            hint="correct it, or leave it out",
        )


def _shrunk(target: Int[Tensor, "b *s"], shape: torch.Size) -> Int[Tensor, "b *_"]:
    if target.shape[1:] == shape:
        return target
    return F.interpolate(target[:, None].float(), tuple(shape), mode="nearest-exact")[:, 0].long()
