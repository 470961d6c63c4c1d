"""From scores of classes to label numbers and probabilities, voxel by voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.scratch import Room, in_memory, slabs
from mambino.core.threads import shared, spans


def likeliest(
    shares: Sequence[NDArray[np.float32]], grid: Grid, labels: Labels, *, room: Room = in_memory
) -> Segmentation:
    """Return the labels of the mean of probabilities [k, *s], as `restore` gives those of logits.

    Args:
        shares: of the same image, from `restore_scores`; one, or several that are averaged.
        grid: of the image.
        labels: what the classes mean; a region is painted where its mean probability is above one half.
        room: for the mask.
    """
    numbers = room(grid.shape, smallest_type(labels))
    for rows in slabs(grid.shape):
        mean = mean_of([share[:, rows] for share in shares])
        reduce_scores(mean - np.float32(0.5) if labels.has_regions else mean, labels, numbers[rows])
    return Segmentation(numbers, grid, labels)


def mean_of(shares: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of arrays of one shape, each of which weighs the same."""
    total = shares[0].copy()
    for share in shares[1:]:
        total += share
    total /= np.float32(len(shares))
    return total


def reduce_scores(scores: NDArray[np.float32], labels: Labels, out: NDArray[np.unsignedinteger]) -> None:
    """Write the numbers of scores [k, *s] to [*s], some rows a thread.

    Where structures exclude one another a class takes the place of those before it where its score is larger: half the
    time of numpy's argmax over the first axis, and the same numbers.
    """

    def rows(part: slice) -> None:
        if labels.has_regions:
            out[part] = painted(scores[:, part], labels)
            return
        best, numbers = scores[0, part].copy(), out[part]
        numbers[...] = 0
        for score, group in zip(scores[1:, part], labels.names.values(), strict=True):
            larger = score > best
            np.copyto(best, score, where=larger)
            np.copyto(numbers, out.dtype.type(group[0]), where=larger)

    shared(rows, spans(scores.shape[1]))


def largest(scores: Any, labels: Labels) -> Any:
    """[k, *s] scores to [*s] numbers of the largest; the smaller number where two are equal."""
    xp = array_namespace(scores)
    numbers = xp.asarray([0, *(group[0] for group in labels.names.values())], device=device(scores))
    return xp.take(numbers, xp.reshape(xp.argmax(scores, axis=0), (-1,)), axis=0).reshape(scores.shape[1:])


def painted(scores: Any, labels: Labels) -> Any:
    """[k, *s] scores of regions to [*s] numbers, a later region over an earlier one."""
    xp = array_namespace(scores)
    numbers = xp.zeros(scores.shape[1:], dtype=xp.int64, device=device(scores))
    for region, number in zip(scores, labels.paint or (), strict=True):
        numbers[region > 0] = number
    return numbers


def smallest_type(labels: Labels) -> type[np.unsignedinteger]:
    """Return the type that masks of these labels are written in."""
    return np.uint8 if max(labels.numbers) < 256 else np.uint16


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """[k, *s] scores to the probabilities of classes that exclude one another."""
    powers = np.exp(scores - scores.max(0))
    shares: NDArray[np.float32] = powers / powers.sum(0)
    return shares


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """[k, *s] scores to the probability of each region by itself."""
    return 0.5 * (1 + np.tanh(0.5 * scores))  # type: ignore[no-any-return]
