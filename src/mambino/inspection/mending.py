"""What repairing changes in each case: decided from measurements, said in words, no file opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Dataset
from mambino.core.grid import Grid
from mambino.imageio import suffix
from mambino.inspection import geometry
from mambino.inspection.facts import CaseFacts, Code, FileFacts
from mambino.inspection.leakage import held_out, tells
from mambino.inspection.values import Meaning, Reading, reading, shown

Place = Literal["keep", "take", "resample"]

_COVERED = 0.9  # share of the image's box that a mask of another shape must cover to be resampled
_KEPT = (".nii.gz", ".nii", ".png", ".bmp", ".tif", ".tiff", ".nrrd", ".mha")  # can be written without loss
_RASTERS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, eq=False)
class MaskMend:
    """What becomes of one mask.

    Attributes:
        path: its file.
        grid: of the mask.
        image: grid of its image.
        numbers: how its values become label numbers; None where they are and stay so.
        place: what becomes of its grid: kept, replaced by the image's, or resampled to it.
    """

    path: Path
    grid: Grid
    image: Grid
    numbers: Mapping[Code, int] | None
    place: Place

    @property
    def changes(self) -> bool:
        """Whether the file cannot stay as it is."""
        return self.numbers is not None or self.place != "keep"


@dataclass(frozen=True, slots=True, eq=False)
class Mend:
    """What becomes of one case.

    Attributes:
        facts: its measurements.
        fill: whether voxels that are not finite get the smallest finite value of their channel.
        mask: what becomes of its mask, where it has one.
        said: what is changed, in words.
    """

    facts: CaseFacts
    fill: bool
    mask: MaskMend | None
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """A case that is left out of the copy, and why."""

    case: str
    why: str


def decide(dataset: Dataset, cases: Sequence[CaseFacts], meant: Meaning) -> tuple[list[Mend], list[Loss]]:
    """Decide for each case what is changed in the copy, or why it is left out."""
    tests = held_out(cases)
    dim = geometry.usual_dim(cases)
    seen: dict[tuple[bool, str], str] = {}
    mends, losses = [], []
    for case in cases:
        why = _unusable(case, dataset, dim) or _unclear(case, meant)
        if not why and case.training and case.digest in tests:
            why = f"it is the test image {tests[case.digest]}"
        if not why and tells(case):
            first = seen.setdefault((case.training, case.digest), case.case.id)
            why = "" if first == case.case.id else f"it is the same image as {first}"
        if why:
            losses.append(Loss(case.case.id, why))
        else:
            mends.append(_mend(case, meant))
    return mends, losses


def ending(cases: Sequence[CaseFacts]) -> str:
    """Choose the suffix of all files of the copy: theirs if there is one that loses nothing, else a safe one."""
    found = {suffix(facts.path) for case in cases for facts in case.files}
    if len(found) == 1 and found <= set(_KEPT):
        return found.pop()
    if not found <= set(_RASTERS):
        return ".nii.gz"
    return ".tif" if found & {".tif", ".tiff"} else ".png"


def target(folder: Path, case: CaseFacts, end: str) -> tuple[tuple[Path, ...], Path]:
    """Return where the channel files and the mask of a case go in a copy."""
    part = "Tr" if case.training else "Ts"
    together = end in _RASTERS or case.channels == 1
    count = len(case.images) if len(case.images) > 1 or together else case.channels
    images = tuple(folder / f"images{part}" / f"{case.case.id}_{i:04d}{end}" for i in range(count))
    return images, folder / f"labels{part}" / f"{case.case.id}{end}"


def _unusable(case: CaseFacts, dataset: Dataset, dim: int) -> str:
    """Say what no repair can mend in the images of a case; empty where there is nothing."""
    for facts in case.files:
        if facts.error:
            return f"{facts.path.name} cannot be read"
    if case.channels != len(dataset.channels):
        return f"it has {case.channels} channels instead of {len(dataset.channels)}"
    grids = [facts.grid for facts in case.images if facts.grid]
    if grids[0].dim != dim:
        return f"it has {grids[0].dim} axes instead of {dim}"
    if not all(geometry.same_place(grids[0], grid) for grid in grids[1:]):
        return "its channels lie on different grids"
    return ""


def _unclear(case: CaseFacts, meant: Meaning) -> str:
    """Say what nobody can tell about the mask of a case; empty where there is nothing."""
    image, mask = geometry.image_grid(case), case.mask
    if not mask or not mask.grid or not image:
        return ""
    if mask.not_finite:
        return f"{mask.not_finite} voxels of its mask are not finite"
    read = reading(mask, meant)
    if read.numbers is None:
        hint = "; declare what they mean in dataset.json" if read.kind == "undeclared label" else ""
        return f"not repairable: {read.message}{hint}"
    if _place(image, mask.grid) is None:
        if image.shape == mask.grid.shape:
            return f"not repairable: image and mask lie in different places: {geometry.difference(image, mask.grid)}"
        return (
            f"not repairable: the image has {image.shape} voxels, its mask {mask.grid.shape}, "
            "and nothing says that both cover the same place"
        )
    return ""


def _place(image: Grid, mask: Grid) -> Place | None:
    if geometry.same_place(image, mask):
        return "keep"
    if geometry.nearly_same_place(image, mask):
        return "take"
    return "resample" if geometry.covered(image, mask) >= _COVERED else None


def _mend(case: CaseFacts, meant: Meaning) -> Mend:
    broken = sum(facts.not_finite for facts in case.images)
    said = [f"{broken} voxels that were not finite have the smallest value of their channel"] if broken else []
    image, mask = geometry.image_grid(case), case.mask
    if not mask or not mask.grid or not image:
        return Mend(case, bool(broken), None, tuple(said))
    read = reading(mask, meant)
    same = all(code == (float((read.numbers or {})[code]),) for code in mask.codes)
    mend = MaskMend(
        mask.path,
        mask.grid,
        image,
        None if same and read.kind is None else read.numbers,
        _place(image, mask.grid) or "keep",
    )
    if mend.numbers:
        said.append(_translated(mask, read, mend.numbers))
    if mend.place == "take":
        said.append(f"the mask has the grid of the image now ({geometry.difference(image, mask.grid)})")
    if mend.place == "resample":
        said.append(f"the mask was resampled from {mask.grid.shape} to the {image.shape} voxels of the image")
    return Mend(case, bool(broken), mend, tuple(said))


def _translated(mask: FileFacts, read: Reading, numbers: Mapping[Code, int]) -> str:
    if read.kind == "float mask":
        return "the mask stores whole numbers as integers"
    if len(mask.codes) > 8:
        return f"the {len(mask.codes)} values of the mask became {len(set(numbers.values()))} label numbers"
    changes = [f"{shown(code)} to {numbers[code]}" for code in mask.codes if any(code) or numbers[code]]
    return f"the mask was translated: {', '.join(changes)}"
