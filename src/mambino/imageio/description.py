"""`dataset.json` of the nnU-Net v2 raw layout: channels, labels, regions, the ignore label, listed files.

Keys that only other programs need are passed over. The older form, with `modality` and labels written
number first, is understood too.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mambino.core.labels import Labels
from mambino.core.records import from_json, record
from mambino.errors import DataError, FileFormatError
from mambino.imageio.pairing import Problem


@record
class Description:
    """What a `dataset.json` says.

    Attributes:
        name: of the data set, if stated.
        channels: their names, in order.
        labels: structures, regions and the ignore label.
        codes: stored number to label number, where the stored ones have gaps.
        ending: of image and mask files, ".nii.gz" say; None where not stated.
        files: images and mask of each training case, where they are listed.
        patients: patient of each case, where stated.
        problems: what is wrong with it and does not keep it from being read.
    """

    name: str | None
    channels: tuple[str, ...]
    labels: Labels
    codes: dict[str, int] | None
    ending: str | None
    files: dict[str, tuple[tuple[Path, ...], Path | None]] | None
    patients: dict[str, str]
    problems: tuple[Problem, ...] = ()


def describe(file: Path) -> Description:
    """Read `dataset.json`.

    Raises:
        FileFormatError: it cannot be read or is not JSON.
        DataError: a key that is needed is missing or wrong.
    """
    try:
        facts = from_json(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileFormatError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FileFormatError(f"{file} is not JSON: {error}", "mend it with a text editor") from None
    if not isinstance(facts, dict):
        raise FileFormatError(f"{file} is not a description of a data set: it holds a {type(facts).__name__}")
    return described(facts, file)


def described(facts: dict[str, Any], file: Path) -> Description:
    """Make sense of what a `dataset.json` holds; `file` is named in errors, and listed files lie beside it.

    Raises:
        DataError: a key that is needed is missing or wrong.
    """
    labels, codes, problems = _labels(facts, file)
    return Description(
        name=_text(facts, "name", file),
        channels=_channels(facts, file),
        labels=labels,
        codes=codes,
        ending=_text(facts, "file_ending", file),
        files=_files(facts, file),
        patients={str(case): str(patient) for case, patient in _mapping(facts, "patients", file).items()},
        problems=problems,
    )


def _text(facts: dict[str, Any], key: str, file: Path) -> str | None:
    value = facts.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{file}: {key} must be text, got {value!r}")
    return value


def _mapping(facts: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    value = facts.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"{file}: {key} must be a mapping, got {value!r}")
    return value


def _channels(facts: dict[str, Any], file: Path) -> tuple[str, ...]:
    named = _mapping(facts, "channel_names" if "channel_names" in facts else "modality", file)
    if not named:
        raise DataError(f"{file} names no channels", 'add "channel_names": {"0": "CT"}')
    if sorted(named, key=lambda n: (len(n), n)) != [str(n) for n in range(len(named))]:
        raise DataError(f"{file}: channel_names must be numbered from 0, got {', '.join(named)}")
    return tuple(str(named[str(n)]) for n in range(len(named)))


def _labels(facts: dict[str, Any], file: Path) -> tuple[Labels, dict[str, int] | None, tuple[Problem, ...]]:
    stored = _stored(_mapping(facts, "labels", file), file)
    ignored = stored.pop("ignore", None)
    names = {name: numbers for name, numbers in stored.items() if set(numbers) != {0}}
    if any(0 in numbers for numbers in names.values()):
        raise DataError(f"{file}: a region cannot hold 0, which is background")
    if all(len(numbers) == 1 for numbers in names.values()):
        names = dict(sorted(names.items(), key=lambda item: item[1]))
    order = _order(facts, names, file)
    if ignored and len(ignored) > 1:
        raise DataError(f"{file}: the ignore label must be one number, got {list(ignored)}")
    codes, problems = _without_gaps(names, ignored, file)

    def renumbered(numbers: Iterable[int]) -> tuple[int, ...]:
        return tuple(codes[str(n)] if codes else n for n in numbers)

    try:
        labels = Labels(
            names={name: renumbered(numbers) for name, numbers in names.items()},
            ignore=renumbered(ignored)[0] if ignored else None,
            paint=renumbered(order) if order is not None else None,
        )
    except DataError as error:
        raise DataError(f"{file}: {error}", error.hint) from None
    return labels, codes, problems


def _order(facts: dict[str, Any], names: dict[str, tuple[int, ...]], file: Path) -> list[int] | None:
    """Return the number to paint for each region."""
    order = facts.get("regions_class_order")
    if order is None:
        return None
    if not isinstance(order, list) or not all(map(_is_number, order)):
        raise DataError(f"{file}: regions_class_order must be a list of numbers, got {order!r}")
    known = {n for numbers in names.values() for n in numbers}
    if not set(order) <= known:
        raise DataError(
            f"{file}: regions_class_order {order} holds numbers that no label has; known are {sorted(known)}"
        )
    return order


def _stored(labels: dict[str, Any], file: Path) -> dict[str, tuple[int, ...]]:
    """Return the numbers of each name, as they are in the masks."""
    if not labels:
        raise DataError(f"{file} names no labels", 'add "labels": {"background": 0, "tumour": 1}')
    if all(key.isdecimal() and isinstance(name, str) for key, name in labels.items()):
        labels = {name: int(key) for key, name in labels.items()}
    found = {}
    for name, value in labels.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(_is_number(n) for n in numbers):
            raise DataError(
                f"{file}: label {name} must be a number or a list of numbers, got {value!r}",
                'write the name first: "labels": {"background": 0, "tumour": 1}',
            )
        found[name] = tuple(sorted(set(numbers)))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _without_gaps(
    names: dict[str, tuple[int, ...]], ignored: tuple[int, ...] | None, file: Path
) -> tuple[dict[str, int] | None, tuple[Problem, ...]]:
    """Number the labels anew where numbers are left out, and say so."""
    numbers = sorted({n for group in names.values() for n in group} | set(ignored or ()))
    if not numbers or numbers[0] < 1 or numbers == list(range(1, len(numbers) + 1)):
        return None, ()
    problem = Problem(
        kind="labels",
        case="",
        message=f"{file}: label numbers must follow one another without gaps, got {numbers}",
        remedy="renumber them: mambino check DATA --repair -o COPY",
    )
    return {str(n): i for i, n in enumerate(numbers, 1)}, (problem,)


def _files(facts: dict[str, Any], file: Path) -> dict[str, tuple[tuple[Path, ...], Path | None]] | None:
    if "dataset" not in facts:
        return None
    found = {}
    for case, entry in _mapping(facts, "dataset", file).items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not images or not all(isinstance(name, str) for name in images):
            raise DataError(f'{file}: dataset.{case} needs "images": a list of paths, got {entry!r}')
        if label is not None and not isinstance(label, str):
            raise DataError(f"{file}: dataset.{case}.label must be a path, got {label!r}")
        found[case] = (
            tuple(_place(file.parent, name) for name in images),
            None if label is None else _place(file.parent, label),
        )
    return found


def _place(folder: Path, name: str) -> Path:
    return folder / Path(name)
