"""One process, or several that `torchrun` has started and that learn together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True, slots=True)
class Processes:
    """Which process this is, and of how many; the first one writes."""

    rank: int = 0
    count: int = 1

    def joined(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the mean over all processes."""
        return network if self.count == 1 else nn.parallel.DistributedDataParallel(network)

    def summed(self, value: Tensor) -> Tensor:
        """Return the sum of a number over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that `torchrun` has started; without it there is one."""
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        yield Processes()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if device.type == "cuda":
            torch.cuda.set_device(distributed.get_rank() % torch.cuda.device_count())
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
