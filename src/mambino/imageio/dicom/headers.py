"""The header pass: what each DICOM file says of its place, without its pixels.

pydicom's warnings and log lines may quote values of a patient, and so may its exceptions: none of them leaves here.
"""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.errors import DataError, need

_MARK = b"DICM"
_BARE = (b"\x08\x00", b"\x02\x00")  # first bytes of a file without its preamble: groups 0008 and 0002
_UID = re.compile(r"[0-9.]{1,64}")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_MOST_FRAMES = 100_000
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_DEFLATED = 2**31  # bytes that a deflated file may unpack to
_NO_IMAGES = {"SEG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR", "PR", "KO", "REG", "PLAN", "DOC"}
_TAGS = [
    *("ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SliceThickness", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel"),
    *("NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        file: that it lies in.
        uid: of the file.
        number: of the frame in its file, from 0.
        shape: rows and columns.
        axes: [2, 3] cosines of a row (along which columns are counted) and of a column.
        position: of the centre of the first voxel (mm, LPS).
        spacing: between rows, and between columns (mm).
        thickness: of the slice, where stated (mm).
        slope, intercept: from stored to real values.
        stored: bits of a stored value, and whether it has a sign.
        padding: lowest and highest stored value that means "no image here".
        reference: UID of the frame of reference.
        localiser: whether it is an overview for planning.
        fault: why it is no slice of a volume, as the end of a sentence; empty if it is one.
        syntax: UID of the transfer syntax.
    """

    file: Path
    uid: str
    number: int
    shape: tuple[int, int]
    axes: NDArray[np.float64]
    position: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    stored: tuple[int, bool]
    padding: tuple[float, float] | None
    reference: str
    localiser: bool
    fault: str
    syntax: str

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector that looks out of the slice, as the right hand turns from row to column."""
        return np.cross(self.axes[0], self.axes[1])


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The slices of one series, in the order of the files; copies of a file are left out.

    Attributes:
        uid: of the series.
        modality: CT, MR, ...
        frames: one a slice.
    """

    uid: str
    modality: str
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        return f"series {self.uid} ({self.modality})"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the header pass found.

    Attributes:
        series: with images, sorted by UID.
        damaged: number of files that carry DICOM's mark and cannot be read.
    """

    series: tuple[Series, ...]
    damaged: int


def header_pass(files: Sequence[Path], path: Path) -> Found:
    """Read the headers of all DICOM files among `files`; others are passed over.

    Raises:
        MissingExtraError: pydicom is not installed.
        DataError: two different images carry the same UID.
    """
    need("pydicom", extra="dicom", why=f"reading {path}")
    members: dict[tuple[str, str], dict[tuple[str, int], Frame]] = {}
    damaged = 0
    for file in files:
        if not is_marked(file):
            continue
        try:
            key, frames = _described(file)
        except Exception:  # a damaged file makes pydicom raise anything, with values of the patient in its text
            damaged += 1
            continue
        for frame in frames:
            kept = members.setdefault(key, {}).setdefault((frame.uid, frame.number), frame)
            if kept is not frame and not np.allclose(kept.position, frame.position, equal_nan=True):
                raise DataError(
                    f"series {key[0]} ({key[1]}) holds two different images of the UID {frame.uid}",
                    "export the series again, or take one of them away",
                )
    series = (Series(uid, modality, tuple(found.values())) for (uid, modality), found in sorted(members.items()))
    return Found(tuple(series), damaged)


def is_marked(file: Path) -> bool:
    """Tell whether a file begins as DICOM does, with or without its preamble; one that cannot be read does not."""
    try:
        with file.open("rb") as opened:
            start = opened.read(136)
    except OSError:
        return False
    bare = start[:2] in _BARE and start[3:4] == b"\0"
    typed, short = start[4:6].isalpha() and start[4:6].isupper(), start[5:8] == b"\0\0\0"
    return start[128:132] == _MARK or (bare and (typed or short))


def full_header(file: Path) -> Any:
    """Return all attributes of a file but its pixels, as pydicom's Dataset."""
    import pydicom

    with quietly():
        return pydicom.dcmread(file, stop_before_pixels=True, force=True)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what pydicom and highdicom would say inside the block."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in {"pydicom", "highdicom"}]
    talking = [logger for logger in map(logging.getLogger, names) if not logger.disabled]
    for logger in talking:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in talking:
            logger.disabled = False


def _described(file: Path) -> tuple[tuple[str, str], list[Frame]]:
    import pydicom

    with quietly():
        _check_deflated(file)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        modality = str(header.get("Modality"))
        modality = modality if _CODE.fullmatch(modality) else "no modality"
        if "Rows" not in header or modality in _NO_IMAGES or "DirectoryRecordSequence" in header:
            return ("", ""), []
        key = (_uid(header.SeriesInstanceUID), modality)
        count = int(header.get("NumberOfFrames") or 1)
        if count > _MOST_FRAMES:
            raise OverflowError("more frames than any volume has")
        return key, [_frame(file, header, number) for number in range(count)]


def _check_deflated(file: Path) -> None:
    """Raise where a deflated file unpacks without end; pydicom would take all of it to memory."""
    from pydicom.filereader import read_file_meta_info

    with file.open("rb") as opened:
        if opened.read(132)[128:] != _MARK:
            return
    meta = read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    size, stream = 0, zlib.decompressobj(-zlib.MAX_WBITS)
    with file.open("rb") as opened:
        opened.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        rest = opened.read()
    while rest and not stream.eof:
        size += len(stream.decompress(rest, 2**22))
        rest = stream.unconsumed_tail
        if size > _MOST_DEFLATED:
            raise OverflowError("it unpacks without end")


def _frame(file: Path, header: Any, number: int) -> Frame:
    groups = _groups(header, number)
    axes = _numbers(_look(header, groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    position = _numbers(_look(header, groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = _numbers(_look(header, groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    thickness = _look(header, groups, "PixelMeasuresSequence", "SliceThickness")
    slope = _look(header, groups, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _look(header, groups, "PixelValueTransformationSequence", "RescaleIntercept")
    kinds = [str(word).upper() for word in header.get("ImageType") or ()]
    bits = int(header.get("BitsStored") or header.BitsAllocated)
    if not (1 <= bits <= 64 and all(np.isfinite(float(n)) for n in (slope, intercept) if n is not None)):
        raise ValueError("no numbers that stored values can have")
    lacking = [name for name, value in _WANTED.items() if np.isnan({0: position, 1: axes, 2: spacing}[value]).any()]
    return Frame(
        file=file,
        uid=_uid(header.SOPInstanceUID),
        number=number,
        shape=(int(header.Rows), int(header.Columns)),
        axes=axes.reshape(2, 3),
        position=position,
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=float(thickness) if thickness else None,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        stored=(bits, bool(header.get("PixelRepresentation"))),
        padding=_padding(header),
        reference=str(header.get("FrameOfReferenceUID") or ""),
        localiser=any(word in {"LOCALIZER", "SCOUT"} for word in kinds),
        fault=_fault(header, lacking),
        syntax=_uid(header.file_meta.TransferSyntaxUID) if "TransferSyntaxUID" in header.file_meta else "",
    )


_WANTED = {"ImagePositionPatient": 0, "ImageOrientationPatient": 1, "PixelSpacing": 2}


def _fault(header: Any, lacking: list[str]) -> str:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        return f"holds colours ({header.SamplesPerPixel} samples a pixel)"
    if header.get("ModalityLUTSequence"):
        return "turns stored to real values by a table (Modality LUT)"
    if lacking:
        return f"states no {' and no '.join(lacking)}"
    return ""


def _groups(header: Any, number: int) -> tuple[Mapping[str, Any], ...]:
    """Return the functional groups of a frame, its own before those that all frames share."""
    own = header.get("PerFrameFunctionalGroupsSequence")
    shared = header.get("SharedFunctionalGroupsSequence")
    return (*([own[number]] if own else []), *([shared[0]] if shared else []))


def _look(header: Any, groups: Sequence[Any], sequence: str, name: str) -> Any:
    """Find an attribute of a frame: in its groups, else in the header itself."""
    for group in groups:
        inner = group.get(sequence)
        if inner and inner[0].get(name) is not None:
            return inner[0].get(name)
    return header.get(name)


def _numbers(values: Any, count: int) -> NDArray[np.float64]:
    """Return so many numbers, or as many NaN where they are not stated."""
    if values is None or isinstance(values, str) or len(values) != count:
        return np.full(count, np.nan)
    return np.array([float(value) for value in values])


def _uid(value: Any) -> str:
    """Return a UID that is one: it is said in messages, and nothing else may be in its place."""
    if not _UID.fullmatch(str(value)):
        raise ValueError("no UID")
    return str(value)


def _padding(header: Any) -> tuple[float, float] | None:
    first = header.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    last = header.get("PixelPaddingRangeLimit")
    bits, signed = int(header.BitsAllocated), bool(header.get("PixelRepresentation"))
    ends = sorted(_signed(value, bits, signed=signed) for value in (first, first if last is None else int(last)))
    return float(ends[0]), float(ends[1])


def _signed(value: int, bits: int, *, signed: bool) -> int:
    """Return a value as the pixels hold it, where a header wrote it with the other sign convention."""
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if not signed and value < 0 else value
