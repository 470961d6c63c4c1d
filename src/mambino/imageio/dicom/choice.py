"""Which series of a source is read."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from mambino.errors import DataError
from mambino.imageio.dicom.headers import Found, Series

_SHOWN = 8  # series in one hint


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The series to read, and a sentence that says so.

    Attributes:
        series: without its localisers where it holds other slices.
        sentence: which one, of how many, and what was left out.
    """

    series: Series
    sentence: str


def chosen(found: Found, path: Path, asked: str | None = None) -> Choice:
    """Choose a series: the one that is asked for, else the largest that is a volume.

    A volume has more than one slice, each with position, orientation and spacing, in grey, and is no localiser.
    The largest is the one with most voxels; of equal ones, the one whose UID comes first. Where no series has more
    than one slice, the largest single slice is taken. A series that is chosen so and turns out to be broken is refused:
    no other one is taken in its place.

    Raises:
        DataError: there is no such series, it is no volume, or there is none at all.
    """
    if not found.series:
        damaged = f"; {found.damaged} DICOM files cannot be read" if found.damaged else ""
        raise DataError(f"{path} holds no DICOM image{damaged}", "name the folder, zip or DICOMDIR of a series")
    if asked is not None:
        series = next((series for series in found.series if series.uid == asked), None)
        if series is None:
            raise DataError(f"{path} holds no series {asked}", _listed(found.series))
        _refuse(series, found)
    else:
        whole = [series for series in found.series if not _fault(series)]
        if not whole:
            _refuse(max(found.series, key=_size), found)
        series = max(whole, key=_size)
    kept = tuple(frame for frame in series.frames if not frame.localiser) or series.frames
    return Choice(replace(series, frames=kept), _sentence(replace(series, frames=kept), series, found))


def _size(series: Series) -> tuple[bool, int, tuple[int, ...]]:
    count = len(series.frames)
    first = tuple(-ord(letter) for letter in series.uid)
    return count > 1, sum(frame.shape[0] * frame.shape[1] for frame in series.frames), first


def _fault(series: Series) -> str:
    """Say why a series is no volume, as the end of a sentence; nothing if it is one."""
    if all(frame.localiser for frame in series.frames):
        return "is a localiser, an overview for planning"
    faults = Counter(frame.fault for frame in series.frames if frame.fault and not frame.localiser)
    return faults.most_common(1)[0][0] if faults else ""


def _refuse(series: Series, found: Found) -> None:
    fault = _fault(series)
    if fault:
        others = [other for other in found.series if other is not series]
        raise DataError(f"{series} is no volume: it {fault}", _listed(others) or "name a series of slices")


def _sentence(kept: Series, series: Series, found: Found) -> str:
    rows, columns = kept.frames[0].shape
    words = f"{kept}: {len(kept.frames)} slices of {rows}x{columns}"
    left = len(series.frames) - len(kept.frames)
    others = len(found.series) - 1
    words += f"; {left} localisers of it left out" if left else ""
    words += f"; {others} other series left out" if others else ""
    return words + (f"; {found.damaged} files cannot be read" if found.damaged else "")


def _listed(series: tuple[Series, ...] | list[Series]) -> str:
    largest = sorted(series, key=_size, reverse=True)[:_SHOWN]
    words = ", ".join(f"{s.uid} ({s.modality}, {len(s.frames)} slices)" for s in largest)
    return f"--series takes one of {words}" if words else ""
