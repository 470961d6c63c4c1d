"""Which files belong together: the channel files of an image, and a mask with its image. Names only."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Case
from mambino.core.records import record
from mambino.imageio import FORMATS, suffix

Channels = dict[int | None, Path]
"""The files of one image by channel; a single file with all channels stands at None."""

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_MASK = re.compile(r"(.+?)[_-](?:mask|seg|label|segmentation|gt)s?", re.IGNORECASE)


@record
class Problem:
    """Why a file or case is left out of a data set, or cannot be used as it is.

    Attributes:
        kind: "missing label", "missing image", "channels", "duplicate", "labels", "noisy masks", "unreadable".
        case: its name, or empty where the whole data set is meant.
        message: one sentence with the thing and both values.
        remedy: the next step.
        severity: an error keeps `open_dataset` from opening the set, a warning does not.
    """

    kind: str
    case: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


def listing(folder: Path, ending: str | None = None) -> list[Path]:
    """Return the files of `folder` that end in `ending`, or that are of a known format; hidden files aside."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    if ending:
        return [file for file in files if file.name.endswith(ending)]
    return [file for file in files if suffix(file) in FORMATS]


def stem(file: Path, ending: str | None = None) -> str:
    """Return the name without its suffix: "scan_0000" of scan_0000.nii.gz; of a DICOMDIR, that of its folder."""
    if file.is_dir() or file.name.upper() == "DICOMDIR":
        return (file if file.is_dir() else file.parent).resolve().name
    return file.name[: len(file.name) - len(ending or suffix(file))]


def grouped(files: Iterable[Path], ending: str | None = None) -> tuple[dict[str, Channels], list[Problem]]:
    """Sort image files into cases.

    Once one name ends in `_0000`, four last digits number the channels of a case; else a file is a case.
    """
    files = list(files)
    numbered = any(stem(file, ending).endswith("_0000") for file in files)
    cases: dict[str, Channels] = {}
    problems = []
    for file in files:
        name = stem(file, ending)
        match = _CHANNEL.fullmatch(name) if numbered else None
        case, channel = (match[1], int(match[2])) if match else (name, None)
        other = cases.setdefault(case, {}).setdefault(channel, file)
        if other is not file:
            problems.append(_twice("images", case, other, file))
    return cases, problems


def formed(
    cases: dict[str, Channels], channels: int, whose: str = "the data set"
) -> tuple[dict[str, Case], list[Problem]]:
    """Make a `Case` of each image that has all its channel files; tell what is wrong with the others."""
    several = any(len(files) > 1 for files in cases.values())
    whole, problems = {}, []
    for case, files in sorted(cases.items()):
        if _complete(files, channels, several=several):
            order = sorted(files, key=lambda channel: channel or 0)
            whole[case] = Case(id=case, images=tuple(files[channel] for channel in order))
            continue
        names = ", ".join(file.name for _, file in sorted(files.items(), key=lambda item: item[0] or 0)[:4])
        problems.append(
            Problem(
                kind="channels",
                case=case,
                message=f"case {case} has {len(files)} channel files ({names}), {channels} are needed, "
                f"one for each channel of {whose}",
                remedy=f"give one file a channel, numbered _0000 to _{channels - 1:04d}"
                if channels > 1
                else "give one file an image; a name that ends in _0000 says that channels are numbered",
            )
        )
    return whole, problems


def partners(
    cases: Iterable[str], masks: Sequence[Path], ending: str | None = None
) -> tuple[dict[str, Path], list[Problem]]:
    """Find the mask of each case by its name, with or without a suffix such as `_mask`."""
    known = set(cases)
    found: dict[str, Path] = {}
    problems = []
    exact_first = sorted(masks, key=lambda mask: stem(mask, ending) not in known)
    for mask in exact_first:
        name = stem(mask, ending)
        short = _MASK.fullmatch(name)
        case = name if name in known else short[1] if short else name
        if case not in known:
            problems.append(
                Problem(
                    kind="missing image",
                    case=case,
                    message=f"the mask {mask} has no image",
                    remedy="add the image under the same name, or take the mask away",
                )
            )
        elif case in found:
            problems.append(_twice("masks", case, found[case], mask))
        else:
            found[case] = mask
    return found, problems


def _complete(files: Channels, channels: int, *, several: bool) -> bool:
    if list(files) == [None]:
        return True  # one file with all channels; reading tells whether they are all there
    if list(files) == [0]:
        in_one = FORMATS.get(suffix(files[0])) == "raster" and not several
        return channels == 1 or in_one
    return set(files) == set(range(channels))


def _twice(what: str, case: str, one: Path, other: Path) -> Problem:
    both = f"{one.name} and {other.name} in {other.parent}" if one.parent == other.parent else f"{one} and {other}"
    return Problem(
        kind="duplicate",
        case=case,
        message=f"case {case} has two {what}: {both}",
        remedy="keep one of them, or give them different names",
    )
