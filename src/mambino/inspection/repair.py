"""A repaired copy of a data set, in the nnU-Net raw layout; the data set itself is never touched."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.dataset import Dataset
from mambino.core.grid import Grid
from mambino.core.image import Image, Segmentation
from mambino.core.labels import Labels
from mambino.core.options import Progress
from mambino.core.records import replacing, write_text
from mambino.errors import DataError, FileFormatError, MambinoWarning, OptionError
from mambino.imageio import read_image, suffix, write_labels
from mambino.imageio.folders import Problem
from mambino.imageio.images import write_image
from mambino.inspection import geometry
from mambino.inspection.facts import CaseFacts, Code, flatten_grey
from mambino.inspection.mending import MaskMend, Mend, decide, ending, target
from mambino.inspection.processes import spread
from mambino.inspection.values import meaning


def writable(copy: Path, data: Path) -> Path:
    """Refuse a folder for the copy that is in the data set, holds it, or is not empty.

    Raises:
        OptionError: names both folders, or what is in the way.
    """
    copy = Path(copy)
    to, source = copy.resolve(), data.resolve()
    if to == source or source in to.parents or to in source.parents:
        raise OptionError(
            f"the copy cannot be written to {copy}: it and the data set {data} lie in one another",
            hint="choose a folder of its own",
        )
    if copy.exists() and (not copy.is_dir() or any(copy.iterdir())):
        what = "is not empty" if copy.is_dir() else "is a file"
        raise OptionError(f"the copy cannot be written to {copy}: it {what}", hint="choose a new folder")
    return copy


def write_copy(
    dataset: Dataset,
    cases: Sequence[CaseFacts],
    problems: Sequence[Problem],
    copy: Path,
    workers: int,
    progress: Progress,
) -> tuple[str, ...]:
    """Write a repaired copy, all of it or nothing.

    Returns:
        A sentence for each case that was changed or left out, and for a new list of labels.

    Raises:
        DataError: no training case would be left.
        FileFormatError: the copy cannot be written.
    """
    mends, losses = decide(dataset, cases, meaning(dataset, cases))
    if not any(mend.facts.training for mend in mends):
        first = f"; {losses[0].case}, say: {losses[0].why}" if losses else ""
        raise DataError(
            f"none of the {len(dataset.training)} training cases of {dataset.folder} can be repaired{first}",
            hint=f"correct the data set by hand first: mambino check {dataset.folder} says where",
        )
    end = ending([mend.facts for mend in mends])
    with _whole(copy) as folder:
        work = partial(_carry_out, folder=folder, end=end, labels=dataset.labels)
        files = [facts.path for mend in mends for facts in mend.facts.files]
        for done, case in enumerate(spread(work, mends, files, workers), 1):
            progress(done, len(mends), case)
        write_text(json.dumps(_description(dataset, mends, end), indent=2) + "\n", folder / "dataset.json")
    left_out = dict.fromkeys(problem.case for problem in problems if problem.severity == "error" and problem.case)
    return (
        *_said_of_labels(dataset),
        *(f"{mend.facts.case.id}: {change}" for mend in mends for change in mend.said),
        *(f"{loss.case}: left out: {loss.why}" for loss in losses),
        *(f"{problem.case}: left out: {problem.message}" for problem in _first_of_each(problems, left_out)),
    )


@contextmanager
def _whole(copy: Path) -> Iterator[Path]:
    """Lend a folder beside `copy`, and rename it to `copy` when the block ends well; else take it away."""
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=copy.parent))
    except OSError as error:
        raise FileFormatError(
            f"{copy} cannot be written: {error.strerror}", hint="choose another output folder, or free some space"
        ) from None
    try:
        yield folder
        folder.chmod(0o755)
        if copy.exists():
            copy.rmdir()
        folder.replace(copy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _carry_out(mend: Mend, *, folder: Path, end: str, labels: Labels) -> str:
    """Write the files of one case; those that need no change are copied byte for byte."""
    case = mend.facts
    images, to_mask = target(folder, case, end)
    if mend.fill or len(images) != len(case.images):
        _write_images(case, images, fill=mend.fill)
    else:
        for facts, to in zip(case.images, images, strict=True):
            _copy(facts.path, to, end)
    if mend.mask and (mend.mask.changes or suffix(mend.mask.path) != end):
        _write_mask(mend.mask, to_mask, labels, case.images[0].path)
    elif mend.mask:
        _copy(mend.mask.path, to_mask, end)
    return case.case.id


def _read(path: Path) -> Image:
    """Read a file once more; what its reader warns of has been said when it was measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MambinoWarning)
        return read_image(path)


def _copy(source: Path, to: Path, end: str) -> None:
    if suffix(source) != end:
        write_image(to, _read(source), source)
        return
    with replacing(to) as part:
        shutil.copyfile(source, part)


def _write_images(case: CaseFacts, paths: Sequence[Path], *, fill: bool) -> None:
    """Write the channels of a case, from one file or several, to one file or several."""
    parts = [_read(facts.path) for facts in case.images]
    if len(paths) != len(parts):
        parts = [Image(channel[None], parts[0].grid) for channel in parts[0].array]
    likes = [facts.path for facts in case.images] * (len(paths) // len(case.images))
    for path, part, like in zip(paths, parts, likes, strict=True):
        write_image(path, Image(filled(part.array), part.grid) if fill else part, like)


def filled(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return [c, *s] voxels with the smallest finite value of their channel where they are not finite."""
    array = array.copy()
    for channel in array:
        finite = np.isfinite(channel)
        if not finite.all():
            channel[~finite] = channel[finite].min() if finite.any() else 0
    return array


def _write_mask(mask: MaskMend, path: Path, labels: Labels, image: Path) -> None:
    array = flatten_grey(_read(mask.path).array)
    numbers = translated(array, mask.numbers) if mask.numbers else array[0].astype(np.int64)
    if mask.place == "resample":
        numbers = moved(numbers, mask.grid, mask.image)
    kept = mask.place == "keep"
    write_labels(
        path,
        Segmentation(numbers, mask.grid if kept else mask.image, labels),
        like=mask.path if kept else image,
    )


def translated(array: NDArray[Any], numbers: Mapping[Code, int]) -> NDArray[np.int64]:
    """Return the label number of each voxel of a mask [c, *s]; every value must be a key of `numbers`."""
    table = {code: number for code, number in numbers.items() if len(code) == len(array)}
    if len(array) == 1:
        codes = sorted(table)
        places: NDArray[np.intp] = np.searchsorted([code[0] for code in codes], array[0])
        known: NDArray[np.int64] = np.array([table[code] for code in codes])
        return known[places]
    found = np.zeros(array.shape[1:], dtype=np.int64)
    for code, number in table.items():
        if number:
            colour = np.reshape(code, (-1, *[1] * (array.ndim - 1)))
            found[(array == colour).all(axis=0)] = number
    return found


def moved(numbers: NDArray[np.int64], mask: Grid, image: Grid) -> NDArray[np.int64]:
    """Return the label number nearest to each voxel of `image`; 0 outside of the mask's grid."""
    matrix = geometry.between(image, mask)
    upright = (-1, *[1] * (image.dim - 1))
    plane = np.tensordot(matrix[:-1, 1:-1], np.indices(image.shape[1:]), 1)
    limits = np.reshape(mask.shape, upright)
    found = np.zeros(image.shape, dtype=np.int64)
    for z in range(image.shape[0]):
        index = np.rint(plane + (matrix[:-1, 0] * z + matrix[:-1, -1]).reshape(upright)).astype(np.int64)
        inside = ((index >= 0) & (index < limits)).all(axis=0)
        found[z][inside] = numbers[tuple(index[:, inside])]
    return found


def _description(dataset: Dataset, mends: Sequence[Mend], end: str) -> dict[str, Any]:
    """Return the dataset.json of the copy: what the old one said, and what is new."""
    old = dataset.folder / "dataset.json"
    facts: dict[str, Any] = json.loads(old.read_text(encoding="utf-8-sig")) if old.is_file() else {}
    for key in ("dataset", "training", "test", "modality"):
        facts.pop(key, None)
    labels = dataset.labels
    named = {name: group[0] if len(group) == 1 else list(group) for name, group in labels.names.items()}
    ignored = {} if labels.ignore is None else {"ignore": labels.ignore}
    facts |= {
        "name": dataset.name,
        "channel_names": {str(i): name for i, name in enumerate(dataset.channels)},
        "labels": {"background": 0, **named, **ignored},
        "numTraining": sum(mend.facts.training for mend in mends),
        "file_ending": end,
    }
    patients = {mend.facts.case.id: mend.facts.case.patient for mend in mends if mend.facts.case.patient}
    return (
        facts
        | ({"patients": patients} if patients else {})
        | ({"regions_class_order": list(labels.paint)} if labels.paint else {})
    )


def _said_of_labels(dataset: Dataset) -> tuple[str, ...]:
    if not dataset.codes:
        return ()
    changes = ", ".join(f"{code} became {number}" for code, number in dataset.codes.items() if code != str(number))
    return (f"labels: {changes}; dataset.json says so",) if changes else ()


def _first_of_each(problems: Sequence[Problem], cases: Mapping[str, None]) -> Iterator[Problem]:
    for case in cases:
        yield next(problem for problem in problems if problem.case == case)
