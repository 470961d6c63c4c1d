"""Pictures in folders by class, as ImageNet is laid out, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor

from mambino.errors import DataError
from mambino.training.pretraining.changes import Mix, as_tensor, centred, changed, draw_mix
from mambino.training.processes import Processes
from mambino.training.sampling import mixed
from mambino.training.waiting import reading

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class Picture(NamedTuple):
    """A file and the number of its class."""

    path: Path
    kind: int


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is learnt from and what is tested on.

    Attributes:
        classes: names of the folders, sorted; their place is the number of the class.
        training, held_out: pictures.
    """

    classes: tuple[str, ...]
    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are changed before they are learnt from; the published values are those of `PretrainOptions`.

    Attributes:
        size: side of what the network sees (pixels).
        crop: least share of a picture that is cut out.
        magnitude: of RandAugment, 0 to 10.
        erase: share of pictures of which a part is covered with noise.
        mixup, cutmix: parameters of the beta distributions; 0 does without.
        smoothing: of the targets.
    """

    size: int
    crop: float
    magnitude: float
    erase: float
    mixup: float
    cutmix: float
    smoothing: float


class Batch(NamedTuple):
    """What one process learns from in one step."""

    images: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b k"]


def find_pictures(folder: Path, held_out: float, seed: int) -> Pictures:
    """List the pictures of a folder: `train` and `val` (or `test`) with a folder a class, or those folders themselves.

    Args:
        folder: of pictures.
        held_out: share of each class that is held out where the folder has no part to test on.
        seed: of that choice.

    Raises:
        DataError: there is no class, or one only; a class is empty; the parts have other classes.
    """
    train = folder / "train" if (folder / "train").is_dir() else folder
    found = _by_class(train)
    if len(found) < 2:
        names = ", ".join(found) or "none"
        raise DataError(
            f"{train} needs a folder for each of at least two classes, with pictures in it, and has {names}",
            hint=f"lay them out as FOLDER/train/CLASS/*.png; pictures end in {', '.join(ENDINGS)}",
        )
    classes = tuple(found)
    test = next((folder / name for name in ("val", "test") if train != folder and (folder / name).is_dir()), None)
    if test is not None:
        others = _by_class(test)
        if tuple(others) != classes:
            odd = sorted(set(others) ^ set(classes))
            raise DataError(
                f"{test} and {train} must have the same classes; in one of them alone: {', '.join(odd[:5])}"
            )
        return Pictures(classes, _numbered(found), _numbered(others))
    parts: tuple[dict[str, list[Path]], dict[str, list[Path]]] = ({}, {})
    for number, (name, paths) in enumerate(found.items()):
        order = np.random.default_rng(mixed(seed, number)).permutation(len(paths))
        count = max(1, round(held_out * len(paths))) if len(paths) > 1 else 0
        parts[0][name] = [paths[i] for i in sorted(order[count:])]
        parts[1][name] = [paths[i] for i in sorted(order[:count])]
    return Pictures(classes, _numbered(parts[0]), _numbered(parts[1]))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", hint="name a folder with a folder of pictures for each class")
    names = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS) for path in names}
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(f"{folder / empty[0]} holds no picture", hint=f"pictures end in {', '.join(ENDINGS)}")
    return found


def _numbered(found: dict[str, list[Path]]) -> tuple[Picture, ...]:
    return tuple(Picture(path, number) for number, paths in enumerate(found.values()) for path in paths)


def read_picture(picture: Picture) -> Pillow.Image:
    """Read a picture as RGB: grey is repeated, transparency dropped.

    Raises:
        DataError: it cannot be read, or has more than 8 bits a channel.
    """
    try:
        with reading(f"picture {picture.path}"), Pillow.open(picture.path) as image:
            if image.mode not in _MODES:
                raise DataError(
                    f"{picture.path} has pixels of kind {image.mode}, and pictures need 8 bits a channel",
                    hint="convert it to 8 bits, or remove it",
                )
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{picture.path} cannot be read: {error}", hint="replace or remove it") from None


@dataclass(frozen=True, slots=True)
class Batches:
    """A source of batches: the same number gives the same batch, whatever the number of processes.

    Attributes:
        pictures: to learn from, each once an epoch but for those that fill no batch.
        classes: how many.
        size: pictures of a batch, of all processes together.
        look: how they are changed.
        seed: of everything random.
        processes: each makes its own part.
    """

    pictures: Sequence[Picture]
    classes: int
    size: int
    look: Look
    seed: int
    processes: Processes

    @property
    def epoch(self) -> int:
        """Batches of an epoch."""
        return max(1, len(self.pictures) // self.size)

    def __call__(self, number: int) -> Batch:
        """Return this process's part of a batch."""
        epoch, part = divmod(number, self.epoch)
        order = np.random.default_rng(mixed(self.seed, 2 * epoch)).permutation(len(self.pictures))
        chosen = [self.pictures[i] for i in order[part * self.size : (part + 1) * self.size]]
        mix = draw_mix(self.look.mixup, self.look.cutmix, np.random.default_rng(mixed(self.seed, 2 * number + 1)))
        mine = range(self.processes.rank, len(chosen), self.processes.count)
        pairs = [self._pair(number, chosen, place, mix) for place in mine]
        return Batch(torch.stack([image for image, _ in pairs]), torch.stack([target for _, target in pairs]))

    def _pair(self, number: int, chosen: list[Picture], place: int, mix: Mix) -> tuple[Tensor, Tensor]:
        """Return a picture mixed with the one that stands as far from the batch's other end."""
        other = len(chosen) - 1 - place
        images = [self._changed(number, chosen, i) for i in ((place, other) if mix.share < 1 else (place,))]
        targets = [self._target(chosen[i]) for i in (place, other)]
        share = mix.share_of(self.look.size)
        return mix.joined(*images), share * targets[0] + (1 - share) * targets[1]

    def _changed(self, number: int, chosen: list[Picture], place: int) -> Tensor:
        random = np.random.default_rng(mixed(mixed(self.seed, number), place))
        look = self.look
        return changed(read_picture(chosen[place]), look.size, look.crop, look.magnitude, look.erase, random)

    def _target(self, picture: Picture) -> Tensor:
        target = torch.full((self.classes,), self.look.smoothing / self.classes)
        target[picture.kind] += 1 - self.look.smoothing
        return target


def tested(pictures: Sequence[Picture], size: int) -> tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"]]:
    """Return pictures as they are tested: their middle, unchanged."""
    images = torch.stack([as_tensor(centred(read_picture(picture), size)) for picture in pictures])
    return images, torch.tensor([picture.kind for picture in pictures])
