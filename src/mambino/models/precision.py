"""A pass of a network in bfloat16 that stays as close to float32 as it can."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambino.core.plan import Config, NetworkSpec
from mambino.core.records import dump, parse
from mambino.models.cost import end_layers
from mambino.nn.rewiring import halved, wide

Forward = Callable[[Tensor], Tensor]
Name = Literal["float32", "bf16"]
_COPIES: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def in_precision(network: nn.Module, config: Config, precision: Name, device: torch.device) -> Forward:
    """Return a pass of the network without gradients that takes and gives float32.

    In bfloat16 the first and the last layer stay in float32. Images have values far from zero that the first
    normalisation takes away again; rounded before that, a U-Net on CT is five times further from its float32 logits.
    On a processor a network of `channels_last` runs as a copy with its channels last.
    """
    names = _ends(dump(config.network), config.patch) if precision == "bf16" else ()
    last = precision == "bf16" and device.type == "cpu" and getattr(network, "channels_last", False)
    running = _copy(network, names) if last else network

    def forward(x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if precision == "bf16":
                stack.enter_context(wide(running, names))
                stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if last:
                x = x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)
            logits: Tensor = running(x)
        return logits.float()

    return forward


def _copy(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a copy for bfloat16, made once; weights that change afterwards do not reach it."""
    if network not in _COPIES:
        _COPIES[network] = halved(network, names)
    return _COPIES[network]


@lru_cache(maxsize=64)
def _ends(network: str, patch: tuple[int, ...]) -> tuple[str, str]:
    return end_layers(parse(NetworkSpec, network, "the bundle"), patch)
