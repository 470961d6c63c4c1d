"""What a kind of file is to the fuzzing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Change


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    Attributes:
        name: of the kind.
        file: name that its files have.
        make: writes a valid one.
        change: damages its bytes.
        read: what the package does with it; raises an error of ours where it is refused.
        keeps_open: the library that reads it keeps damaged files open, which is known; a run ends with the first.
    """

    name: str
    file: str
    make: Callable[[Path], None]
    change: Change
    read: Callable[[Path], Any]
    keeps_open: bool = False
