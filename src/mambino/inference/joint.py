"""What `best` chose, as predict takes it: bundles that look at images differently, averaged by their probabilities."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mambino.core.best import Best, find_best
from mambino.core.image import Image
from mambino.core.options import PredictOptions
from mambino.core.records import read
from mambino.core.scratch import Room, in_memory
from mambino.errors import OptionError, WeightsError
from mambino.imageio.inputs import Input
from mambino.inference.cleaning import cleaned
from mambino.inference.ensemble import logits
from mambino.inference.memory import allowance, parts_of
from mambino.inference.results import Result
from mambino.inference.uncertainty import doubt, maps
from mambino.ops.windows import Slab, Span
from mambino.preprocessing.case import prepare, restore_scores
from mambino.preprocessing.reduction import likeliest, mean_of
from mambino.weights.bundle import Bundle, digest

Shares = NDArray[np.float32]
Groups = tuple[tuple[Path, ...], ...]


def expanded(given: Sequence[Path], options: PredictOptions) -> tuple[Groups, PredictOptions]:
    """Return bundles in groups that look at images in one way, and options with what `best` chose.

    Args:
        given: bundles, which are one group; or a best.json, or the work folder that holds it.
        options: as the user gave them.

    Raises:
        OptionError: a best.json is given beside something else.
        WeightsError: a bundle is not the one that was chosen, or is gone.
        FileFormatError: the best.json is not valid.
    """
    found = [path for path in map(find_best, given) if path]
    if not found:
        return (tuple(given),), options
    if len(given) > 1:
        raise OptionError(
            f"{found[0]} names its bundles itself, but was given with {len(given) - 1} more", hint="give it alone"
        )
    best = read(Best, found[0], hint="make it again: mambino best WORK")
    for member in best.members:
        path = found[0].parent / member.bundle
        if not path.is_file() or digest(path) != member.sha256:
            what = "has changed since it was chosen" if path.is_file() else "is no longer there"
            raise WeightsError(f"{path}, which {found[0]} names, {what}", hint="choose again: mambino best WORK")
    return best.groups(found[0].parent), best.applied(options)


def probabilities(
    image: Image, bundles: Sequence[Bundle], options: PredictOptions, device: torch.device, room: Room | None = None
) -> Shares:
    """Return the class probabilities [k, *s] of an image, on its grid, from bundles whose logits are averaged.

    Args:
        image: with the channels of the bundles.
        bundles: that look at images in one way, on `device`.
        options: mirror, overlap, crop, precision and memory are used.
        device: where the networks are.
        room: for arrays of the size of the image.
    """
    config, labels = bundles[0].config, bundles[0].labels
    prepared = prepare(image, config, room or in_memory, options.crop)
    parts = parts_of(prepared, bundles, allowance(options.memory), options.overlap) if device.type == "cpu" else []

    def run(within: Span | None) -> Iterable[Slab]:
        return logits(bundles, prepared.array, options, device, within)

    return restore_scores(run, prepared, labels, config, parts=parts, room=room or in_memory)


def segment_jointly(
    given: Input,
    groups: Sequence[Sequence[Bundle]],
    options: PredictOptions,
    device: torch.device,
    room: Room | None,
) -> Result:
    """Segment one image by the mean of the probabilities of all groups, each of which weighs the same.

    With `options.uncertainty` the groups are the members.
    """
    first = groups[0][0]
    shares = [probabilities(given.image, bundles, options, device, room) for bundles in groups]
    mask = cleaned(likeliest(shares, given.image.grid, first.labels, room=room or in_memory), options)
    mean = mean_of(shares) if options.probabilities else None
    if not options.uncertainty:
        return Result(given, mask, mean)
    found = maps(shares, first.labels)
    unsure = doubt(found, mask, [bundle.calibration for bundles in groups for bundle in bundles])
    return Result(given, mask, mean, found, unsure)
