"""Every error a user can meet, and the exit code it ends the program with.

The library raises these; only `cli/console.py` catches them. A message is one sentence that names
the thing and both values; `hint` says what to do next.
"""

from importlib import import_module
from types import ModuleType


class Error(Exception):
    """Something is wrong with what the user supplied, and the user can mend it.

    Args:
        message: one sentence: which thing, both values.
        hint: the next step, where there is one.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class OptionError(Error, ValueError):
    """An option or argument is out of its range, or does not fit the others."""

    exit_code = 2


class ShapeError(Error, ValueError):
    """A tensor has a shape that the operator or network cannot take."""

    exit_code = 2


class DataError(Error, ValueError):
    """An image, a mask or a data set is not what it should be."""

    exit_code = 3


class FileFormatError(Error, ValueError):
    """A file cannot be read or written, or does not hold what its name says."""

    exit_code = 4


class WeightsError(Error, ValueError):
    """Weights do not fit the network or the data they are used with."""

    exit_code = 4


class MissingExtraError(Error, ImportError):
    """An optional dependency is needed and not installed."""

    exit_code = 5


class ToldError(Error):
    """Several processes have met one error, of which the first one tells: this process ends without a word."""

    exit_code = 0  # so that torchrun blames the first


class MambinoWarning(UserWarning):
    """Something was read in one of several possible ways, or in part; the text names the file and the choice."""


def need(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: the import name.
        extra: the extra of this package that installs it.
        why: what needs it, as the start of a sentence ("reading scan.mha").
    """
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"{why} needs the package {module.partition('.')[0]}, which is not installed",
            hint=f"pip install 'mambino[{extra}]'",
        ) from None
