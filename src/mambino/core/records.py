"""Records: frozen dataclasses that are read strictly from JSON and written atomically."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from mambino.core.formats import upgraded
from mambino.errors import FileFormatError, OptionError

T = TypeVar("T")

_MEND = "correct the file, or remove it to have it made again"
_SHOWN = 3  # places in one message
_LONGEST = 60  # characters of a value in a message
_NO_VALUE = {"missing", "unexpected_keyword_argument", "value_error", "json_invalid"}  # said in full by their text


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown keys when read."""
    cls = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return cls


def read(cls: type[T], path: Path, hint: str = _MEND) -> T:
    """Read one record; what is wrong is named by file and place.

    Args:
        cls: the record.
        path: of the file.
        hint: the next step for whoever meets a file that is not valid.

    Raises:
        FileFormatError: the file is missing, is not JSON, has another format, or holds an unknown key or a wrong type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    return parse(cls, text, str(path), hint)


def parse(cls: type[T], text: bytes | str, source: str, hint: str = _MEND) -> T:
    """Read one record from JSON text that came from `source`."""
    from pydantic import ValidationError

    text = _in_our_format(cls, text, source, hint)
    try:
        value: T = _adapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        said = tuple(dict.fromkeys(_said(one, text) for one in error.errors()))
        more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        places = "; ".join(said[:_SHOWN]) + more
        raise FileFormatError(f"{source} is not a valid {cls.__name__.lower()}: {places}", hint) from None
    return value


def checked(options: T) -> T:
    """Refuse options that are out of their range; return them unchanged otherwise.

    Raises:
        OptionError: names the option and what it must be.
    """
    from pydantic import ValidationError

    kind = type(options)
    try:
        _adapter(kind).validate_python({name: getattr(options, name) for name in fields_of(kind)})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise OptionError(
            f"--{name} {first['input']}: {first['msg'].lower()}",
            hint="mambino COMMAND --help says what each option takes",
        ) from None
    return options


def from_json(text: bytes | str) -> Any:
    """Return what JSON text holds, as plain values.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested more deeply than anything of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def fields_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a record."""
    return tuple(field.name for field in fields(kind))


def dump(value: Any, *, indent: int | None = 2) -> str:
    """Return a record as JSON text."""
    data = _adapter(type(value)).dump_python(value, mode="json")
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=True)


def write(value: Any, path: Path) -> Path:
    """Write one record as JSON, all of it or nothing."""
    write_text(dump(value) + "\n", path)
    return path


def write_text(text: str, path: Path) -> None:
    """Write a text file, all of it or nothing."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together: none gets its name before all are on the disk.

    Raises:
        FileFormatError: a folder cannot be written to, or the disk is full; older files stay as they were.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            part = stack.enter_context(replacing(path))
            try:
                part.write_text(text, encoding="utf-8")
            except OSError as error:
                raise unwritable(path, error) from None


@contextmanager
def replacing(path: Path, *, older: Path | None = None, settle: bool = True) -> Iterator[Path]:
    """Lend a temporary path beside `path`; rename it to `path` when the block ends well.

    When the block fails, or the disk is full, the temporary file is removed and an older `path`
    stays as it was. The lent path keeps all suffixes of `path`, since writers choose by suffix.
    The new file is on the disk, not in memory alone, before it gets its name: a power cut leaves the old or the new
    one, whole. With `older`, the one it replaces gets that name. Where it can be made again and its size is known
    elsewhere, `settle` may be false: that saves some milliseconds a file.

    Raises:
        FileFormatError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from None
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        if settle:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        if older is not None and path.exists():
            _keep(path, older)
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _keep(path: Path, older: Path) -> None:
    """Give a file a second name, so that whoever copies the folder finds one under the first at any moment."""
    link = older.with_name(f".part-{older.name}")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    except (OSError, NotImplementedError):  # a file system without links
        path.replace(older)
        return
    try:
        link.replace(older)
    finally:
        link.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> FileFormatError:
    """Return the error of a file or folder that cannot be written to."""
    return FileFormatError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="choose another output folder, or free some space",
    )


def _in_our_format(cls: Any, text: bytes | str, source: str, hint: str) -> bytes | str:
    """Return the text of a record in the format of this version; other keys are looked at later."""
    ours = next((field.default for field in fields(cls) if field.name == "format"), None)
    try:
        facts = from_json(text)
    except ValueError:
        return text  # the record itself says what is wrong
    if not isinstance(ours, int) or not isinstance(facts, dict):
        return text
    found = facts.get("format", ours)
    if not isinstance(found, int) or found == ours:
        return text
    return json.dumps(upgraded(cls.__name__.lower(), facts, ours, source, hint))


def _said(error: Any, text: bytes | str) -> str:
    """Say one thing that is wrong: its place, what must be there, and what is."""
    words, place, value = error["msg"].removeprefix("Value error, "), list(error["loc"]), error["input"]
    if error["type"] not in _NO_VALUE:
        there, value = _place(place, from_json(text))
        if there != place:  # the rest names the types tried one after the other, of which none fits
            place, words = there, "Input should be of another type"
        shown = json.dumps(value, ensure_ascii=False)
        words += f", got {shown if len(shown) <= _LONGEST else shown[:_LONGEST] + '…'}"
    return f"{'.'.join(map(str, place))}: {words}" if place else words


def _place(keys: list[Any], value: Any) -> tuple[list[Any], Any]:
    """Follow `keys` as far as the file has them; return these, and what it holds there."""
    for depth, key in enumerate(keys):
        try:
            value = value[key]
        except (LookupError, TypeError):
            return keys[:depth], value
    return keys, value


def _new_adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


# Making the checker of a record takes milliseconds, using it microseconds.
_adapter: Callable[[Any], Any] = lru_cache(_new_adapter)
