"""What a GPU can do at most: bytes moved and exponentials computed in a second, both measured."""

import torch
import triton
import triton.language as tl

from instruments.measuring import queued

CHAINS = 8  # exponentials that do not wait for one another, in each thread
ROUNDS = 2048


@triton.jit
def _exponentials(out, ROUNDS: tl.constexpr, CHAINS: tl.constexpr, WIDTH: tl.constexpr):
    x = tl.arange(0, WIDTH)[:, None] * -1e-3 - tl.arange(0, CHAINS)[None, :] * 1e-2
    for _ in range(ROUNDS):
        x = tl.exp2(x)
    tl.store(out + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), tl.sum(x, 1))


def exponentials() -> float:
    """Measure exponentials a second, of numbers that are in registers."""
    width, programs = 128, 16 * torch.cuda.get_device_properties(0).multi_processor_count
    out = torch.empty(programs * width, device="cuda")

    def call():
        _exponentials[(programs,)](out, ROUNDS, CHAINS, width, num_warps=4)

    call()
    seconds = queued(call)
    return programs * width * CHAINS * ROUNDS / seconds


def bandwidth() -> float:
    """Measure bytes a second that a copy reads and writes, added up."""
    source = torch.zeros(2**28, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / queued(lambda: target.copy_(source))
