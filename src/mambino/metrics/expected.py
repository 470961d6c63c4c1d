"""The Dice that probabilities expect of a mask, without a truth."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def expected_dice(probabilities: Iterable[NDArray[np.float32]], masks: Iterable[NDArray[np.bool_]]) -> float | None:
    """Return the Dice that probabilities expect of masks, one [*s] of each a structure; the mean over those found.

    2 sum(p m) / (sum(p) + sum(m)) for each structure; as in Li et al., "Estimating model performance under domain
    shifts with class-specific confidence scores" (MICCAI 2022). None where all masks are empty.
    """
    values = []
    for share, mask in zip(probabilities, masks, strict=True):
        if size := int(mask.sum()):
            hit, all_of_it = share[mask].sum(dtype=np.float64), share.sum(dtype=np.float64)
            values.append(2 * hit / (all_of_it + size))
    return round(float(np.mean(values)), 6) if values else None
