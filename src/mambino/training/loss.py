"""What training minimises: soft Dice + cross-entropy, on every scale that the network offers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the habit of the field
from jaxtyping import Float, Int
from torch import Tensor

from mambino.core.labels import Labels
from mambino.training.processes import whole

IGNORED = -1
"""Target number of voxels that are not learnt: not annotated, or outside of the image."""

SMOOTH = 1e-5  # as nnU-Net


def learnable(labels: Labels, numbers: Int[Tensor, "b *s"]) -> Int[Tensor, "b *s"]:
    """Return label numbers as int64 with everything that must not be learnt set to `IGNORED`."""
    numbers = numbers.long()
    wrong = numbers < 0
    if labels.ignore is not None:
        wrong = wrong | (numbers == labels.ignore)
    return numbers.masked_fill(wrong, IGNORED)


def dice_ce(
    logits: Float[Tensor, "b k *s"], target: Int[Tensor, "b *s"], labels: Labels
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the two parts of the loss: 1 - Dice, and the cross-entropy.

        Dice_k = (2 sum p y + e) / (sum p + sum y + e),  e = 1e-5

    Sums run over the voxels of the whole batch, in all processes, and the mean over structures without the background.
    Structures that exclude one another have a softmax; regions, which may overlap, a sigmoid each and
    binary cross-entropy. Voxels of `IGNORED` count in neither part. Both parts are float32.
    """
    logits = logits.float()
    known = target != IGNORED
    if labels.has_regions:
        truth = region_targets(target, labels)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        entropy = whole((bce * known[:, None]).sum()) / (whole(known.sum()) * truth.shape[1]).clamp(min=1)
        return 1 - _dice(logits.sigmoid(), truth, known), entropy
    safe = target.clamp(min=0)
    logs = logits.log_softmax(1)
    entropy = -whole((logs.gather(1, safe[:, None])[:, 0] * known).sum()) / whole(known.sum()).clamp(min=1)
    structures = torch.arange(1, logits.shape[1], device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    truth = (safe[:, None] == structures).to(logits.dtype)
    return 1 - _dice(logs[:, 1:].exp(), truth, known), entropy


def region_targets(target: Int[Tensor, "b *s"], labels: Labels) -> Float[Tensor, "b k *s"]:
    """Return one map of zeros and ones a region."""
    maps = [torch.isin(target, torch.tensor(group, device=target.device)) for group in labels.names.values()]
    return torch.stack(maps, 1).float()


def scale_weights(count: int) -> tuple[float, ...]:
    """Return how much each of `count` scales weighs, finest first: halves, the coarsest nothing (as nnU-Net)."""
    if count == 1:
        return (1.0,)
    weights = [0.5**i for i in range(count - 1)] + [0.0]
    return tuple(w / sum(weights) for w in weights)


def deep_dice_ce(
    scales: Sequence[Float[Tensor, "b k *_"]], target: Int[Tensor, "b *s"], labels: Labels
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the parts of `dice_ce` over all scales, finest first; targets shrink to the nearest voxel."""
    dice = entropy = scales[0].new_zeros((), dtype=torch.float32)
    for logits, weight in zip(scales, scale_weights(len(scales)), strict=True):
        if weight:
            parts = dice_ce(logits, _shrunk(target, logits.shape[2:]), labels)
            dice, entropy = dice + weight * parts[0], entropy + weight * parts[1]
    return dice, entropy


def _dice(probability: Float[Tensor, "b k *s"], truth: Float[Tensor, "b k *s"], known: Tensor) -> Float[Tensor, ""]:
    axes = [0, *range(2, truth.ndim)]
    probability = probability * known[:, None]
    truth = truth * known[:, None]
    both = whole((probability * truth).sum(axes))
    total = whole(probability.sum(axes) + truth.sum(axes))
    return ((2 * both + SMOOTH) / (total + SMOOTH)).mean()


def _shrunk(target: Int[Tensor, "b *s"], shape: torch.Size) -> Int[Tensor, "b *_"]:
    if target.shape[1:] == shape:
        return target
    return F.interpolate(target[:, None].float(), tuple(shape), mode="nearest-exact")[:, 0].long()
