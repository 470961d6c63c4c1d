"""Data sets: which files belong together, what they show, and how they are split into folds."""

import random
from pathlib import Path

from mambino.core.labels import Labels
from mambino.core.records import record
from mambino.errors import DataError, OptionError


@record
class Case:
    """The files of one examination.

    Attributes:
        id: name, unique in the data set.
        images: one file with all channels, or one file a channel in the order of the channels.
        label: the mask, where there is one.
        patient: cases of one patient never part between folds; the case itself if None.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str | None = None


@record
class Dataset:
    """Cases that share channels and labels.

    Attributes:
        name: of the data set, for people.
        folder: where it lies.
        channels: names, in order.
        labels: what the numbers in the masks mean.
        training: cases with masks.
        test: cases for testing, with masks where they are given.
        codes: how stored mask values translate to label numbers, where they are not the numbers
            themselves: "255" -> 1 for black and white masks, "255,0,0" -> 2 for colours.
    """

    name: str
    folder: Path
    channels: tuple[str, ...]
    labels: Labels
    training: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    codes: dict[str, int] | None = None

    def __post_init__(self) -> None:
        ids = [case.id for case in self.training] + [case.id for case in self.test]
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise DataError(f"case names must differ, but {twice[0]} appears {ids.count(twice[0])} times")

    def folds(self, count: int, seed: int) -> tuple[tuple[str, ...], ...]:
        """Split the training cases into `count` parts of nearly equal size; return the case ids of each.

        The cases of one patient stay together. Equal seeds give equal folds on every machine.
        """
        groups: dict[str, list[str]] = {}
        for case in self.training:
            groups.setdefault(case.patient or case.id, []).append(case.id)
        if count < 2 or count > len(groups):
            raise OptionError(f"{count} folds cannot be made of {len(groups)} patients", hint="choose fewer folds")
        keys = sorted(groups)
        random.Random(seed).shuffle(keys)
        parts: list[list[str]] = [[] for _ in range(count)]
        for key in sorted(keys, key=lambda k: -len(groups[k])):
            min(parts, key=len).extend(groups[key])
        return tuple(tuple(sorted(part)) for part in parts)
