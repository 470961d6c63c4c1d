"""How sure a prediction is, voxel by voxel and for a whole case.

Entropy and mutual information over the members of an ensemble, as in Gal, "Uncertainty in Deep Learning" (2016),
section 3.3; the expected Dice from probabilities alone, as in Li et al., "Estimating model performance under domain
shifts with class-specific confidence scores" (MICCAI 2022).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.inference.ledger import Doubt

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What members make of an image together.

    Attributes:
        probabilities: [k, *s], the mean of the members'.
        entropy: [*s] of that mean (nats): from 0, certain, to log k.
        mutual_information: [*s], what of the entropy is disagreement between members (nats); None of one member.
    """

    probabilities: Floats
    entropy: Floats
    mutual_information: Floats | None


def maps(members: Iterable[Floats], labels: Labels) -> Maps:
    """Weigh the probabilities [k, *s] of one member or several against one another.

        entropy = H(mean p),  mutual information = H(mean p) - mean H(p)

    Regions may overlap, so each of them is a yes or no of its own, and H is the sum over regions.
    """
    count, total, own = 0, None, None
    for probabilities in members:
        count += 1
        entropy = entropy_of(probabilities, labels)
        total = probabilities.copy() if total is None else total + probabilities
        own = entropy if own is None else own + entropy
    if total is None or own is None:
        raise ValueError("there is no member")
    mean = total / np.float32(count)
    entropy = entropy_of(mean, labels)
    shared = None if count == 1 else np.maximum(entropy - own / np.float32(count), 0)  # rounding may go below 0
    return Maps(mean, entropy, shared)


def entropy_of(probabilities: Floats, labels: Labels) -> Floats:
    """Return the entropy [*s] of probabilities [k, *s] (nats)."""
    total = np.zeros(probabilities.shape[1:], np.float32)
    for channel in probabilities:
        total += _surprise(channel)
        if labels.has_regions:
            total += _surprise(1 - channel)
    return total


def doubt(found: Maps, segmentation: Segmentation) -> Doubt:
    """Return the uncertainty of a case in a few numbers; means are over the mask, or the image where it is empty."""
    inside = segmentation.array > 0
    where = inside if inside.any() else np.ones_like(inside)
    shared = found.mutual_information
    return Doubt(
        entropy=round(float(found.entropy[where].mean(dtype=np.float64)), 6),
        mutual_information=None if shared is None else round(float(shared[where].mean(dtype=np.float64)), 6),
        expected_dice=expected_dice(found.probabilities, segmentation),
    )


def expected_dice(probabilities: Floats, segmentation: Segmentation) -> float | None:
    """Return the Dice that probabilities [k, *s] expect of a mask, the mean over the structures that it has.

    2 sum(p m) / (sum(p) + sum(m)) for each structure. None where the mask is empty.
    """
    labels, values = segmentation.labels, []
    channels = probabilities if labels.has_regions else probabilities[1:]
    for numbers, channel in zip(labels.names.values(), channels, strict=True):
        mask = np.isin(segmentation.array, numbers)
        if size := int(mask.sum()):
            hit, all_of_it = channel[mask].sum(dtype=np.float64), channel.sum(dtype=np.float64)
            values.append(2 * hit / (all_of_it + size))
    return round(float(np.mean(values)), 6) if values else None


def _surprise(share: Floats) -> Floats:
    """Return -p log p, 0 where p is 0."""
    out: Floats = -share * np.log(np.maximum(share, np.finfo(np.float32).tiny))
    return out
