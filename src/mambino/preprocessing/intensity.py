"""Normalisation: how the intensities of one channel become what a network expects. One function a scheme."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mambino.core.plan import Normalise
from mambino.core.scratch import slabs
from mambino.errors import DataError

_SMALLEST = 1e-8  # of a deviation: a constant image becomes zero, not infinite


def normalise(
    channel: NDArray[np.float32],
    how: Normalise,
    inside: NDArray[np.bool_] | None = None,
    out: NDArray[np.float32] | None = None,
    span: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Scale one channel [*s].

    Args:
        channel: voxels of the box that is left after cropping.
        how: scheme and its numbers.
        inside: [*s] the voxels to take statistics of, where `how.inside` asks for it; the others become 0.
        out: where the result goes; a new array if None.
        span: what becomes 0 and 255 where the scheme is "range"; the extremes of the channel if None.

    Raises:
        DataError: the values are outside the range that the scheme was made for.
    """
    out = np.empty(channel.shape, np.float32) if out is None else out
    inside = inside if how.inside else None
    offset, scale = _line(channel, how, inside, span)
    for rows in slabs(channel.shape):
        part = channel[rows]
        if how.scheme == "ct":
            part = np.clip(part, np.float32(how.lower), np.float32(how.upper))
        scaled = out[rows]
        np.subtract(part, offset, out=scaled)
        if scale != 1:
            scaled /= scale
        if how.scheme == "zscore" and inside is not None:
            scaled[~inside[rows]] = 0
    return out


def extremes(channels: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Return the least and the largest value of several channels; of none (0, 0)."""
    return (
        min((float(channel.min()) for channel in channels), default=0.0),
        max((float(channel.max()) for channel in channels), default=0.0),
    )


def _line(
    channel: NDArray[np.float32],
    how: Normalise,
    inside: NDArray[np.bool_] | None,
    span: tuple[float, float] | None,
) -> tuple[np.float32, np.float32]:
    """Return what is subtracted from each voxel, and what it is divided by then.

    "ct": mean and deviation of the training set's foreground, after clipping. "zscore": the image's own, over `inside`
    where given. "rgb": 0 and 255. "range": the least of `span`, and what makes the largest 255. "none": 0 and 1.
    """
    match how.scheme:
        case "ct":
            return np.float32(how.mean), np.float32(max(how.std, _SMALLEST))
        case "zscore":
            mean, deviation = _moments(channel, inside)
            return np.float32(mean), np.float32(max(deviation, _SMALLEST))
        case "rgb":
            _check_colours(channel)
            return np.float32(0), np.float32(255)
        case "range":
            low, high = span or extremes([channel])
            return np.float32(low), np.float32(max((high - low) / 255, _SMALLEST))
        case "none":
            return np.float32(0), np.float32(1)


def _moments(channel: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Return mean and deviation; of no voxels (0, 1)."""

    def parts() -> Iterator[NDArray[np.float32]]:
        for rows in slabs(channel.shape):
            yield channel[rows] if inside is None else channel[rows][inside[rows]]

    count = sum(part.size for part in parts())
    if not count:
        return 0.0, 1.0
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts()) / count
    return mean, math.sqrt(sum(float(np.square(part - np.float64(mean)).sum()) for part in parts()) / count)


def _check_colours(channel: NDArray[np.float32]) -> None:
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise DataError(
            f"colours are numbers from 0 to 255, but the image holds {low:g} to {high:g}",
            hint="convert the image to 8 bits a channel",
        )
