"""What training may cost: what the user allows, completed by what the machine has."""

import math
from dataclasses import dataclass

from mambino.core.machine import cores, memory
from mambino.core.options import PlanOptions
from mambino.planning.timing import device_memory, find_device, is_here
from mambino.planning.topology import MEMORY

CPU_MINUTES = 60.0  # of training on a processor, where nobody says how long
STEPPING = 0.85  # of the time is spent in training steps; the rest starts, validates and saves
CPU_MEMORY = 0.7  # of what is free on this machine; the rest is for data and whoever else works here

# 544 steps of batch 2 of 40x56x40 brought a plain U-Net of width 16 to a Dice of 0.876 on hippocampus in
# 8 minutes of two cores.
STEPS, STEPS_MINUTES = 500, 8.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What training may cost.

    Attributes:
        device: "cpu", "cuda" or "mps".
        memory: (GiB).
        params: parameters of the network; None: any number.
        minutes: of training; None: as long as it takes.
        timed: whether this machine has the device, so that steps can be timed.
        assumed: what of it nobody asked for, in words.
    """

    device: str
    memory: float
    params: int | None
    minutes: float | None
    timed: bool
    assumed: str

    @property
    def seconds(self) -> float | None:
        """Time for training steps (s)."""
        return None if self.minutes is None else 60 * STEPPING * self.minutes

    @property
    def core_seconds(self) -> float | None:
        """Time for training steps times cores (s); None where there is no limit, or a GPU."""
        return None if self.seconds is None or self.device != "cpu" else self.seconds * cores()


def make_budget(options: PlanOptions) -> Budget:
    """Complete the options: what is not given follows from the machine."""
    device = find_device(options.device)
    assumed = []
    gib = options.memory
    if gib is None and device == "cpu":
        gib = CPU_MEMORY * memory()
        assumed.append(f"{gib:.1f} GiB of memory, {CPU_MEMORY:.0%} of what is free here")
    if gib is None:
        gib = min(MEMORY, device_memory(device) or MEMORY)
        assumed.append(f"{gib:.1f} GiB of memory of the GPU")
    minutes = options.minutes
    if minutes is None and device == "cpu":
        minutes = CPU_MINUTES
        assumed.append(f"{minutes:g} minutes of training, since a processor cannot do what a GPU does in days")
    return Budget(device, gib, options.params, minutes, is_here(device), "; ".join(assumed))


def wanted_steps(seconds: float) -> int:
    """Say how many steps a network should get in so many seconds of training.

    More time is shared between more steps and a larger network, so their number grows with its square root.
    """
    return max(100, round(STEPS * math.sqrt(seconds / (60 * STEPPING * STEPS_MINUTES))))
