"""How tensors of another project find their place in a network of ours: strictly."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mambino.core.plan import NetworkSpec
from mambino.errors import WeightsError

# Wrappers of parallel training and of compilation put these before every key.
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is known of the checkpoints of one published network.

    Attributes:
        name: of the network, for people.
        model: name of ours.
        licence: of the published code and weights.
        recognise: patterns that all occur among its keys.
        absent: patterns that do not.
        rename: pattern and replacement; the first that matches the beginning of a key is applied.
        aliases: pattern and replacement that give the key of the same tensor under its first name.
        drop: patterns of keys that hold nothing of use, each with the reason.
        spec: makes the specification of our network from the arguments of the original's constructor.
        original: what the original does to its logits before it returns them.
    """

    name: str
    model: str
    licence: str
    recognise: tuple[str, ...]
    absent: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...]
    aliases: tuple[tuple[str, str], ...] = ()
    drop: Mapping[str, str] = field(default_factory=dict)
    spec: Callable[[Mapping[str, Any]], NetworkSpec]
    original: Callable[[Tensor], Tensor] = lambda logits: logits

    def describes(self, keys: Sequence[str]) -> bool:
        """Tell whether these are the keys of this network."""
        names = [_WRAPPERS.sub("", key) for key in keys]

        def occurs(pattern: str) -> bool:
            return any(re.search(pattern, name) for name in names)

        return all(map(occurs, self.recognise)) and not any(map(occurs, self.absent))


def first_name(key: str, source: Source) -> str:
    """Return the key under which the tensor of `key` appears first: aliases resolved."""
    key = _WRAPPERS.sub("", key)
    for pattern, replacement in source.aliases:
        key = re.sub(pattern, replacement, key)
    return key


def renamed(key: str, source: Source) -> str | None:
    """Return our name of an original key, or None where no rule knows it."""
    key = first_name(key, source)
    for pattern, replacement in source.rename:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return None


def translated(state: Mapping[str, Tensor], source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors under our names, and the keys left out with their reasons.

    Raises:
        WeightsError: a key is in no rule, or two names of one tensor hold different values.
    """
    ours: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    unknown, unequal = [], []
    for key, tensor in state.items():
        reason = next((why for pattern, why in source.drop.items() if re.search(pattern, key)), None)
        first, name = first_name(key, source), renamed(key, source)
        if reason is not None:
            dropped[key] = reason
        elif name is None:
            unknown.append(key)
        elif name not in ours:
            ours[name] = tensor
        elif not _equal(ours[name], tensor):
            unequal.append(key)
        else:
            dropped[key] = f"another name of {first}"
    _refuse(unknown, source, "is not in the table", "are not in the table")
    _refuse(unequal, source, "differs from its other name", "differ from their other names")
    return ours, dropped


def _equal(one: Tensor, other: Tensor) -> bool:
    """Compare; two views of the same numbers, as other names mostly are, are not looked at."""
    same = one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
    return (same and one.dtype == other.dtype) or torch.equal(one, other)


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: Source) -> dict[str, str]:
    """Load the tensors of an original into a network of ours; return the keys left out with their reasons.

    Every tensor is used or named in the table, every parameter is filled, all shapes agree.

    Raises:
        WeightsError: says which are not, and how many.
    """
    ours, dropped = translated(state, source)
    wanted = network.state_dict()
    _refuse([k for k in ours if k not in wanted], source, "has no place", "have no place in this network")
    _refuse([k for k in wanted if k not in ours], source, "stays empty", "of this network stay empty")
    unlike = [
        f"{k} {tuple(ours[k].shape)} for {tuple(wanted[k].shape)}" for k in wanted if ours[k].shape != wanted[k].shape
    ]
    _refuse(unlike, source, "has another shape", "have another shape")
    network.load_state_dict(ours)
    return dropped


def _refuse(keys: Sequence[str], source: Source, one: str, many: str) -> None:
    if keys:
        verb = one if len(keys) == 1 else many
        shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
        raise WeightsError(
            f"weights of {source.name}: {len(keys)} tensor{'s' * (len(keys) > 1)} {verb}: {shown}",
            hint="check that the network was built with the options the weights were trained with",
        )
