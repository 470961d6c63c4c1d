"""Whether a network that has learnt gives the same masks in bfloat16, so that `predict` may use it."""

from collections.abc import Sequence
from dataclasses import astuple
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambino.core.labels import Labels
from mambino.metrics.overlap import Counts, counts, dice
from mambino.models.precision import in_precision
from mambino.nn.device import has_bf16
from mambino.training.sampling import Readable, stored
from mambino.training.validation import windowed, windows
from mambino.weights.bundle import Bundle

CASES = 5
"""That are compared at most."""
SHARE = 0.1
"""Windows that are compared at most, as a share of the patches learnt from; in time it is a twentieth."""


def agreement(bundle: Bundle, cases: Sequence[Readable], device: torch.device) -> float | None:
    """Return the mean Dice between masks in bfloat16 and in float32, over structures and prepared cases.

    Args:
        bundle: its network is moved to the device; `provenance.steps` says how much it has learnt.
        cases: not learnt from, where there are such.
        device: None is returned unless it multiplies bfloat16 numbers itself.

    Returns:
        None also where so little was learnt that not even one case is worth the time, or where no mask has a voxel.
    """
    config, most = bundle.config, int(SHARE * bundle.config.batch * bundle.provenance.steps)
    chosen: list[Readable] = []
    for case in sorted(cases, key=lambda case: (len(windows(case.shape, config)), case.id))[:CASES]:
        most -= len(windows(case.shape, config))
        chosen += [case] if most >= 0 else []
    if not chosen or not has_bf16(device):
        return None
    network = bundle.network.to(device).eval()
    forwards = [in_precision(network, config, precision, device) for precision in ("float32", "bf16")]
    found: list[float] = []
    for case in chosen:
        voxels, _ = stored(case, [0] * len(case.shape), case.shape)
        image = torch.from_numpy(np.ascontiguousarray(voxels)).to(device)
        totals = np.zeros((len(bundle.labels.names), 4), np.int64)
        for (_, wide), (_, half) in zip(*(windowed(one, image, config) for one in forwards), strict=True):
            masks = zip(_masks(wide, bundle.labels), _masks(half, bundle.labels), strict=True)
            totals += [astuple(counts(*pair)) for pair in masks]
        found += [value for total in totals.tolist() if (value := dice(Counts(*total))) is not None]
    return round(fmean(found), 6) if found else None


def _masks(logits: Tensor, labels: Labels) -> list[NDArray[np.bool_]]:
    if labels.has_regions:
        return list((logits > 0).cpu().numpy())
    winner = logits.argmax(0).cpu().numpy()
    return [winner == number for number in range(1, len(labels.names) + 1)]
