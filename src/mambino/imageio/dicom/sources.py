"""Where DICOM files lie: a folder, a zip, a DICOMDIR or one file.

A zip is unpacked into a scratch folder under numbers for names, so that no name in it chooses a place, and within
limits on the number of files, their size, and how far they unpack.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mambino.errors import DataError, FileFormatError, need
from mambino.imageio.dicom.headers import is_marked, quietly

MOST_FILES = 50_000
MOST_BYTES = 16 * 2**30
MOST_RATIO = 200
"""Unpacked bytes for each packed one; measured CT and MR series unpack to 1.5 to 20 times their size."""

_FREE_RATIO = 2**24  # (bytes) unpacked, below which the ratio does no harm
_PIECE = 2**20
_ZIP = b"PK\x03\x04"


@contextmanager
def files_of(path: Path) -> Iterator[tuple[Path, ...]]:
    """Lend the files of a source, sorted; those of a zip are gone when the block ends.

    Raises:
        DataError: there are no files.
        FileFormatError: the source cannot be read, or is an archive that is refused.
    """
    if path.is_dir():
        yield _listed(path)
    elif is_archive(path):
        with tempfile.TemporaryDirectory(prefix="mambino-") as scratch:
            yield _unpacked(path, Path(scratch))
    elif _is_directory_record(path):
        yield _recorded(path)
    else:
        yield (path,)


def is_archive(path: Path) -> bool:
    """Tell whether a file is a zip, by its suffix and its first bytes."""
    if path.suffix.lower() != ".zip":
        return False
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def _listed(folder: Path) -> tuple[Path, ...]:
    found = tuple(sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")))
    if len(found) > MOST_FILES:
        raise DataError(
            f"{folder} holds {len(found)} files, at most {MOST_FILES} are looked at", "name the folder of a series"
        )
    return found


def _unpacked(path: Path, scratch: Path) -> tuple[Path, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(path, entries, shutil.disk_usage(scratch).free)
            return tuple(_extracted(archive, entry, scratch / f"{n:06d}") for n, entry in enumerate(entries))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise FileFormatError(f"{path} cannot be unpacked: {why}", "copy or export the archive again") from None


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], free: int) -> None:
    """Refuse an archive by what its table says, before a byte is unpacked."""
    whole, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > MOST_FILES:
        raise FileFormatError(f"{path} holds {len(entries)} files, at most {MOST_FILES} are unpacked", _SPLIT)
    if whole > MOST_BYTES or whole > free:
        raise FileFormatError(
            f"{path} unpacks to {whole} bytes, more than the {min(MOST_BYTES, free)} there is room for", _SPLIT
        )
    if whole > max(_FREE_RATIO, MOST_RATIO * packed):
        raise FileFormatError(
            f"{path} unpacks to {whole // max(1, packed)} times its size, at most {MOST_RATIO} times is unpacked",
            _SPLIT,
        )
    outside = sum(_leaves(entry.filename) for entry in entries)
    if outside:
        raise FileFormatError(f"{path} names {outside} files outside its own folder", _UNTRUSTED)
    links = sum((entry.external_attr >> 16) & 0o170000 == 0o120000 for entry in entries)
    if links:
        raise FileFormatError(f"{path} holds {links} links instead of files", _UNTRUSTED)
    locked = sum(entry.flag_bits & 1 for entry in entries)
    if locked:
        raise FileFormatError(f"{path} holds {locked} files that are locked with a password", "unpack it yourself")


def _leaves(name: str) -> bool:
    """Tell whether a name points out of the archive's folder, on any system."""
    windows = PureWindowsPath(name)
    return ".." in windows.parts or bool(windows.anchor) or PurePosixPath(name).is_absolute()


def _extracted(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> Path:
    left = entry.file_size
    with archive.open(entry) as packed, target.open("wb") as file:
        while piece := packed.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise zipfile.BadZipFile
            file.write(piece)
    return target


def _is_directory_record(path: Path) -> bool:
    return path.name.upper() == "DICOMDIR" and is_marked(path)


def _recorded(path: Path) -> tuple[Path, ...]:
    """Return the files that a DICOMDIR lists, all of them inside its own folder."""
    listed = [_inside(path, record) for record in _records(path)]
    files = [file for file in listed if file is not None]
    gone = sum(not file.is_file() for file in files)
    if gone:
        raise FileFormatError(
            f"{path} lists {len(files)} files, {gone} of them are not there",
            f"copy the medium again, or name the folder to read what is there: {path.parent}",
        )
    return tuple(sorted(set(files)))


def _records(path: Path) -> list[Any]:
    pydicom = need("pydicom", extra="dicom", why=f"reading {path}")
    with quietly():
        try:
            return list(pydicom.dcmread(path).DirectoryRecordSequence)
        except Exception:  # a damaged file makes pydicom raise anything
            raise FileFormatError(f"{path} is damaged: it lists no files", "name the folder instead") from None


def _inside(path: Path, record: Any) -> Path | None:
    parts = record.get("ReferencedFileID")
    if not parts:
        return None
    parts = [parts] if isinstance(parts, str) else list(parts)
    if any(_leaves(part) or "/" in part or "\\" in part for part in parts):
        raise FileFormatError(f"{path} lists files outside its own folder", _UNTRUSTED)
    return path.parent.joinpath(*parts)


_SPLIT = "unpack it yourself and name the folder of a series"
_UNTRUSTED = "it may be meant to do harm; do not use it"
