"""Start a network from the weights of another, or from its own with other inputs or outputs.

Names decide: a tensor is taken where the network has one of that name and shape. What differs from that for a pair of
networks is in `_names`: the decoder of VM-UNet that mirrors its encoder (`load_from` of JCruan519/VM-UNet, 43c495b),
and the patch embedding of Swin-UMamba, which lies on a halved image (JiarunLiu/Swin-UMamba, 2c1f72e).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mambino.core.labels import Labels
from mambino.core.plan import NetworkSpec
from mambino.core.records import record
from mambino.errors import WeightsError
from mambino.models import build
from mambino.weights.bundle import Bundle

CLASSIFIERS = ("vmamba", "vmamba_backbone")
_HALVED = ("swin_umamba", "swin_umamba_first")
_STAGES = 4  # of vm_unet, unless its options say otherwise


@record
class Initialisation:
    """What a network was started from.

    Attributes:
        network: that the weights are of.
        loaded: from the name of a tensor to the one that it was filled from.
        adapted: which of these were not taken as they are, and what was done.
        skipped: tensors of the source that were not used, and why.
        left: tensors that keep their fresh values.
    """

    network: str
    loaded: dict[str, str]
    adapted: dict[str, str]
    skipped: dict[str, str]
    left: tuple[str, ...]


def initialise(
    network: nn.Module, spec: NetworkSpec, source: Bundle, labels: Labels | None = None, *, slip: bool = False
) -> Initialisation:
    """Fill a network, in place, with what another one has learnt.

    Args:
        network: of `spec`, fresh.
        spec: its name and options.
        source: a bundle of the same network, or of VMamba for the networks that are built on it.
        labels: what the outputs will mean; where the source's mean something else, no output layer is taken.
            None takes those whose shape fits.
        slip: take the bias of the norm behind the patch embedding into Swin-UMamba, as its authors' code does: its
            list of what to skip names the weight twice.

    Returns:
        Tensor by tensor, what was taken, skipped and left.

    Raises:
        WeightsError: nothing in the source fits.
    """
    kind = source.config.network.name
    theirs, own = source.network.state_dict(), network.state_dict()
    stems, heads = _depending(spec, in_channels=1), _depending(spec, out_channels=1)
    meant = labels is None or (source.labels == labels and spec.name == kind)
    loaded: dict[str, str] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, target in [(one, other) for one in theirs for other in _names(one, kind, spec)]:
        why = _unwanted(name, kind, spec, slip=slip) or _misfit(target, theirs[name], own, stems)
        if why or (target in heads and not meant):
            skipped.setdefault(name, why or "an output layer, for other labels")
            continue
        value = theirs[name]
        if value.shape != own[target].shape:
            value, adapted[target] = _adapted(value, own[target].shape[1])
        with torch.no_grad():
            own[target].copy_(value)
        loaded[target] = name
    if not any(target not in heads for target in loaded):
        raise WeightsError(
            f"nothing in a bundle of {kind} ({len(theirs)} tensors) fits {spec.name} in {spec.dim}D, whose tensors "
            "have other names or shapes",
            hint="start from the same network, or VM-UNet and Swin-UMamba from vmamba, of equal width and state size",
        )
    used = set(loaded.values())
    return Initialisation(
        network=kind,
        loaded=loaded,
        adapted=adapted,
        skipped={name: why for name, why in skipped.items() if name not in used},
        left=tuple(name for name in own if name not in loaded),
    )


def _names(name: str, source: str, spec: NetworkSpec) -> Iterator[str]:
    """Yield the tensors of a network that are filled from one of the source."""
    yield name
    stage = re.match(r"encoder\.stages\.(\d+)\.(.*)", name)
    if source in CLASSIFIERS and spec.name == "vm_unet" and stage:
        depths = spec.options.get("depths")
        last = (len(depths) if isinstance(depths, tuple | list) else _STAGES) - 1
        yield f"decoder.{last - int(stage[1])}.{stage[2]}"


def _unwanted(name: str, source: str, spec: NetworkSpec, *, slip: bool) -> str:
    """Say why a tensor is not taken although its name and shape may fit."""
    if source not in CLASSIFIERS or spec.name in CLASSIFIERS:
        return ""
    if name.startswith(("norm.", "norms.", "head.")):
        return "it is of the classifier"
    halved = spec.name in _HALVED and name.startswith("embed.")
    return "it is of the image; here a stem comes before" if halved and not (slip and name == "embed.norm.bias") else ""


def _misfit(target: str, tensor: Tensor, own: Mapping[str, Tensor], stems: frozenset[str]) -> str:
    """Say why a tensor cannot be taken; empty where it can, or can be made to fit."""
    if target not in own:
        return "the network has none of this name"
    shape = own[target].shape
    widened = (
        target in stems and tensor.ndim == len(shape) and (tensor.shape[0], *tensor.shape[2:]) == (shape[0], *shape[2:])
    )
    return "" if tensor.shape == shape or widened else f"{tuple(tensor.shape)}, where the network has {tuple(shape)}"


def _adapted(weight: Tensor, channels: int) -> tuple[Tensor, str]:
    """Return a convolution for another number of input channels, and how it was made.

    An image whose channels are all the same gives what it gave before.
    """
    before = weight.shape[1]
    mean = weight.mean(1, keepdim=True) * (before / channels)
    how = f"mean over {before} input channels, times {before}/{channels}, for each of {channels}"
    return mean.expand(-1, channels, *weight.shape[2:]), how


def _depending(spec: NetworkSpec, **more: int) -> frozenset[str]:
    """Return the tensors whose shape follows from a number of channels: those that change when it does."""
    changed = replace(spec, **{name: getattr(spec, name) + extra for name, extra in more.items()})
    with torch.device("meta"):
        one, other = build(spec).state_dict(), build(changed).state_dict()
    return frozenset(name for name, tensor in one.items() if name in other and tensor.shape != other[name].shape)
