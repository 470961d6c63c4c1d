"""Zip archives, unpacked only within limits and only inside a folder of ours; and names that files give other files.

Members get numbers for names, so that no name in an archive chooses a place.
"""

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from mambino.errors import FileFormatError

MOST_FILES = 50_000
MOST_BYTES = 16 * 2**30
MOST_RATIO = 200
"""Unpacked bytes for each packed one; measured CT and MR series unpack to 1.5 to 20 times their size."""

_FREE_RATIO = 2**24  # (bytes) unpacked, below which the ratio does no harm
_PIECE = 2**20
_LINK = 0o120000
_SPLIT = "unpack it yourself and name the folder of a series"
_UNTRUSTED = "it may be meant to do harm; do not use it"
_BROKEN = (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, zlib.error, RuntimeError)


def unpacked(path: Path, scratch: Path) -> tuple[Path, ...]:
    """Unpack the files of a zip into `scratch`, under numbers for names.

    Raises:
        FileFormatError: it is refused, as by `check_archive`, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(path, entries, shutil.disk_usage(scratch).free, _SPLIT)
            return tuple(_extracted(archive, entry, scratch / f"{n:06d}") for n, entry in enumerate(entries))
    except _BROKEN as error:
        raise _damaged(path, error) from None


def check_archive(path: Path, room: int, hint: str = _SPLIT) -> None:
    """Refuse a zip by what its table says, before a byte is unpacked.

    Args:
        path: of the archive.
        room: for what it holds (bytes).
        hint: the next step where it holds too much.

    Raises:
        FileFormatError: too many files, too many bytes, packed too tightly, names that lead out of a folder, links,
            passwords; or it is no zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist(), room, hint)
    except _BROKEN as error:
        raise _damaged(path, error) from None


def leaves(name: str) -> bool:
    """Tell whether a name points out of the folder it is looked up in, on any system."""
    windows = PureWindowsPath(name)
    return ".." in windows.parts or bool(windows.anchor) or PurePosixPath(name).is_absolute()


def _damaged(path: Path, error: Exception) -> FileFormatError:
    if isinstance(error, FileFormatError):  # a ValueError too
        return error
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return FileFormatError(f"{path} cannot be unpacked: {why}", "copy or export the archive again")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], room: int, hint: str) -> None:
    whole, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > MOST_FILES:
        raise FileFormatError(f"{path} holds {len(entries)} files, at most {MOST_FILES} are unpacked", hint)
    if whole > MOST_BYTES or whole > room:
        raise FileFormatError(
            f"{path} unpacks to {whole} bytes, more than the {min(MOST_BYTES, room)} there is room for", hint
        )
    if whole > max(_FREE_RATIO, MOST_RATIO * packed):
        raise FileFormatError(
            f"{path} unpacks to {whole // max(1, packed)} times its size, at most {MOST_RATIO} times is unpacked", hint
        )
    outside = sum(leaves(entry.filename) for entry in entries)
    if outside:
        raise FileFormatError(f"{path} names {outside} files outside its own folder", _UNTRUSTED)
    links = sum((entry.external_attr >> 16) & 0o170000 == _LINK for entry in entries)
    if links:
        raise FileFormatError(f"{path} holds {links} links instead of files", _UNTRUSTED)
    locked = sum(entry.flag_bits & 1 for entry in entries)
    if locked:
        raise FileFormatError(f"{path} holds {locked} files that are locked with a password", "unpack it yourself")


def _extracted(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> Path:
    left = entry.file_size
    with archive.open(entry) as packed, target.open("wb") as file:
        while piece := packed.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise zipfile.BadZipFile
            file.write(piece)
    return target
