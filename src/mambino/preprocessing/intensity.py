"""Normalisation: how the intensities of one channel become what a network expects. One function a scheme."""

import numpy as np
from numpy.typing import NDArray

from mambino.core.plan import Normalise
from mambino.errors import DataError

_SMALLEST = 1e-8  # of a deviation: a constant image becomes zero, not infinite


def normalise(
    channel: NDArray[np.float32], how: Normalise, inside: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Scale one channel [*s].

    Args:
        channel: voxels of the box that is left after cropping.
        how: scheme and its numbers.
        inside: [*s] the voxels to take statistics of, where `how.inside` asks for it; the others become 0.

    Raises:
        DataError: the values are outside the range that the scheme was made for.
    """
    match how.scheme:
        case "ct":
            return ct(channel, how)
        case "zscore":
            return zscore(channel, inside if how.inside else None)
        case "rgb":
            return rgb(channel)
        case "none":
            return channel


def ct(channel: NDArray[np.float32], how: Normalise) -> NDArray[np.float32]:
    """Clip to [lower, upper], subtract the mean and divide by the deviation of the training set's foreground."""
    scaled = np.clip(channel, np.float32(how.lower), np.float32(how.upper))
    scaled -= np.float32(how.mean)
    scaled /= np.float32(max(how.std, _SMALLEST))
    return scaled


def zscore(channel: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Subtract the image's own mean and divide by its own deviation, taken over `inside` where given."""
    voxels = channel if inside is None else channel[inside]
    if not voxels.size:
        return np.zeros_like(channel)
    mean, deviation = voxels.mean(dtype=np.float64), voxels.std(dtype=np.float64)
    scaled = channel - np.float32(mean)
    scaled /= np.float32(max(deviation, _SMALLEST))
    if inside is not None:
        scaled[~inside] = 0
    return scaled


def rgb(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide by 255.

    Raises:
        DataError: a value is below 0 or above 255.
    """
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise DataError(
            f"colours are numbers from 0 to 255, but the image holds {low:g} to {high:g}",
            hint="convert the image to 8 bits a channel",
        )
    return channel / np.float32(255)
