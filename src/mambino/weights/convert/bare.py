"""Checkpoints that say nothing of images: what their authors did, as far as it is known and a bundle can say it."""

from dataclasses import dataclass

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise
from mambino.core.recipe import Recipe
from mambino.models import describe, divisor

_SIDE = {2: 256, 3: 96}  # of a patch, where nobody says one
_ADAMW = Recipe(rate=1e-3, weight_decay=1e-2, epochs=300)

_UNKNOWN = "how images were prepared is not in the file: spacing is 1 and intensities are left as they are"
_WINDOWS = "the authors resized every image to {side} x {side}; here windows of that size slide over it: resize first"
_VM_UNET = {
    1: (
        "the authors (ISIC) scaled each image to 0 ... 255; here values stay as they are: give RGB images of 8 bits",
        _WINDOWS.format(side=256),
    ),
    9: (
        "the authors (Synapse) took slices that were prepared already: give slices scaled as those were",
        "one channel was repeated to three, so repeat yours",
        _WINDOWS.format(side=224),
    ),
}


@dataclass(frozen=True, slots=True)
class Assumed:
    """A configuration that nobody wrote down, with what has to be checked."""

    config: Config
    labels: Labels
    channels: tuple[str, ...]
    check: tuple[str, ...]


def assumed(network: NetworkSpec, classes: int) -> Assumed:
    """State how images are prepared for a network of a bare checkpoint.

    Args:
        network: as the bundle will have it.
        classes: outputs that the original has.
    """
    check: tuple[str, ...] = (_UNKNOWN,)
    if network.name == "vm_unet":
        check = _VM_UNET.get(classes, (_UNKNOWN,))
    elif network.name == "swin_unet":
        check = (_UNKNOWN, "the authors repeated one channel to three, so repeat yours")
    kind = describe(network.name).kind
    if kind != "segmentation":
        check = (f"the network is a {kind}: a bundle to start others from, and no masks come out of it",)
    patch = _patch(network, classes)
    config = Config(
        dim=network.dim,
        spacing=(1.0,) * network.dim,
        crop=False,
        normalise=(Normalise(scheme="none"),) * network.in_channels,
        shape=patch,
        patch=patch,
        batch={"vm_unet": 32, "swin_unet": 24}.get(network.name, 2),
        network=network,
        recipe=_ADAMW if network.name == "vm_unet" else Recipe(),
    )
    names: dict[str, tuple[int, ...]] = {f"label_{i}": (i,) for i in range(1, max(2, network.out_channels))}
    if kind == "segmentation":
        check = (*check, "labels have numbers for names: nothing in the file says what they are")
    return Assumed(config, Labels(names=names), _channels(network, classes), check)


def _channels(network: NetworkSpec, classes: int) -> tuple[str, ...]:
    if network.name == "vm_unet" and classes == 1 and network.in_channels == 3:
        return ("R", "G", "B")
    return tuple(f"channel_{i}" for i in range(network.in_channels))


def _patch(network: NetworkSpec, classes: int) -> tuple[int, ...]:
    """Return the size of the authors' images where it is known, else a usual one that the network takes."""
    own = network.options.get("patch")
    if isinstance(own, tuple) and own:
        return tuple(int(side) for side in own)  # type: ignore[arg-type]
    side = 224 if network.name.startswith("vmamba") or (network.name, classes) == ("vm_unet", 9) else _SIDE[network.dim]
    return tuple(-(-side // step) * step for step in divisor(network))
