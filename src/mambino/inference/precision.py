"""In which numbers a network segments: bfloat16 where that was measured to be faster, and to give the same masks."""

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mambino.core.options import PredictOptions
from mambino.models.precision import Forward, Name, in_precision
from mambino.nn.device import has_bf16
from mambino.weights.bundle import Bundle

_GAINS: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()

AGREED = 0.999
"""Mean Dice on held-out cases, between the masks of both precisions, from which on they count as the same."""
GAIN = 1.15
"""bfloat16 is taken on a processor where it makes a window so many times faster."""


def choose_precision(bundles: Sequence[Bundle], options: PredictOptions, device: torch.device) -> Name:
    """Return the precision that the options ask for; "auto" takes bfloat16 where nothing is lost by it.

    A GPU that has it takes it. A processor takes it if it has instructions for it, if every bundle has been found to
    give the same masks with it (`Bundle.half`), and if a window takes less time: that is measured here.
    """
    if options.precision != "auto":
        return options.precision
    if device.type == "cuda":
        return "bf16" if has_bf16(device) else "float32"
    agreed = all(bundle.half is not None and bundle.half >= AGREED for bundle in bundles)
    if device.type != "cpu" or not agreed or not has_bf16(device):
        return "float32"
    return "bf16" if all(_gain(bundle, device) > GAIN for bundle in bundles) else "float32"


def _gain(bundle: Bundle, device: torch.device) -> float:
    """Return how many times less a window takes in bfloat16 than in float32; measured once for each network."""
    if bundle.network in _GAINS:
        return _GAINS[bundle.network]
    config = bundle.config
    images = torch.zeros(1, config.network.in_channels, *config.patch, device=device)
    slow, fast = (
        _seconds(in_precision(bundle.network, config, precision, device), images) for precision in ("float32", "bf16")
    )
    return _GAINS.setdefault(bundle.network, slow / fast)


def _seconds(forward: Forward, images: Tensor) -> float:
    """Return the shorter time of two passes, after one if that took little."""
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        forward(images)
        times.append(time.perf_counter() - begin)
    return min(times)
