"""Reading the arguments that an original network was constructed with."""

from collections.abc import Mapping
from typing import Any

from mambino.errors import OptionError


def only(arguments: Mapping[str, Any], known: set[str], fixed: Mapping[str, tuple[Any, ...]], network: str) -> None:
    """Refuse arguments that our network has no counterpart for.

    Args:
        arguments: of the original.
        known: those that are translated.
        fixed: those of which our network has one value, with every way to write it.
        network: its name.

    Raises:
        OptionError: names the argument and its value.
    """
    for name, value in arguments.items():
        if name in known or (name in fixed and value in fixed[name]):
            continue
        allowed = f"; it has {fixed[name][0]!r} here" if name in fixed else ""
        raise OptionError(f"{network} with {name} = {value!r} has no counterpart{allowed}")
