"""Networks by name."""

import difflib
import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mambino.core.plan import NetworkSpec
from mambino.errors import Error, OptionError
from mambino.models.descriptions import DESCRIPTIONS, Description

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "attention_unet": "mambino.models.attention_unet:AttentionUNet",
    "lightm_unet": "mambino.models.lightm_unet:LightMUNet",
    "lightm_unet_legacy": "mambino.models.lightm_unet:LightMUNetLegacy",
    "lightm_unet_paper": "mambino.models.lightm_unet:LightMUNetPaper",
    "mk_unet": "mambino.models.mk_unet:MKUNet",
    "resenc_unet": "mambino.models.unet:ResEncUNet",
    "segresnet": "mambino.models.segresnet:SegResNet",
    "swin_encoder": "mambino.models.swin_unetr:SwinEncoder",
    "swin_umamba": "mambino.models.swin_umamba:SwinUMamba",
    "swin_umamba_dagger": "mambino.models.swin_umamba:SwinUMambaDagger",
    "swin_umamba_first": "mambino.models.swin_umamba:SwinUMambaFirst",
    "swin_unet": "mambino.models.swin_unet:SwinUNet",
    "swin_unetr": "mambino.models.swin_unetr:SwinUNETR",
    "ultralight_vm_unet": "mambino.models.ultralight:UltraLightVMUNet",
    "umamba_bot": "mambino.models.umamba:UMambaBot",
    "umamba_bot_2024_01": "mambino.models.umamba:UMambaBot202401",
    "umamba_enc": "mambino.models.umamba:UMambaEnc",
    "umamba_enc_2024_01": "mambino.models.umamba:UMambaEnc202401",
    "unet": "mambino.models.unet:UNet",
    "vm_unet": "mambino.models.vm_unet:VMUNet",
    "vmamba": "mambino.models.vmamba:VMamba",
    "vmamba_backbone": "mambino.models.vmamba:VMambaBackbone",
    "unetr": "mambino.models.unetr:UNETR",
}


def build(spec: NetworkSpec) -> "nn.Module":
    """Make the network that `spec` describes, with fresh weights.

    Raises:
        OptionError: the name or an option is not known, or a value does not fit.
    """
    network = _find(spec.name)
    known = _options(network)
    for name in spec.options:
        if name not in known:
            raise OptionError(
                f"the network {spec.name} has no option {name!r}; it has {', '.join(known)}", hint=_near(name, known)
            )
    dims = describe(spec.name).dims
    if spec.dim not in dims:
        raise OptionError(f"the network {spec.name} has {' or '.join(map(str, dims))} axes, got {spec.dim}")
    options = {name: _tuples(value) for name, value in spec.options.items()}
    try:
        module: nn.Module = network(
            dim=spec.dim, in_channels=spec.in_channels, out_channels=spec.out_channels, **options
        )
    except Error:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise OptionError(
            f"the network {spec.name} cannot be made with the options {options}: {why[:200]}",
            hint="leave out the options that you did not mean to change",
        ) from error
    return module


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Return what each side of the input of this network must be a multiple of."""
    import torch  # noqa: PLC0415 - names and descriptions are read where torch is not wanted

    with torch.device("meta"):
        return tuple(build(spec).divisor)  # type: ignore[arg-type]


def names() -> tuple[str, ...]:
    """Return the names of all networks, those of other packages among them."""
    return tuple(sorted({**_extensions(), **MODELS}))


def segmenting() -> tuple[str, ...]:
    """Return the names of those that give masks."""
    return tuple(name for name in names() if describe(name).kind == "segmentation")


def list_models() -> tuple[Description, ...]:
    """Describe all networks, those of other packages among them."""
    return tuple(describe(name) for name in names())


def describe(name: str) -> Description:
    """Describe a network.

    One of another package carries its own `Description` in the class attribute `description`.

    Raises:
        OptionError: there is no network of this name.
    """
    own = next((described for described in DESCRIPTIONS if described.name == name), None)
    if own is not None:
        return own
    network = _find(name)
    blank = Description(name=name, title=name, paper="", year=0, dims=(2, 3), claimed="", counted="", note="")
    described: Description = getattr(network, "description", blank)
    return described


def _find(name: str) -> Any:
    path = {**_extensions(), **MODELS}.get(name)
    if path is None:
        raise OptionError(f"there is no network {name!r}", hint=_near(name, names()))
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _extensions() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group="mambino.models")}


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of the options of a network.

    Raises:
        OptionError: there is no network of this name.
    """
    return _options(_find(name))


def _options(network: Any) -> tuple[str, ...]:
    fixed = {"dim", "in_channels", "out_channels"}
    return tuple(name for name in inspect.signature(network).parameters if name not in fixed)


def _near(name: str, known: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}?" if found else f"choose from {', '.join(known)}"


def _tuples(value: Any) -> Any:
    """Turn the lists that JSON has into tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
