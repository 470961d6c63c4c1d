"""A pass of a network in bfloat16 that stays as close to float32 as it can."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambino.core.plan import Config, NetworkSpec
from mambino.core.records import dump, parse
from mambino.models.cost import end_layers
from mambino.nn.rewiring import wide

Forward = Callable[[Tensor], Tensor]
Name = Literal["float32", "bf16"]


def in_precision(network: nn.Module, config: Config, precision: Name, device: torch.device) -> Forward:
    """Return a pass of the network without gradients that takes and gives float32.

    In bfloat16 the first and the last layer stay in float32. Images have values far from zero that the first
    normalisation takes away again; rounded before that, a U-Net on CT is five times further from its float32 logits.
    """
    names = _ends(dump(config.network), config.patch) if precision == "bf16" else ()

    def forward(x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if precision == "bf16":
                stack.enter_context(wide(network, names))
                stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            logits: Tensor = network(x)
        return logits.float()

    return forward


@lru_cache(maxsize=64)
def _ends(network: str, patch: tuple[int, ...]) -> tuple[str, str]:
    return end_layers(parse(NetworkSpec, network, "the bundle"), patch)
