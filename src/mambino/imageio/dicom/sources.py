"""Where DICOM files lie: a folder, a zip, a DICOMDIR or one file.

A zip is unpacked into a scratch folder under numbers for names, so that no name in it chooses a place, and within
limits on the number of files, their size, and how far they unpack.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mambino.core.archives import MOST_FILES, leaves, unpacked
from mambino.errors import DataError, FileFormatError, need
from mambino.imageio.dicom.headers import is_marked, quietly

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
            yield unpacked(path, Path(scratch))
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


def _is_directory_record(path: Path) -> bool:
    return path.name.upper() == "DICOMDIR" and is_marked(path)


def _recorded(path: Path) -> tuple[Path, ...]:
    """Return the files that a DICOMDIR lists, all of them inside its own folder."""
    listed = [_inside(path, parts) for parts in _records(path)]
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
            return [record.get("ReferencedFileID") for record in pydicom.dcmread(path).DirectoryRecordSequence]
        except Exception:  # a damaged file makes pydicom raise anything
            raise FileFormatError(f"{path} is damaged: it lists no files", "name the folder instead") from None


def _inside(path: Path, parts: Any) -> Path | None:
    if not parts:
        return None
    parts = [parts] if isinstance(parts, str) else list(parts)
    if any(leaves(part) or "/" in part or "\\" in part for part in parts):
        raise FileFormatError(f"{path} lists files outside its own folder", _UNTRUSTED)
    return path.parent.joinpath(*parts)


_UNTRUSTED = "it may be meant to do harm; do not use it"
