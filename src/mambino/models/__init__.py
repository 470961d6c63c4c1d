"""Networks by name."""

import difflib
import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "lightm_unet": "mambino.models.lightm_unet:LightMUNet",
    "lightm_unet_legacy": "mambino.models.lightm_unet:LightMUNetLegacy",
    "unet": "mambino.models.unet:UNet",
}


def build(spec: NetworkSpec) -> "nn.Module":
    """Make the network that `spec` describes, with fresh weights.

    Raises:
        OptionError: the name or an option is not known, or its value does not fit.
    """
    network = _find(spec.name)
    known = _options(network)
    for name in spec.options:
        if name not in known:
            raise OptionError(
                f"{spec.name} has no option {name!r}; it has {', '.join(known)}", hint=_closest(name, known)
            )
    options = {name: _tuples(value) for name, value in spec.options.items()}
    module: nn.Module = network(
        dim=spec.dim, in_channels=spec.in_channels, out_channels=spec.out_channels, **options
    )
    return module


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Return what each side of the input of this network must be a multiple of."""
    import torch

    with torch.device("meta"):
        sides: tuple[int, ...] = build(spec).divisor
    return sides


def names() -> tuple[str, ...]:
    """Return the names of all networks, those of other packages too."""
    return tuple(sorted({**MODELS, **_extensions()}))


def _find(name: str) -> Any:
    path = {**_extensions(), **MODELS}.get(name)
    if path is None:
        raise OptionError(f"there is no network {name!r}", hint=_closest(name, list(names())))
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _extensions() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group="mambino.models")}


def _options(network: Any) -> list[str]:
    fixed = {"dim", "in_channels", "out_channels"}
    return [name for name in inspect.signature(network).parameters if name not in fixed]


def _closest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
