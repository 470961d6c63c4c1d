"""Records: frozen dataclasses that are read strictly from JSON and written atomically."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from mambino.errors import FileFormatError, OptionError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown keys when read."""
    cls = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return cls


def read(cls: type[T], path: Path) -> T:
    """Read one record; what is wrong is named by file and place.

    Raises:
        FileFormatError: the file is missing, is not JSON, or holds an unknown key or a wrong type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}") from None
    return parse(cls, text, str(path))


def parse(cls: type[T], text: bytes | str, source: str) -> T:
    """Read one record from JSON text that came from `source`."""
    from pydantic import ValidationError

    try:
        value: T = _adapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise FileFormatError(f"{source} is not a valid {cls.__name__.lower()}: {places}") from None
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
        raise OptionError(f"--{name} {first['input']}: {first['msg'].lower()}") from None
    return options


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
                raise _unwritable(path, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`; rename it to `path` when the block ends well.

    When the block fails, or the disk is full, the temporary file is removed and an older `path`
    stays as it was. The lent path keeps all suffixes of `path`, since writers choose by suffix.

    Raises:
        FileFormatError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from None
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _new_adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


# Making the checker of a record takes milliseconds, using it microseconds.
_adapter: Callable[[Any], Any] = lru_cache(_new_adapter)


def _unwritable(path: Path, error: OSError) -> FileFormatError:
    return FileFormatError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="choose another output folder, or free some space",
    )
