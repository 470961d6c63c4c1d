"""Random changes of intensity: noise, blur, brightness, contrast, resolution, gamma.

Each takes a patch [c *s] and a generator and returns a new patch; ranges are nnU-Net's.
"""

from collections.abc import Callable
from math import ceil

import torch
from jaxtyping import Float
from torch import Generator, Tensor

Patch = Float[Tensor, "c *s"]
Change = Callable[[Tensor, Generator], Tensor]

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Draw one number between `low` and `high`."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def below(probability: float, generator: Generator) -> bool:
    """Tell, with a probability, yes."""
    return uniform(generator) < probability


def noise(image: Patch, generator: Generator) -> Patch:
    """Add Gaussian noise with a deviation of up to 0.1."""
    deviation = uniform(generator, 0.0, 0.1)
    return torch.randn(image.shape, generator=generator).mul_(deviation).add_(image)


def blur(image: Patch, generator: Generator) -> Patch:
    """Blur about half of the channels with a Gaussian of 0.5 to 1 voxels."""
    return _some_channels(image, generator, lambda x: _blurred(x, uniform(generator, 0.5, 1.0)))


def brightness(image: Patch, generator: Generator) -> Patch:
    """Multiply each channel by 0.75 to 1.25."""
    return _every_channel(image, lambda x: x * uniform(generator, 0.75, 1.25))


def contrast(image: Patch, generator: Generator) -> Patch:
    """Stretch each channel about its mean by 0.75 to 1.25, within the range it had."""

    def stretched(x: Tensor) -> Tensor:
        mean, factor = x.mean(), uniform(generator, 0.75, 1.25)
        return torch.minimum(torch.maximum((x - mean) * factor + mean, x.amin()), x.amax())

    return _every_channel(image, stretched)


def low_resolution(image: Patch, generator: Generator) -> Patch:
    """Sample about half of the channels down to 0.5 to 1 of their size and back."""
    return _some_channels(image, generator, lambda x: _coarsened(x, uniform(generator, 0.5, 1.0)))


def gamma(image: Patch, generator: Generator) -> Patch:
    """Bend the intensities of each channel by an exponent of 0.7 to 1.5; mean and deviation stay."""
    return _every_channel(image, lambda x: _bent(x, _exponent(generator)))


def inverted_gamma(image: Patch, generator: Generator) -> Patch:
    """Do as `gamma`, with bright and dark exchanged while bending."""
    return -gamma(-image, generator)


FULL: tuple[tuple[float, Change], ...] = (
    (0.1, noise),
    (0.2, blur),
    (0.15, brightness),
    (0.15, contrast),
    (0.25, low_resolution),
    (0.1, inverted_gamma),
    (0.3, gamma),
)
"""nnU-Net's list with its probabilities."""

LIGHT: tuple[tuple[float, Change], ...] = ((0.1, noise), (0.15, brightness), (0.15, contrast), (0.2, gamma))
"""The cheap ones, for runs of minutes."""


def _every_channel(image: Patch, change: Callable[[Tensor], Tensor]) -> Patch:
    return torch.stack([change(channel) for channel in image])


def _some_channels(image: Patch, generator: Generator, change: Callable[[Tensor], Tensor]) -> Patch:
    return torch.stack([change(channel) if below(0.5, generator) else channel for channel in image])


def _blurred(channel: Float[Tensor, "*s"], sigma: float) -> Float[Tensor, "*s"]:
    """Convolve along one axis after the other; voxels beyond the border repeat the last one."""
    radius = ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    for axis, size in enumerate(channel.shape):
        index = torch.arange(-radius, size + radius).clamp(0, size - 1)
        wide = channel.index_select(axis, index)
        total = torch.zeros_like(channel)
        for shift, weight in enumerate((weights / weights.sum()).tolist()):
            total.add_(wide.narrow(axis, shift, size), alpha=weight)
        channel = total
    return channel


def _coarsened(channel: Float[Tensor, "*s"], factor: float) -> Float[Tensor, "*s"]:
    shape = list(channel.shape)
    small = [max(1, round(size * factor)) for size in shape]
    coarse = torch.nn.functional.interpolate(channel[None, None], small, mode="nearest-exact")
    return torch.nn.functional.interpolate(coarse, shape, mode=LINEAR[len(shape)])[0, 0]


def _exponent(generator: Generator) -> float:
    """Draw an exponent; below and above 1 are equally likely."""
    return uniform(generator, 0.7, 1.0) if below(0.5, generator) else uniform(generator, 1.0, 1.5)


def _bent(channel: Float[Tensor, "*s"], exponent: float) -> Float[Tensor, "*s"]:
    low, high = channel.aminmax()
    span = (high - low).clamp(min=1e-7)
    deviation, mean = torch.std_mean(channel, correction=0)
    bent = ((channel - low) / span).pow_(exponent)
    new_deviation, new_mean = torch.std_mean(bent, correction=0)
    return (bent - new_mean).mul_(deviation / new_deviation.clamp(min=1e-7)).add_(mean)
