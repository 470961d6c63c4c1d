"""Checkpoints of other programs: the tensors in a file, and what its program put beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mambino.errors import OptionError, WeightsError
from mambino.weights.pickles import read_pickle

ENTRIES = ("network_weights", "model", "model_ema", "model_state_dict", "state_dict")
"""Names under which programs put the tensors, the one taken first in front."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: tensors by the names that their program gave them.
        entry: where in the file they were; "" where it holds nothing else.
        others: further entries with tensors of a network.
        beside: everything else in the file, by name.
    """

    state: dict[str, Tensor]
    entry: str
    others: tuple[str, ...]
    beside: dict[str, Any]


def read_checkpoint(path: Path, entry: str | None = None) -> Checkpoint:
    """Read the tensors of a file of torch or safetensors; nothing in it is run.

    Args:
        path: of the file.
        entry: of the file, where it holds several networks; the first of `ENTRIES` if None.

    Raises:
        WeightsError: the file cannot be read, holds no tensors, or asks for a call.
        OptionError: it has no such entry.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, no table of tensors",
            hint="give a state_dict, or a checkpoint with one inside",
        )
    found = tuple(name for name in ENTRIES if _is_state(content.get(name)))
    if entry is None and _is_state(content):
        return Checkpoint(_tensors(content, path), "", (), {})
    if not found or (entry is not None and entry not in found):
        there = ", ".join(map(str, list(content)[:5])) or "nothing"
        if entry is not None:
            raise OptionError(f"{path} has no tensors under {entry!r}; it holds {there}", hint=f"known: {ENTRIES}")
        raise WeightsError(f"{path} holds no tensors of a network; it holds {there}", hint=f"looked for {ENTRIES}")
    name = entry or found[0]
    others = tuple(other for other in found if other != name)
    beside = {str(key): value for key, value in content.items() if key not in found}
    return Checkpoint(_tensors(content[name], path), name, others, beside)


def _content(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return read_pickle(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut short: {error}", hint="fetch or copy it again") from None


def _is_state(value: Any) -> bool:
    """Tell whether this is a table of tensors: most of what it holds."""
    if not isinstance(value, Mapping) or not value:
        return False
    return 2 * sum(isinstance(item, Tensor) for item in value.values()) > len(value)


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
        raise WeightsError(f"{path} holds {len(strange)} values that are no tensors among its weights: {shown}")
    return {str(key): value for key, value in state.items()}
