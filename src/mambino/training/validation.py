"""How good a network is on whole cases that it does not learn from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import ceil
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from mambino.core.labels import Labels
from mambino.core.plan import Config
from mambino.metrics.overlap import Counts, counts, dice
from mambino.ops.windows import blend, positions
from mambino.training.precision import Precision
from mambino.training.processes import ALONE, Processes
from mambino.training.sampling import Readable, stored

T = TypeVar("T")

OVERLAP = 0.25
"""Of windows while validating; predicting has 0.5, which costs up to three times as much for a third decimal."""
SHARE = 0.1
"""Validation takes at most about this share of the time."""
ROUNDS = (4, 50)
"""Fewest and most validations of a run."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often to validate, and on how many of the held-out cases.

    Attributes:
        every: epochs between two validations.
        cases: how many cases, spread evenly over all that are held out.
    """

    every: int
    cases: int


@dataclass(frozen=True, slots=True)
class Score:
    """Dice on the prepared grid: of each structure as a mean over cases, and the mean of these.

    None: no case has the structure, and nothing was predicted.
    """

    dice: float | None
    per_label: Mapping[str, float | None]


def rhythm(cases: Sequence[Readable], config: Config, epochs: int, asked: int = 0) -> Rhythm:
    """Choose so that validation costs about a tenth of a run of so many epochs.

    The cost is counted, not measured, so that equal runs validate at equal moments: a window costs one
    forward pass, a training step three for each patch.

    Args:
        asked: epochs between validations that the user wants; 0 leaves the choice to us.
    """
    epoch = 3 * config.batch * config.recipe.steps
    costs = [len(windows(case.shape, config)) for case in cases]
    count = len(cases)
    while count > 1 and sum(spread(costs, count)) * ROUNDS[0] > SHARE * epoch * epochs:
        count -= 1
    most = epochs // ROUNDS[0]
    every = ceil(max(sum(spread(costs, count)) / (SHARE * epoch), epochs / ROUNDS[1]))
    return Rhythm(asked or max(1, min(every, most)), count)


def spread(values: Sequence[T], count: int) -> Sequence[T]:
    """Return `count` of the values, evenly spaced."""
    return [values[int((i + 0.5) * len(values) / count)] for i in range(count)]


def windows(shape: Sequence[int], config: Config) -> list[tuple[int, ...]]:
    """Return where windows start on a case of this size, all slices together."""
    if config.slice_axis is None:
        return positions(shape, config.patch, OVERLAP)
    return positions(shape, (1, *config.patch), (0.0, *[OVERLAP] * config.dim))


def validate(
    network: nn.Module,
    cases: Sequence[Readable],
    config: Config,
    labels: Labels,
    precision: Precision,
    check: Callable[[], None] = lambda: None,
    *,
    all_: Processes = ALONE,
) -> Score:
    """Segment each case with sliding windows and compare; `check` is called between cases and may raise.

    Several processes take a case each, then the next one each; all return the same score.
    """
    table = torch.full((len(cases), len(labels.names)), 0.0, dtype=torch.float64)
    known = torch.zeros_like(table)
    training = network.training
    network.eval()
    try:
        for start in range(0, len(cases), all_.count):
            check()
            for number in all_.share(range(start, min(start + all_.count, len(cases)))):
                scores = list(_score(network, cases[number], config, labels, precision).values())
                table[number] = torch.tensor([value or 0.0 for value in scores], dtype=torch.float64)
                known[number] = torch.tensor([value is not None for value in scores])
    finally:
        network.train(training)
    return _mean(all_.summed(table), all_.summed(known) > 0, labels)


def _mean(table: Float[Tensor, "n k"], known: Bool[Tensor, "n k"], labels: Labels) -> Score:
    """Return means over the cases that are known, of each structure."""
    found = [table[known[:, i], i].tolist() for i in range(len(labels.names))]
    per_label = {name: fmean(values) if values else None for name, values in zip(labels.names, found, strict=True)}
    means = [value for value in per_label.values() if value is not None]
    return Score(fmean(means) if means else None, per_label)


def _score(
    network: nn.Module, case: Readable, config: Config, labels: Labels, precision: Precision
) -> dict[str, float | None]:
    """Compare slab by slab: what is held of a case are its voxels and labels, not the logits of all of it."""
    image, truth, valid = _whole(case, labels, precision)
    found = np.zeros((len(labels.names), 4), np.int64)
    for rows, logits in windowed(_forward(network, precision), image, config):
        masks = Look(logits, truth[rows], valid[rows]).masks(labels)
        for i, (mask, group) in enumerate(zip(masks, labels.names.values(), strict=True)):
            found[i] += astuple(counts(mask, np.isin(truth[rows], group), valid[rows]))
    return {name: dice(Counts(*total)) for name, total in zip(labels.names, found.tolist(), strict=True)}


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a network says of a whole prepared case, and what is true.

    Attributes:
        logits: of all classes.
        truth: label numbers.
        valid: voxels that somebody annotated.
    """

    logits: Float[Tensor, "k *s"]
    truth: NDArray[np.integer]
    valid: NDArray[np.bool_]

    def masks(self, labels: Labels) -> list[NDArray[np.bool_]]:
        """Return one mask a structure; regions may overlap."""
        if labels.has_regions:
            return list((self.logits > 0).cpu().numpy())
        winner = self.logits.argmax(0).cpu().numpy()
        return [np.isin(winner, group) for group in labels.names.values()]


def look(network: nn.Module, case: Readable, config: Config, labels: Labels, precision: Precision) -> Look:
    """Segment a case with sliding windows; the network is in eval mode."""
    image, truth, valid = _whole(case, labels, precision)
    whole: Tensor | None = None
    for rows, logits in windowed(_forward(network, precision), image, config):
        whole = logits.new_empty(len(logits), *truth.shape) if whole is None else whole
        whole[(slice(None), *rows)] = logits
    assert whole is not None, "a case has rows"
    return Look(whole, truth, valid)


def _whole(
    case: Readable, labels: Labels, precision: Precision
) -> tuple[Float[Tensor, "c *s"], NDArray[np.integer], NDArray[np.bool_]]:
    """Return the image, its label numbers, and which voxels somebody annotated."""
    voxels, truth = stored(case, [0] * len(case.shape), case.shape)
    valid = (truth >= 0) & (truth != (-1 if labels.ignore is None else labels.ignore))
    return torch.from_numpy(np.ascontiguousarray(voxels)).to(precision.device), np.asarray(truth), valid


def _forward(network: nn.Module, precision: Precision) -> Callable[[Tensor], Tensor]:
    def forward(batch: Tensor) -> Tensor:
        with torch.no_grad(), precision.autocast():
            logits: Tensor = network(batch)
        return logits.float()

    return forward


def windowed(
    forward: Callable[[Tensor], Tensor], image: Float[Tensor, "c *s"], config: Config
) -> Iterator[tuple[tuple[int | slice, ...], Float[Tensor, "k *rows"]]]:
    """Yield which part of a prepared case, and the logits of it: rows of the case, or of each of its slices."""

    def blended(array: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for slab in blend(forward, array, config.patch, OVERLAP, batch=config.batch):
            yield slice(slab.start, slab.start + slab.scores.shape[1]), slab.scores

    if config.slice_axis is None:
        yield from (((rows,), logits) for rows, logits in blended(image))
    else:
        for i in range(image.shape[1]):
            yield from (((i, rows), logits) for rows, logits in blended(image[:, i]))
