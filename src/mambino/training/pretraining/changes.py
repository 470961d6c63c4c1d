"""How a picture is changed before it is learnt from: as Swin and VMamba were trained on ImageNet.

A random part is cut out and mirrored, two random changes are made (RandAugment, arXiv 1909.13719, "m9-mstd0.5-inc1" in
the names of timm), a part is covered with noise (arXiv 1708.04896), and two pictures are mixed (mixup, arXiv
1710.09412; CutMix, arXiv 1905.04899).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps
from torch import Tensor

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, which every published VMamba was trained with."""
FILL = tuple(round(255 * mean) for mean in MEAN)
CHANGES = 2
"""Of RandAugment on a picture, each made with a probability of a half."""


def changed(image: Pillow.Image, size: int, crop: float, magnitude: float, erase: float, random: Generator) -> Tensor:
    """Return a changed part [3 size size] of a picture, normalised."""
    image = _part(image, size, crop, random)
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    for _ in range(CHANGES if magnitude else 0):
        if random.random() < 0.5:
            strength = float(np.clip(random.normal(magnitude, 0.5), 0, 10)) / 10
            image = RANDAUGMENT[int(random.integers(len(RANDAUGMENT)))](image, strength, random)
    return _covered(as_tensor(image), erase, random)


def as_tensor(image: Pillow.Image) -> Float[Tensor, "3 h w"]:
    """Return a picture as numbers of mean 0 and deviation 1 over ImageNet."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def centred(image: Pillow.Image, size: int) -> Pillow.Image:
    """Return the middle of a picture, whose shorter side is made 8/7 of `size` first."""
    shorter = round(size * 256 / 224)
    scale = shorter / min(image.size)
    wide, high = (max(shorter, round(scale * side)) for side in image.size)
    image = image.resize((wide, high), Pillow.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))


def _part(image: Pillow.Image, size: int, crop: float, random: Generator) -> Pillow.Image:
    """Cut out a part of a random share and shape, from `crop` of the picture on, and make it square."""
    wide, high = image.size
    for _ in range(10):
        area = random.uniform(crop, 1.0) * wide * high
        ratio = exp(random.uniform(log(3 / 4), log(4 / 3)))
        w, h = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < w <= wide and 0 < h <= high:
            left, top = int(random.integers(wide - w + 1)), int(random.integers(high - h + 1))
            return image.resize((size, size), Pillow.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    side = min(wide, high)
    left, top = (wide - side) // 2, (high - side) // 2
    return image.resize((size, size), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _covered(image: Float[Tensor, "3 h w"], share: float, random: Generator) -> Float[Tensor, "3 h w"]:
    """Cover a part of a picture with noise, with probability `share`."""
    if random.random() >= share:
        return image
    high, wide = image.shape[1:]
    for _ in range(10):
        area, ratio = random.uniform(0.02, 1 / 3) * wide * high, exp(random.uniform(log(0.3), log(1 / 0.3)))
        h, w = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < h < high and 0 < w < wide:
            top, left = random.integers(high - h + 1), random.integers(wide - w + 1)
            image[:, top : top + h, left : left + w] = torch.from_numpy(random.standard_normal((3, h, w))).float()
            break
    return image


Change = Callable[[Pillow.Image, float, Generator], Pillow.Image]


def _either(value: float, random: Generator) -> float:
    return value if random.random() < 0.5 else -value


def _enhanced(how: Callable[[Pillow.Image], ImageEnhance._Enhance]) -> Change:
    return lambda image, strength, random: how(image).enhance(1 + _either(0.9 * strength, random))


def _moved(matrix: Callable[[Pillow.Image, float], tuple[float, ...]], most: float) -> Change:
    def change(image: Pillow.Image, strength: float, random: Generator) -> Pillow.Image:
        data = matrix(image, _either(most * strength, random))
        return image.transform(image.size, Pillow.Transform.AFFINE, data, Pillow.Resampling.BICUBIC, fillcolor=FILL)

    return change


def _brightened(image: Pillow.Image, strength: float, _: Generator) -> Pillow.Image:
    added = round(110 * strength)
    return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


def _turned(image: Pillow.Image, strength: float, random: Generator) -> Pillow.Image:
    return image.rotate(_either(30 * strength, random), Pillow.Resampling.BICUBIC, fillcolor=FILL)


RANDAUGMENT: tuple[Change, ...] = (
    lambda image, _, __: ImageOps.autocontrast(image),
    lambda image, _, __: ImageOps.equalize(image),
    lambda image, _, __: ImageOps.invert(image),
    _turned,
    lambda image, strength, _: ImageOps.posterize(image, max(1, 4 - int(4 * strength))),
    lambda image, strength, _: ImageOps.solarize(image, 256 - int(256 * strength)),
    _brightened,
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _moved(lambda _, x: (1, x, 0, 0, 1, 0), 0.3),
    _moved(lambda _, x: (1, 0, 0, x, 1, 0), 0.3),
    _moved(lambda image, x: (1, 0, x * image.width, 0, 1, 0), 0.45),
    _moved(lambda image, x: (1, 0, 0, 0, 1, x * image.height), 0.45),
)
"""Changes by their strength, 0 to 1; a stronger one changes more."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How the pictures of a batch are mixed with one another.

    Attributes:
        share: of the picture itself.
        cut: the other one covers a box of it; else both are added up.
        middle: of the box, as shares of the sides.
    """

    share: float = 1.0
    cut: bool = False
    middle: tuple[float, float] = (0.5, 0.5)

    def joined(self, image: Tensor, other: Tensor | None = None) -> Tensor:
        """Mix two pictures [c h w] of the same size."""
        if other is None:
            return image
        if not self.cut:
            return self.share * image + (1 - self.share) * other
        rows, columns = (self._span(i, side) for i, side in enumerate(image.shape[1:]))
        result = image.clone()
        result[:, rows, columns] = other[:, rows, columns]
        return result

    def share_of(self, size: int) -> float:
        """Return the share of the picture itself that is seen, where a box may reach over its border."""
        if not self.cut:
            return self.share
        rows, columns = (self._span(i, size) for i in range(2))
        return 1 - float((rows.stop - rows.start) * (columns.stop - columns.start)) / size**2

    def _span(self, axis: int, side: int) -> slice:
        middle, half = int(self.middle[axis] * side), int(side * sqrt(1 - self.share)) // 2
        return slice(max(0, middle - half), min(side, middle + half))


def draw_mix(mixup: float, cutmix: float, random: Generator) -> Mix:
    """Draw how a batch is mixed; of two ways each is taken half of the time."""
    cut = cutmix > 0 and (mixup <= 0 or random.random() < 0.5)
    spread = cutmix if cut else mixup
    if spread <= 0:
        return Mix()
    return Mix(float(random.beta(spread, spread)), cut, (random.random(), random.random()))
