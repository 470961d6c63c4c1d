"""The terms of a loss: each takes what is `Seen` of a batch and returns a number that falls as the network learns.

Sums over a batch go through `whole`, so that several processes minimise what one would. Where structures exclude one
another (softmax) `p` is the probability of each without the background; regions, which may overlap, have a sigmoid
each. Voxels of `IGNORED` count nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 - the habit of the field
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mambino.core.labels import Labels
from mambino.training.processes import whole

IGNORED = -1
"""Target number of voxels that are not learnt: not annotated, or outside of the image."""
SMOOTH = 1e-5
"""Added to both sides of a Dice, as nnU-Net does."""
MISSED, FALSE, FOCUS = 0.7, 0.3, 3 / 4
"""Weights of missed and of false voxels, and the exponent 1 / (4/3), of focal Tversky (arXiv 1810.07842, section 3)."""
THINNINGS = 5
"""Times that a mask is thinned to a skeleton; tubes of a radius of more voxels keep a thick one (arXiv 2003.07311)."""

Scalar = Float[Tensor, ""]
Maps = Float[Tensor, "b k *s"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network says of a batch, and what is true.

    Attributes:
        logits: [b k *s], of any float type; computed with in float32.
        target: number of each voxel, `IGNORED` where it is not learnt.
        labels: of the data set.
        batch_dice: sum over the voxels of the whole batch, not over those of each patch.
        class_weights: by name; 1 for those that are not named.
    """

    logits: Maps
    target: Int[Tensor, "b *s"]
    labels: Labels
    batch_dice: bool = True
    class_weights: dict[str, float] = field(default_factory=dict)

    @cached_property
    def known(self) -> Bool[Tensor, "b 1 *s"]:
        """Where the target is known."""
        return (self.target != IGNORED)[:, None]

    @cached_property
    def truth(self) -> Maps:
        """Ones where a structure is; no background."""
        if self.labels.has_regions:
            return region_targets(self.target, self.labels)
        count = len(self.labels.names)
        numbers = torch.arange(1, count + 1, device=self.target.device).view(1, -1, *[1] * (self.target.ndim - 1))
        return (self.target[:, None] == numbers).to(torch.float32)

    @cached_property
    def logs(self) -> Maps:
        """Logarithms of the probabilities, background included where there is one."""
        logits = self.logits.float()
        return F.logsigmoid(logits) if self.labels.has_regions else logits.log_softmax(1)

    @cached_property
    def p(self) -> Maps:
        """Probabilities of the structures; no background."""
        return self.logits.float().sigmoid() if self.labels.has_regions else self.logs[:, 1:].exp()

    @cached_property
    def voxels(self) -> Scalar:
        """How many voxels are known, at least 1."""
        return whole(self.known.sum()).clamp(min=1)

    def weights(self, *, background: bool) -> Float[Tensor, "k"]:
        """Return the weight of each structure, that of the background first if it is asked for."""
        names = (["background"] if background else []) + list(self.labels.names)
        return torch.tensor([self.class_weights.get(name, 1.0) for name in names], device=self.logits.device)

    def mean(self, values: Float[Tensor, "*n k"]) -> Scalar:
        """Return the weighted mean over structures, and the plain one over patches where there is a row for each."""
        weights = self.weights(background=False)
        each = (values * weights).sum(-1) / weights.sum().clamp(min=1e-12)
        return each if each.ndim == 0 else whole(each.sum()) / whole(torch.full_like(each[0], len(each)))

    def sums(self, maps: Maps, *, batch: bool) -> Float[Tensor, "*n k"]:
        """Sum over known voxels of the whole batch, or of each patch [b k]."""
        maps = maps * self.known
        return whole(maps.sum([0, *range(2, maps.ndim)])) if batch else maps.flatten(2).sum(2)


def dice(seen: Seen) -> Scalar:
    """Return 1 - soft Dice, the mean over structures of (2 sum p y + e) / (sum p + sum y + e), e = 1e-5 (nnU-Net)."""
    return 1 - _overlap(seen, SMOOTH, batch=seen.batch_dice)


def sample_dice(seen: Seen) -> Scalar:
    """Return 1 - soft Dice of each patch, with 1 added above and below (VM-UNet, `DiceLoss` for ISIC)."""
    return 1 - _overlap(seen, 1.0, batch=False)


def squared_dice(seen: Seen) -> Scalar:
    """Return 1 - soft Dice with squares below, over the batch, the background among the structures.

    As TransUNet, Swin-Unet and VM-UNet (Synapse) have it: (2 sum p y + e) / (sum p^2 + sum y^2 + e), e = 1e-5.
    Regions have no background.
    """
    p, truth = seen.p, seen.truth
    if not seen.labels.has_regions:
        p = seen.logs.exp()
        truth = torch.cat([(seen.target == 0)[:, None].to(truth.dtype), truth], 1)
    both, size = seen.sums(p * truth, batch=True), seen.sums(p**2 + truth, batch=True)
    weights = seen.weights(background=not seen.labels.has_regions)
    values = (2 * both + SMOOTH) / (size + SMOOTH)
    return 1 - (values * weights).sum() / weights.sum().clamp(min=1e-12)


def ce(seen: Seen) -> Scalar:
    """Return the mean cross-entropy over voxels, weighted as torch's; of regions the binary one, over all of them."""
    if seen.labels.has_regions:
        return bce(seen)
    safe = seen.target.clamp(min=0)
    known = seen.known[:, 0]
    own = -(seen.logs.gather(1, safe[:, None])[:, 0] * known)
    if not seen.class_weights:
        return whole(own.sum()) / seen.voxels
    weights = seen.weights(background=True)[safe] * known
    return whole((own * weights).sum()) / whole(weights.sum()).clamp(min=1e-12)


def bce(seen: Seen) -> Scalar:
    """Return the mean binary cross-entropy of each structure against the rest.

    With a softmax and one structure this equals the cross-entropy, and that of a single sigmoid.
    """
    if seen.labels.has_regions:
        each = F.binary_cross_entropy_with_logits(seen.logits.float(), seen.truth, reduction="none")
    else:
        each = -(seen.truth * seen.logs[:, 1:] + (1 - seen.truth) * _logs_of_rest(seen.logs))
    return seen.mean(seen.sums(each, batch=True) / seen.voxels)


def focal_tversky(seen: Seen) -> Scalar:
    """Return the mean over structures of (1 - T) ** (3/4), T = (both + e) / (both + 0.7 missed + 0.3 false + e).

    Abraham and Khan 2018, arXiv 1810.07842: small structures, which a plain Dice lets go, weigh more.
    """
    both = seen.sums(seen.p * seen.truth, batch=seen.batch_dice)
    missed = seen.sums(seen.truth, batch=seen.batch_dice) - both
    false = seen.sums(seen.p, batch=seen.batch_dice) - both
    index = (both + SMOOTH) / (both + MISSED * missed + FALSE * false + SMOOTH)
    return seen.mean((1 - index).clamp(min=1e-6) ** FOCUS)  # the slope of the root at 0 is infinite


def cldice(seen: Seen) -> Scalar:
    """Return 1 - soft clDice of each patch: overlap of each skeleton with the other mask, for vessels and other tubes.

    Shit et al. 2021, arXiv 2003.07311, algorithms 1 and 2: 2 T S / (T + S) with
    T = (sum skel(p) y + 1) / (sum skel(p) + 1), and S the same with p and y exchanged.
    """
    p, truth = seen.p * seen.known, seen.truth * seen.known
    ours, true = skeleton(p), skeleton(truth)

    def share(bones: Maps, flesh: Maps) -> Float[Tensor, "b k"]:
        return (seen.sums(bones * flesh, batch=False) + 1) / (seen.sums(bones, batch=False) + 1)

    precision, recall = share(ours, truth), share(true, p)
    return seen.mean(1 - 2 * precision * recall / (precision + recall).clamp(min=1e-12))


TERM: dict[str, Callable[[Seen], Scalar]] = {
    "dice": dice,
    "ce": ce,
    "bce": bce,
    "sample_dice": sample_dice,
    "squared_dice": squared_dice,
    "focal_tversky": focal_tversky,
    "cldice": cldice,
}


def region_targets(target: Int[Tensor, "b *s"], labels: Labels) -> Maps:
    """Return one map of zeros and ones a region."""
    maps = [torch.isin(target, torch.tensor(group, device=target.device)) for group in labels.names.values()]
    return torch.stack(maps, 1).float()


def skeleton(maps: Maps, thinnings: int = THINNINGS) -> Maps:
    """Return the soft skeleton: what erosion takes away although an opening would not, layer by layer."""
    found = F.relu(maps - _opened(maps))
    for _ in range(thinnings):
        maps = _eroded(maps)
        rest = F.relu(maps - _opened(maps))
        found = found + F.relu(rest - found * rest)
    return found


def _overlap(seen: Seen, smooth: float, *, batch: bool) -> Scalar:
    both = seen.sums(seen.p * seen.truth, batch=batch)
    total = seen.sums(seen.p, batch=batch) + seen.sums(seen.truth, batch=batch)
    return seen.mean((2 * both + smooth) / (total + smooth))


def _logs_of_rest(logs: Maps) -> Maps:
    """Return log(1 - p) of each structure: that of all others together, exact also where p is nearly 1."""
    classes = range(1, logs.shape[1])
    rest = [torch.cat([logs[:, :k], logs[:, k + 1 :]], 1).logsumexp(1) for k in classes]
    return torch.stack(rest, 1)


def _eroded(maps: Maps) -> Maps:
    """Return the least of each voxel and its neighbours along the axes."""
    dim, pool = maps.ndim - 2, {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[maps.ndim - 2]
    least = maps
    for axis in range(dim):
        size = [3 if other == axis else 1 for other in range(dim)]
        least = torch.minimum(least, -pool(-maps, size, 1, [s // 2 for s in size]))
    return least


def _opened(maps: Maps) -> Maps:
    """Return an erosion and the largest of each voxel and all its neighbours after it."""
    dim, pool = maps.ndim - 2, {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[maps.ndim - 2]
    return pool(_eroded(maps), [3] * dim, 1, [1] * dim)
