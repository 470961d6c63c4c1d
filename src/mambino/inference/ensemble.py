"""Several bundles that look at an image in the same way, as one network."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mambino.core.options import PredictOptions
from mambino.errors import OptionError
from mambino.inference.sliding import copies, sliding
from mambino.ops.windows import Slab, Span
from mambino.weights.bundle import Bundle, BundleHeader, header

_VIEW = ("dim", "spacing", "orientation", "slice_axis", "axes", "crop", "normalise", "resample", "patch")


def common_header(paths: Sequence[Path]) -> BundleHeader:
    """Return what bundles say of themselves, the first one's words where they may differ.

    Networks and training may differ. How images are prepared, patch, labels and channels may not.

    Raises:
        OptionError: there is no bundle, or they differ; names the field and both values.
        WeightsError: a file is no bundle.
    """
    if not paths:
        raise OptionError("predicting needs at least one bundle, got none", hint="name a .safetensors file")
    first, *others = headers = [header(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        for field in ("labels", "channels"):
            _check_equal(field, getattr(first, field), getattr(other, field), (paths[0], path))
        for field in _VIEW:
            _check_equal(field, getattr(first.config, field), getattr(other.config, field), (paths[0], path))
    return headers[0]


def logits(
    bundles: Sequence[Bundle],
    array: NDArray[np.float32],
    options: PredictOptions,
    device: torch.device,
    within: Span | None = None,
) -> Iterator[Slab]:
    """Yield the mean logits of all bundles, slab by slab, each divided by its bundle's temperature first.

    Args:
        bundles: with equal patches, on `device`.
        array: [c, *s] as `prepare` makes it.
        options: of the windows.
        device: where the networks are.
        within: the part of all axes but the first that is wanted; all if None.
    """
    runs = [sliding(bundle.network, array, bundle.config, options, device, within) for bundle in bundles]
    return mean(runs, [bundle.temperature for bundle in bundles])


def members(
    bundles: Sequence[Bundle], array: NDArray[np.float32], options: PredictOptions, device: torch.device
) -> list[tuple[float, Iterator[Slab]]]:
    """Return the temperature and the logits of each member whose disagreement tells something.

    Several bundles are members, each as the options say; of one bundle, each mirrored copy of the image.
    """
    if len(bundles) > 1:
        return [(b.temperature, sliding(b.network, array, b.config, options, device)) for b in bundles]
    (only,) = bundles
    return [
        (only.temperature, sliding(only.network, array, only.config, options, device, flips=(axes,)))
        for axes in copies(only.config, options)
    ]


def mean(runs: Sequence[Iterable[Slab]], temperatures: Sequence[float]) -> Iterator[Slab]:
    """Yield the mean of logits, slab by slab, each divided by its temperature first."""
    if [*temperatures] == [1]:
        yield from runs[0]
        return
    for first, *others in zip(*runs, strict=True):
        total = first.scores / np.float32(temperatures[0] * len(runs))
        for slab, temperature in zip(others, temperatures[1:], strict=True):
            total += slab.scores / np.float32(temperature * len(runs))
        yield Slab(first.start, total)


def _check_equal(field: str, first: object, other: object, paths: tuple[Path, Path]) -> None:
    if first != other:
        raise OptionError(
            f"the bundles do not belong together: {field} is {first} in {paths[0]} and {other} in {paths[1]}",
            hint="average only bundles of one plan, such as its folds",
        )
