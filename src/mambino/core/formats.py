"""Versions of what is written: older files are brought up to this version, newer ones refused by both numbers.

A file that others will read later carries the number of its format. Whoever changes a format raises the number and adds
a step to `STEPS`; a field with a default needs neither.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mambino.errors import FileFormatError

Facts = dict[str, Any]
"""What a file holds, as plain values."""


def _with_setbacks(state: Facts) -> Facts:
    """State 1 to 2: how often a run went back is counted."""
    return {**state, "numbers": {**state["numbers"], "setbacks": 0}}


def _with_scaler(state: Facts) -> Facts:
    """State 2 to 3: losses may be scaled, which no run of before did."""
    return {**state, "scaler": {}}


STEPS: Mapping[str, tuple[Callable[[Facts], Facts], ...]] = {"state": (_with_setbacks, _with_scaler)}
"""By the name of what is written, the steps from format 1 to 2, from 2 to 3 and so on."""


def upgraded(kind: str, facts: Facts, ours: int, source: str, hint: str) -> Facts:
    """Return what a file holds in the format of this version.

    Args:
        kind: what it is, a key of `STEPS` where it has ever changed.
        facts: with the number of the format under "format".
        ours: number of the format of this version.
        source: the file, for the message.
        hint: what can be done besides using another version.

    Raises:
        FileFormatError: the file is newer than this version, or older than the first step.
    """
    found, steps = facts.get("format"), STEPS.get(kind, ())
    if not isinstance(found, int) or not ours - len(steps) <= found <= ours:
        raise FileFormatError(
            f"{source} has format {found}, but this version of mambino reads format {ours}",
            hint=f"use the version of mambino that wrote it, or {hint}",
        )
    for step in steps[len(steps) - (ours - found) :]:
        try:
            facts = step(facts)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise FileFormatError(f"{source} does not hold what format {found} does", hint) from None
    return {**facts, "format": ours}
