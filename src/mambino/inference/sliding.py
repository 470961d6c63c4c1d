"""A network over a whole prepared image: windows, mirrored copies, slices of a volume."""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from math import ceil, prod

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from mambino.core.options import PredictOptions
from mambino.core.plan import Config
from mambino.errors import WeightsError
from mambino.models.precision import Forward, Name, in_precision
from mambino.ops.windows import Slab, Span, blend

_VOXELS = {"cpu": 1 << 18, "cuda": 1 << 22}  # that the network gets at once, where windows are smaller


def sliding(
    network: nn.Module,
    array: NDArray[np.float32],
    config: Config,
    options: PredictOptions,
    device: torch.device,
    within: Span | None = None,
    *,
    flips: Sequence[tuple[int, ...]] | None = None,
) -> Iterator[Slab]:
    """Yield the logits of a prepared image, slab by slab along its first axis.

    Logits are averaged over windows by Gaussian weights and, with `options.mirror`, over all mirrored
    copies along `config.mirror`. A 2D network goes over a volume slice by slice along axis 0.

    Args:
        network: in eval mode, on `device`.
        array: [c, *s] as `prepare` makes it; for 2D networks on volumes [c, slices, y, x].
        config: of the bundle.
        options: mirror, overlap and precision are used; "auto" is float32 here, since others have chosen before.
        device: where the network is.
        within: the part of all axes but the first that is wanted; all if None.
        flips: the mirrored copies that are averaged, by their axes; those of the options if None.

    Yields:
        Slabs with numpy arrays [k, rows, *rest] float32.

    Raises:
        WeightsError: the network gives values that are not finite.
    """
    precision: Name = "float32" if options.precision == "auto" else options.precision
    forward = in_precision(network, config, precision, device)
    forward = _mirrored(forward, config, copies(config, options) if flips is None else flips)
    overlap = (options.overlap,) * config.dim
    patch, batch = windows(config, array.shape[1], device)
    if config.dim == 2 and config.slice_axis is not None:
        forward, overlap = _slicewise(forward), (0.0, *overlap)
    voxels = torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
    for slab in blend(forward, voxels, patch, overlap, batch=batch, within=within):
        if not _finite(slab.scores):
            raise WeightsError(
                f"the network {config.network.name} gives values that are not finite",
                hint="choose --precision float32; if they stay, the weights are broken",
            )
        yield Slab(slab.start, slab.scores.cpu().numpy())


def _finite(scores: Tensor) -> bool:
    """Tell whether all scores are finite; their sum tells it in one pass unless it alone overflows."""
    return bool(scores.sum().isfinite()) or bool(scores.isfinite().all())


def copies(config: Config, options: PredictOptions) -> tuple[tuple[int, ...], ...]:
    """Return the axes along which each copy of the input is mirrored; first the input itself, along none."""
    most = len(config.mirror) if options.mirror else 0
    return (*chain.from_iterable(combinations(config.mirror, n) for n in range(most + 1)),)


def _mirrored(forward: Forward, config: Config, flips: Sequence[tuple[int, ...]]) -> Forward:
    """Average over mirrored copies of the input, each turned back; paired structures change places."""
    if [*flips] == [()]:
        return forward
    order = _swapped(config.network.out_channels, config.swap)

    def average(x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        parts = (one(x, axes) for axes in flips)
        return sum(parts, next(parts)) / len(flips)

    def one(x: Float[Tensor, "b c *s"], axes: tuple[int, ...]) -> Float[Tensor, "b k *s"]:
        dims = [axis + 2 for axis in axes]
        logits = forward(x.flip(dims)).flip(dims) if axes else forward(x)
        return logits[:, order] if config.swap_axis in axes else logits

    return average


def _swapped(channels: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the order of output channels in which each pair has changed places."""
    order = list(range(channels))
    for first, second in pairs:
        order[first], order[second] = second, first
    return order


def _slicewise(forward: Forward) -> Forward:
    """Make a 2D network take blocks of slices, each slice by itself."""

    def by_slices(x: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b k n y x"]:
        logits = forward(x.movedim(2, 1).flatten(0, 1))
        return logits.reshape(len(x), x.shape[2], *logits.shape[1:]).movedim(1, 2)

    return by_slices


def windows(config: Config, slices: int, device: torch.device) -> tuple[tuple[int, ...], int]:
    """Return the voxels of a window, and how many windows the network gets at once.

    Args:
        config: of the bundle; a window of a 2D network over a volume has several slices, each seen by itself.
        slices: of the volume.
        device: where the network is.
    """
    most = max(1, _VOXELS.get(device.type, _VOXELS["cpu"]) // prod(config.patch))
    if config.dim == 3 or config.slice_axis is None:
        return config.patch, most
    count = _slices(slices, most)
    return (count, *config.patch), max(1, most // count)


def _slices(count: int, most: int) -> int:
    """Return how many slices a block takes, at most `most`, so that blocks are of nearly one size."""
    return ceil(count / ceil(count / most))
