"""Folders as data sets: the nnU-Net raw layout as it is, and plain folders of images and masks."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from mambino.core.dataset import Case, Dataset
from mambino.core.grid import Grid
from mambino.core.image import Image, Segmentation
from mambino.core.scratch import Room, slabs
from mambino.errors import DataError, Error, FileFormatError
from mambino.imageio import FORMATS, FROM_DICOM, is_dicom, read_image, read_labels, suffix
from mambino.imageio.description import describe
from mambino.imageio.masks import find_labels
from mambino.imageio.pairing import Channels, Problem, formed, grouped, listing, partners

__all__ = [
    "Problem",
    "open_dataset",
    "read_case",
    "read_case_images",
    "read_case_labels",
    "refuse_empty",
    "scan_dataset",
    "stacked",
]

_IMAGES = ("imagesTr", "images")
_MASKS = ("labelsTr", "labels", "masks")
_TEST_IMAGES = ("imagesTs", "test/images", "test")
_TEST_MASKS = ("labelsTs", "test/labels", "test/masks")
_KNOWN = ", ".join(FORMATS)
_DEEP = 1000  # entries of a folder that are looked at, to say what is in it instead of images
_LAYOUT = "put the images into images/ and their masks into labels/, under the same names"


def open_dataset(path: Path) -> Dataset:
    """Open a folder as a data set: names and labels, without reading images that `dataset.json` describes.

    Raises:
        DataError: nothing to read, missing partners, labels that cannot be told.
        FileFormatError: `dataset.json` is not valid.
    """
    dataset, problems = scan_dataset(path)
    for problem in problems:
        if problem.severity == "error":
            raise DataError(problem.message, problem.remedy)
    return dataset


def scan_dataset(path: Path) -> tuple[Dataset, tuple[Problem, ...]]:
    """Open what can be opened of a folder; return the data set and what is wrong with the rest.

    Raises:
        DataError: there is no data set to speak of: no images, no masks, no labels.
        FileFormatError: `dataset.json` is not valid, or the folder does not exist.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise FileFormatError(f"{path} {what}", "name the folder of a data set")
    return _described(path) if (path / "dataset.json").is_file() else _plain(path)


def read_case(case: Case, dataset: Dataset) -> Image:
    """Read all channels of a case; see `read_case_images`."""
    return read_case_images(case, dataset.channels, f"the data set {dataset.name} has")


def read_case_images(case: Case, channels: Sequence[str], whose: str, room: Room | None = None) -> Image:
    """Read the channel files of a case as one image.

    Args:
        case: whose mask is not looked at.
        channels: names of those that there must be, in order.
        whose: these are, for the message: "the bundle takes".
        room: for the voxels, where they may not fit into memory; see `read_image`.

    Raises:
        DataError: another number of channels, or channels that lie on different grids.
        FileFormatError: a file cannot be read.
    """
    whose = f"{whose} ({', '.join(channels)})"
    if len(case.images) == 1:
        return read_image(case.images[0], channels=len(channels), whose=whose, room=room)
    if len(case.images) != len(channels):
        raise DataError(
            f"case {case.id} has {len(case.images)} channel files, {len(channels)} are needed, the number that {whose}",
            "give one file a channel, in this order",
        )
    one = f"each of {len(channels)} channel files must have"
    parts = [read_image(file, channels=1, whose=one, room=room) for file in case.images]
    return stacked(case.id, parts, [file.name for file in case.images], room)


def stacked(case: str, parts: Sequence[Image], names: Sequence[str], room: Room | None = None) -> Image:
    """Make one image of several that each hold a channel.

    Raises:
        DataError: they lie on different grids; the message gives two of their names.
    """
    for name, part in zip(names[1:], parts[1:], strict=True):
        if not parts[0].grid.close_to(part.grid):
            raise DataError(
                f"case {case}: the channels {names[0]} and {name} lie on different grids, "
                f"{_grid_words(parts[0].grid)} and {_grid_words(part.grid)}",
                "resample one to the other before they are stacked",
            )
    if room is None:
        return Image(np.concatenate([part.array for part in parts]), parts[0].grid)
    kind = np.result_type(*(part.array.dtype for part in parts))
    array = room((len(parts), *parts[0].grid.shape), kind)
    for channel, part in zip(array, parts, strict=True):
        for rows in slabs(channel.shape):
            channel[rows] = part.array[0][rows]
    return Image(array, parts[0].grid)


def read_case_labels(case: Case, dataset: Dataset) -> Segmentation:
    """Read the mask of a case as label numbers.

    Raises:
        DataError: the case has no mask, or its values are not labels of the data set.
        FileFormatError: the file cannot be read.
    """
    if case.label is None:
        raise DataError(f"case {case.id} has no mask")
    return read_labels(case.label, dataset.labels, dataset.codes)


def _described(path: Path) -> tuple[Dataset, tuple[Problem, ...]]:
    facts = describe(path / "dataset.json")
    problems = list(facts.problems)
    if facts.files is None:
        folder = _first(path, _IMAGES)
        if folder is None:
            raise DataError(f"{path} has a dataset.json, but none of the folders {', '.join(_IMAGES)}", _LAYOUT)
        training = _cases(folder, len(facts.channels), facts.ending, problems)
        training = _with_masks(training, _first(path, _MASKS), facts.ending, problems)
    else:
        training = _listed(facts.files, len(facts.channels), problems)
    test = _test(path, len(facts.channels), facts.ending, problems)
    patients = facts.patients or _patients(path / "cases.csv")
    dataset = Dataset(
        name=facts.name or path.resolve().name,
        folder=path,
        channels=facts.channels,
        labels=facts.labels,
        codes=facts.codes,
        training=_known(training, patients),
        test=_known(_apart(test, training, problems), patients),
    )
    return dataset, tuple(problems)


def _plain(path: Path) -> tuple[Dataset, tuple[Problem, ...]]:
    folder = _first(path, _IMAGES)
    if folder is None:
        raise _no_layout(path)
    problems: list[Problem] = []
    cases, twice = grouped(listing(folder) or refuse_empty(folder))
    problems += twice
    count = Counter(len(files) for files in cases.values()).most_common(1)[0][0]
    channels = _channel_names(cases.values(), count)
    training, wrong = formed(cases, len(channels))
    problems += wrong
    masks = _first(path, _MASKS)
    if masks is None:
        raise DataError(
            f"{path} has {len(cases)} images and no masks: none of the folders {', '.join(_MASKS)} is there",
            "put one mask an image into labels/; to segment images without masks, use predict",
        )
    training = _with_masks(training, masks, None, problems)
    test = _test(path, len(channels), None, problems)
    labelled = [case.label for case in (*training.values(), *test.values()) if case.label]
    if not labelled:
        image, mask = (
            listing(folder)[0].name,
            next((f"masks such as {file.name}" for file in listing(masks)), "no masks"),
        )
        raise DataError(
            f"no image in {folder} has a mask of the same name in {masks}: "
            f"there are images such as {image}, and {mask}",
            "name masks as their images; only the ending may differ, and _0000 for a channel is left out",
        )
    labels, codes, found = find_labels(labelled)
    problems += found
    patients = _patients(path / "cases.csv")
    dataset = Dataset(
        name=path.resolve().name,
        folder=path,
        channels=channels,
        labels=labels,
        codes=codes,
        training=_known(training, patients),
        test=_known(_apart(test, training, problems), patients),
    )
    return dataset, tuple(problems)


def _cases(folder: Path, channels: int, ending: str | None, problems: list[Problem]) -> dict[str, Case]:
    files = listing(folder, ending)
    if not files and ending and listing(folder):
        endings = ", ".join(sorted({suffix(file) for file in listing(folder)}))
        raise DataError(
            f"{folder} holds no file that ends in {ending}, only {endings}", "correct file_ending in dataset.json"
        )
    cases, twice = grouped(files or refuse_empty(folder), ending)
    whole, wrong = formed(cases, channels)
    problems += [*twice, *wrong]
    return whole


def _with_masks(
    cases: dict[str, Case],
    folder: Path | None,
    ending: str | None,
    problems: list[Problem],
    *,
    test: bool = False,
) -> dict[str, Case]:
    """Give each case its mask; training cases without one are left out, test cases are kept."""
    if folder is None:
        raise DataError(f"the images have no masks: none of the folders {', '.join(_MASKS)} is there", _LAYOUT)
    found, wrong = partners(cases, listing(folder, ending), ending)
    broken = {problem.case for problem in problems if problem.kind == "channels"}
    problems += [problem for problem in wrong if problem.case not in broken]
    for case in cases:
        if case not in found:
            problems.append(
                Problem(
                    kind="missing label",
                    case=case,
                    message=f"case {case} has an image and no mask in {folder}",
                    remedy="it will not be scored"
                    if test
                    else "add the mask under the same name, or take the image away",
                    severity="warning" if test else "error",
                )
            )
    labelled = {case: replace(files, label=found.get(case)) for case, files in cases.items()}
    return labelled if test else {case: files for case, files in labelled.items() if files.label}


def _listed(
    files: dict[str, tuple[tuple[Path, ...], Path | None]], channels: int, problems: list[Problem]
) -> dict[str, Case]:
    cases = {}
    for case, (images, label) in sorted(files.items()):
        gone = [file for file in (*images, *([label] if label else [])) if not file.is_file()]
        fault = ""
        if gone:
            kind, fault = "missing label" if gone == [label] else "missing image", f"{gone[0]} does not exist"
        elif label is None:
            kind, fault = "missing label", "no mask is listed"
        elif len(images) not in {1, channels}:
            kind, fault = "channels", f"{len(images)} channel files are listed, {channels} are needed"
        if fault:
            message = f"case {case}: {fault}"
            problems.append(
                Problem(kind=kind, case=case, message=message, remedy="correct dataset.json, or add the file")
            )
        else:
            cases[case] = Case(id=case, images=images, label=label)
    return cases


def _test(path: Path, channels: int, ending: str | None, problems: list[Problem]) -> dict[str, Case]:
    folder = next((path / name for name in _TEST_IMAGES if _holds_images(path / name, ending)), None)
    if folder is None:
        return {}
    cases = _cases(folder, channels, ending, problems)
    masks = _first(path, _TEST_MASKS)
    return _with_masks(cases, masks, ending, problems, test=True) if masks else cases


def _apart(test: dict[str, Case], training: dict[str, Case], problems: list[Problem]) -> dict[str, Case]:
    """Leave out test cases whose names are taken."""
    problems += [
        Problem(
            kind="duplicate",
            case=case,
            message=f"case {case} is among the training images and among the test images",
            remedy="give the test image another name, or take it away if it is the same image",
        )
        for case in sorted(set(training) & set(test))
    ]
    return {case: files for case, files in test.items() if case not in training}


def _known(cases: dict[str, Case], patients: dict[str, str]) -> tuple[Case, ...]:
    return tuple(replace(files, patient=patients.get(case)) for case, files in sorted(cases.items()))


def _patients(file: Path) -> dict[str, str]:
    """Read which patient a case is from, where a table beside the images says so."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        columns = table.fieldnames or []
        patient = next((name for name in ("patient", "patient_id") if name in columns), None)
        case = next((name for name in ("case", "case_id", "id") if name in columns), columns[0] if columns else None)
        if patient is None or case is None or case == patient:
            return {}
        return {row[case]: row[patient] for row in table if row[case] and row[patient]}


def _channel_names(cases: Iterable[Channels], count: int) -> tuple[str, ...]:
    """Name the channels of a folder that does not: by number of files, else by what the first image holds."""
    if count > 1:
        return tuple(f"channel_{n}" for n in range(count))
    *files, last = [next(iter(files.values())) for files in cases]
    for file in files:
        try:
            return _names_of(file)
        except Error:
            continue  # told by whoever reads the case
    return _names_of(last)


def _names_of(file: Path) -> tuple[str, ...]:
    found = read_image(file).channels
    if found == 3 and FORMATS.get(suffix(file)) == "raster":
        return ("R", "G", "B")
    return ("image",) if found == 1 else tuple(f"channel_{n}" for n in range(found))


def _first(path: Path, names: Iterable[str]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _holds_images(folder: Path, ending: str | None) -> bool:
    return folder.is_dir() and bool(listing(folder, ending))


def _no_layout(path: Path) -> Error:
    found = listing(path) or refuse_empty(path)
    return DataError(f"{path} holds {len(found)} images such as {found[0].name}, but no folder images/", _LAYOUT)


def refuse_empty(folder: Path, hint: str = "") -> list[Path]:
    """Say why nothing in `folder` can be read.

    Args:
        folder: without files of a known format.
        hint: the next step, where the folder is not meant to be a data set.

    Raises:
        DataError, FileFormatError: always; a list is what callers would have got.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    if any(file.is_file() and is_dicom(file) and suffix(file) != ".zip" for file in files[:20]):
        raise FileFormatError(f"{folder} is DICOM, which data sets are not read from", FROM_DICOM)
    if not files:
        raise DataError(f"{folder} is empty", hint or _LAYOUT)
    kinds = Counter("folders" if file.is_dir() else suffix(file) or "files without a suffix" for file in files)
    what = f"{folder} holds no images, only " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4))
    below = [file for file in islice(folder.rglob("*"), _DEEP) if file.is_file() and not file.name.startswith(".")]
    images = [file for file in below if suffix(file) in FORMATS]
    dicom = [file for file in below if is_dicom(file)]
    if len(dicom) > len(images):
        what += f", and further in DICOM files such as {min(dicom).relative_to(folder)}"
        raise FileFormatError(f"{what}, which data sets are not read from", FROM_DICOM)
    if images:
        what += f", and further in images such as {min(images).relative_to(folder)}"
        raise DataError(what, f"name the folder that holds them: {min(images).parent}" if hint else _LAYOUT)
    raise DataError(what, hint or f"{_LAYOUT}; these are read: {_KNOWN}")


def _grid_words(grid: Grid) -> str:
    spacing = " x ".join(f"{n:.3g}" for n in grid.spacing)
    origin = ", ".join(f"{n:.2f}" for n in grid.affine[:-1, -1])
    return f"{grid.shape} voxels of {spacing} {grid.unit} at ({origin})"
