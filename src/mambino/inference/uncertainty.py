"""How sure a prediction is, voxel by voxel and for a whole case.

Entropy and mutual information over the members of an ensemble, as in Gal, "Uncertainty in Deep Learning" (2016),
section 3.3.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambino.core.calibration import Calibration
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.inference.ledger import Doubt
from mambino.metrics.expected import expected_dice

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


def doubt(found: Maps, segmentation: Segmentation, learnt: Sequence[Calibration | None] = ()) -> Doubt:
    """Return the uncertainty of a case in a few numbers; means are over the mask, or the image where it is empty.

    Args:
        found: of the case.
        segmentation: its mask.
        learnt: of each bundle that has made it. Where all were calibrated, the strictest threshold and margin are
            taken: those of the members, since an ensemble was not measured on held-out cases.
    """
    labels = segmentation.labels
    channels = found.probabilities if labels.has_regions else found.probabilities[1:]
    expected = expected_dice(channels, [np.isin(segmentation.array, group) for group in labels.names.values()])
    threshold = _strictest([c.threshold if c else None for c in learnt])
    margin = _strictest([c.margin if c else None for c in learnt])
    inside = segmentation.array > 0
    where = inside if inside.any() else np.ones_like(inside)
    shared = found.mutual_information
    return Doubt(
        entropy=round(float(found.entropy[where].mean(dtype=np.float64)), 6),
        mutual_information=None if shared is None else round(float(shared[where].mean(dtype=np.float64)), 6),
        expected_dice=expected,
        dice_at_least=None if margin is None or expected is None else round(max(0.0, expected - margin), 6),
        trusted=None if threshold is None else (expected or 0.0) >= threshold,
    )


def _strictest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _surprise(share: Floats) -> Floats:
    """Return -p log p, 0 where p is 0."""
    out: Floats = -share * np.log(np.maximum(share, np.finfo(np.float32).tiny))
    return out
