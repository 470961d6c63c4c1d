"""Headers of NRRD and MetaImage, which are text, checked before ITK believes them.

ITK's reader of MetaImage writes beyond its arrays where a header counts more axes than there can be, and its reader of
NRRD keeps files open that turn out to be too short. So both see only headers whose numbers fit one another.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from mambino.core.archives import leaves
from mambino.errors import FileFormatError

_LONGEST = 2**22  # bytes of a header
_WIDEST = 2000  # characters of a line of MetaImage, which MetaIO copies to buffers of 4096
_MOST_AXES = 5
_AGAIN = "copy or export the file again"
_META = re.compile(r"([^=:\s]+)[ \t]*=[ \t]*(.*)")
_NRRD = re.compile(r"([^:]+):=?[ \t]*(.*)")
_VECTORS = {
    **dict.fromkeys(
        ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), 1
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
"""Entries of MetaImage with a number for each axis, or for each pair of axes."""

_NRRD_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float"), 4),
    **dict.fromkeys(("long long", "longlong", "int64", "ulonglong", "uint64", "double"), 8),
}

_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    "MET_DOUBLE": 8,
}


def check_header(path: Path) -> None:
    """Refuse a file whose header contradicts itself, or names files outside its folder; others pass as they are.

    Raises:
        FileFormatError: says what is wrong with it.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST)
    if start.startswith(b"NRRD0"):
        _check_nrrd(start, path)
    elif path.suffix.lower() in {".mha", ".mhd"}:
        _check_meta(start, path)


def _check_meta(start: bytes, path: Path) -> None:
    last = re.search(rb"^ElementDataFile[ \t]*=.*$", start, re.MULTILINE)
    if last is None:
        raise FileFormatError(f"{path} has a header that is not valid: it names no ElementDataFile", _AGAIN)
    entries = {"ElementNumberOfChannels": "1"} | _meta_entries(start[: last.end()], path)
    axes = _whole(entries, "NDims", path, most=_MOST_AXES)
    _whole(entries, "ElementNumberOfChannels", path, most=2**16)
    for name, power in _VECTORS.items():
        if name in entries and len(_numbers(entries[name], name, path)) != axes**power:
            raise _invalid(path, f"{name} has {len(entries[name].split())} numbers for {axes} axes")
    if "DimSize" not in entries or min(_numbers(entries["DimSize"], "DimSize", path)) < 1:
        raise _invalid(path, f"DimSize is {entries.get('DimSize', 'missing')}")
    named = entries["ElementDataFile"]
    if named.upper() == "LOCAL":
        _check_meta_size(entries, path, path, last.end() + 1)
    elif named.upper().startswith("LIST"):
        _check_names([name.strip() for name in start[last.end() :].decode("latin1").split("\n")], path)
    else:
        _check_names([named], path)
        _check_meta_size(entries, path, path.parent / named, 0)


def _meta_entries(text: bytes, path: Path) -> dict[str, str]:
    entries: dict[str, str] = {}
    for line in _lines(text):
        found = _META.fullmatch(line)
        if found is None or found[1] in entries or len(line) > _WIDEST:
            raise _invalid(path, f"it has the line {line[:60]!r}")
        entries[found[1]] = found[2].strip()
    return entries


def _check_meta_size(entries: Mapping[str, str], path: Path, data: Path, begin: int) -> None:
    """Refuse voxels of which the file `data` holds fewer bytes, from `begin` on; one of a pattern is no file."""
    if not data.is_file():
        return
    there = data.stat().st_size - begin
    if "CompressedDataSize" in entries:
        _whole(entries, "CompressedDataSize", path, most=there)
    voxels = math.prod(_numbers(entries["DimSize"], "DimSize", path)) * int(entries["ElementNumberOfChannels"])
    expected = voxels * _META_BYTES.get(entries.get("ElementType", ""), 0)
    plain = entries.get("CompressedData", "False") == "False" and entries.get("BinaryData") == "True"
    if plain and there < expected:
        raise _truncated(data, expected, there)


def _check_nrrd(start: bytes, path: Path) -> None:
    text = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0].rstrip()
    entries: dict[str, str] = {}
    rest: list[str] = []
    lines = _lines(text)
    for number, line in enumerate(lines[1:], 2):
        found = _NRRD.fullmatch(line)
        if line.startswith("#"):
            continue
        if found is None:
            raise _invalid(path, f"it has the line {line[:60]!r}")
        name = found[1].strip().lower().replace("datafile", "data file")
        entries[name] = found[2].strip()
        if name == "data file" and entries[name].upper().startswith("LIST"):
            rest = lines[number:]
            break
    axes = _whole(entries, "dimension", path, most=_MOST_AXES)
    sizes = _numbers(entries.get("sizes", ""), "sizes", path)
    if len(sizes) != axes or min(sizes) < 1:
        raise _invalid(path, f"its sizes are {entries.get('sizes', 'missing')} for {axes} axes")
    if "data file" in entries:
        names = rest or [entries["data file"]]
        _check_names(names, path)
        if len(names) == 1:
            _check_size(path, names[0], entries, math.prod(sizes))


def _check_size(path: Path, name: str, entries: Mapping[str, str], voxels: float) -> None:
    """Refuse voxels in a plain file of their own that has fewer bytes."""
    kind = re.sub(r"^(signed|unsigned) |_t$| int$", "", entries.get("type", "").lower())
    expected, data = voxels * _NRRD_BYTES.get(kind, 1), path.parent / name
    if entries.get("encoding", "").lower() == "raw" and data.is_file() and data.stat().st_size < expected:
        raise _truncated(data, expected, data.stat().st_size)


def _lines(text: bytes) -> list[str]:
    return [line.rstrip("\r") for line in text.decode("latin1").split("\n")]


def _whole(entries: Mapping[str, str], name: str, path: Path, most: int) -> int:
    """Return a number from 1 to `most`."""
    word = entries.get(name, "missing")
    if not (word.isascii() and word.isdigit() and len(word) < 16 and 1 <= int(word) <= most):
        raise _invalid(path, f"{name} is {word[:60]}, it must be 1 to {most}")
    return int(word)


def _numbers(text: str, name: str, path: Path) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(abs(number) < 2**53 for number in numbers):
        raise _invalid(path, f"{name} is {text[:60]!r}")
    return numbers


def _check_names(names: list[str], path: Path) -> None:
    """Refuse names of files that lead out of the folder, on any system, links followed."""
    folder = path.parent.resolve()
    for name in filter(None, names):
        if "\0" in name or leaves(name) or not (folder / name).resolve().is_relative_to(folder):
            raise FileFormatError(
                f"{path} looks for voxels outside its own folder",
                "it may be meant to do harm; if it is not, put its files side by side",
            )


def _truncated(data: Path, expected: float, found: int) -> FileFormatError:
    return FileFormatError(f"{data} is truncated: {expected:.0f} bytes expected, {found} found", _AGAIN)


def _invalid(path: Path, why: str) -> FileFormatError:
    return FileFormatError(f"{path} has a header that is not valid: {why}", _AGAIN)
