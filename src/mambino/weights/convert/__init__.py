"""Weights of other projects: recognised by their keys, renamed, loaded strictly."""

from collections.abc import Iterable

from mambino.errors import WeightsError
from mambino.weights.convert import lightm_unet, monai, nnunet, swin_unet, umamba, vss
from mambino.weights.convert.rules import Source, load_state

__all__ = ["SOURCES", "Source", "load_state", "recognise"]

SOURCES: tuple[Source, ...] = (
    lightm_unet.SOURCE,
    lightm_unet.LEGACY,
    monai.SEGRESNET,
    monai.SWIN_ENCODER,
    monai.SWIN_UNETR,
    monai.UNETR,
    nnunet.SOURCE,
    nnunet.RESIDUAL,
    swin_unet.SOURCE,
    umamba.BOT,
    umamba.ENC,
    umamba.BOT_2024_01,
    umamba.ENC_2024_01,
    *vss.SOURCES,
)


def recognise(keys: Iterable[str]) -> Source:
    """Say which network a state dict belongs to.

    Raises:
        WeightsError: none that is known.
    """
    keys = list(keys)
    found = [source for source in SOURCES if source.describes(keys)]
    if len(found) != 1:
        shown = ", ".join(keys[:3]) or "no keys at all"
        raise WeightsError(
            f"these weights belong to no network that is known; they begin with {shown}",
            hint="known are " + ", ".join(source.name for source in SOURCES),
        )
    return found[0]
