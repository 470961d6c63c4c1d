"""In which number format a network learns: bfloat16 where the hardware gains from it."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mambino.core.plan import Config
from mambino.nn.device import processor_has_bf16

Name = Literal["float32", "bf16", "fp16"]

GAIN = 1.15
"""bfloat16 is taken on a processor when it makes a step so many times faster."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Where and how numbers are computed.

    Attributes:
        device: of the network and the batches.
        name: "float32", or "bf16" or "fp16": convolutions and products in bfloat16 or float16, weights, sums and scans
            in float32.
    """

    device: torch.device
    name: Name = "float32"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that the forward pass runs in."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)


def choose_precision(
    asked: Literal["auto"] | Name, device: torch.device, network: nn.Module, config: Config
) -> Precision:
    """Return the precision asked for; "auto" takes bfloat16 where that is faster and the recipe allows it.

    A GPU that has it gains. A processor with instructions for it (AVX512-BF16, AMX) is measured, with a few steps;
    others are slower with it. Two runs that must be equal should therefore ask for a precision by name.

    A processor learns in float32 where volumes shrink to two slices: there the gradient that oneDNN computes in
    bfloat16 for the weights of a 3D convolution reads memory that nobody wrote (oneDNN 3.12 in torch 2.13, found with
    16 channels and more; three slices and other axes are right).
    """
    if asked != "auto":
        return Precision(device, asked)
    if not config.recipe.half:
        return Precision(device)
    slow, fast = Precision(device, "float32"), Precision(device, "bf16")
    if device.type == "cuda":
        return fast if torch.cuda.is_bf16_supported(including_emulation=False) else slow
    if device.type != "cpu" or not processor_has_bf16() or shrinks_to_two_slices(config, network):
        return slow
    shape = (config.batch, config.network.in_channels, *config.patch)
    return fast if _seconds(network, shape, slow) > GAIN * _seconds(network, shape, fast) else slow


def shrinks_to_two_slices(config: Config, network: nn.Module) -> bool:
    """Tell whether a patch has two slices along its first of three axes at some stage of the network."""
    divisor = cast(tuple[int, ...], network.divisor)
    halved = (config.patch[0] >> times for times in range(divisor[0].bit_length()))
    return config.dim == 3 and 2 in halved


def _seconds(network: nn.Module, shape: tuple[int, ...], precision: Precision) -> float:
    """Time a step without an update; the network keeps its weights and has no gradients afterwards."""
    images = torch.zeros(shape, device=precision.device)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with precision.autocast():
            logits: Tensor = network(images)
        torch.autograd.backward(logits.float().mean())
        times.append(time.perf_counter() - begin)
    network.zero_grad(set_to_none=True)
    return min(times)
