"""Rules on intensities: how each channel is scaled."""

import math

import numpy as np

from mambino.core.fingerprint import Fingerprint, Intensity
from mambino.core.plan import Normalise
from mambino.planning.rules import Chosen

SHRINKS = 0.75  # median share of an image that is left after cropping, below which zero means "no image"


def normalise(channels: tuple[str, ...], fingerprint: Fingerprint) -> tuple[Chosen[Normalise], ...]:
    """Choose the scheme of each channel by its name, as nnU-Net does.

    "CT" is a scale shared by all scanners: the training set's foreground sets it. "rgb_to_0_1" divides by 255,
    "noNorm" leaves values alone. Everything else, R, G and B of a photograph included, has no unit that all
    images share, and each image is brought to mean 0 and deviation 1.
    """
    inside = _relative_size(fingerprint) < SHRINKS
    return tuple(
        _channel(name, intensity, inside) for name, intensity in zip(channels, fingerprint.intensities, strict=True)
    )


def _channel(name: str, intensity: Intensity, inside: bool) -> Chosen[Normalise]:
    match name.casefold():
        case "ct":
            return Chosen(
                _ct(intensity), "CT numbers mean the same everywhere: foreground of the training set scales them"
            )
        case "rgb_to_0_1":
            return Chosen(Normalise(scheme="rgb"), "the channel's name asks for values divided by 255")
        case "nonorm":
            return Chosen(Normalise(scheme="none"), "the channel's name asks for values as they are")
    why = "the channel has no unit that all images share: each image is scaled by itself"
    if inside:
        why += f", over non-zero voxels, since cropping zeros leaves less than {SHRINKS:.0%} of a median image"
    return Chosen(Normalise(scheme="zscore", inside=inside), why)


def _ct(intensity: Intensity) -> Normalise:
    return Normalise(
        scheme="ct",
        mean=intensity.mean,
        std=max(intensity.std, 1e-8),
        lower=intensity.percentile_00_5,
        upper=intensity.percentile_99_5,
    )


def _relative_size(fingerprint: Fingerprint) -> float:
    return float(np.median([math.prod(case.cropped) / math.prod(case.shape) for case in fingerprint.cases]))
