"""Defaults of flags from a file: `--options FILE.toml`, a table a command."""

import tomllib
from collections.abc import Set
from pathlib import Path

from mambino.errors import FileFormatError, OptionError

_HINT = "--options FILE.toml takes a table a command, as in: [train] and below it minutes = 30"


def take_file(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Take `--options FILE`, wherever it stands, out of a command line; return the rest, and the file.

    Raises:
        OptionError: there is no file, or several.
    """
    found = [i for i, word in enumerate(arguments) if word.partition("=")[0] == "--options"]
    if not found:
        return arguments, None
    at = found[0]
    _, joined, value = arguments[at].partition("=")
    end = at + 1 if joined else at + 2
    file = value if joined else "".join(arguments[at + 1 : end])
    if not file or len(found) > 1:
        raise OptionError(f"--options takes one file, got {len(found) if file else 0}", hint=_HINT)
    return arguments[:at] + arguments[end:], Path(file)


def check_file(path: Path, commands: Set[str]) -> None:
    """Refuse a file that does not hold tables of commands; what is in them is for each command to check.

    Raises:
        FileFormatError: it cannot be read, is not TOML, or has something else at its top.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested without end
        raise FileFormatError(f"{path} is not TOML: {error}", hint=_HINT) from None
    unknown = [name for name, table in tables.items() if name not in commands or not isinstance(table, dict)]
    if unknown:
        raise FileFormatError(f"{path} has {unknown[0]}, which is no table of a command", hint=_HINT)
