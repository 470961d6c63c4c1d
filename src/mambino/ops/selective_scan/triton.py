"""The selective scan on GPUs: Triton kernels for the outputs and for all gradients.

A program takes a block of channels with all their states through a segment of the sequence, token by token, the
states in registers. Where batch and channels are too few to fill a GPU the sequence is cut into segments that run
side by side: one pass finds what each segment adds to a state of zero, a short one carries the state from segment to
segment, and the last one starts each segment where the one before it ended. Only decays exp(dt A) <= 1 are ever
multiplied, so no step size overflows.

The gradient walks backwards over chunks, computing the states of a chunk again from the one saved before it. Sums
over channels and over segments go through buffers that torch adds up, never through atomics: results repeat.

Everything is channel-last, [b l d], so that neighbouring threads read neighbouring channels. The two kinds of kernel
hold their states differently. Forward, [n d] with a stride of n that the compiler is not told to be 1: it then gives
each thread whole channels, and the sum over n takes no exchange between threads. It works on tiles of tokens, [k n d],
which lie in a thread too, so that a scan over k is a loop in registers, while the inputs of the next tiles are copied
to shared memory. Backward, [d n] with a plain stride: a few threads share a channel, since there the sums over
channels, for B and C, cost most.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from mambino.ops.selective_scan.kernels import backward_kernel, carry_kernel, forward_kernel, returns_kernel

CHUNK = 32  # tokens between saved states: with n = 16 they take two bytes a token and channel
TILE = 4  # tokens whose inputs and states are in registers together in the gradient: 8 do not fit
NUMBERS = 4096  # decays of a tile of tokens that a warp of the forward pass has in registers together, 128 a thread
CARRIED = 8  # segments whose ends are loaded together
PROGRAMS = 4096  # of one warp each: twice as many as run at once on the 132 processors of an H100 or H200
SHORTEST = 64  # tokens of a segment, at least
WORTHWHILE = 4  # segments that make up for scanning twice, at least


@dataclass(frozen=True, slots=True)
class Launch:
    """How a scan is spread over programs; it follows from the shapes alone.

    Attributes:
        batch, length, channels, size: b, l, d and n of the scan.
        groups: of channels, each within one group of B and one of C.
        shares: how many of them are in one group of B, and of C.
        block, padded: channels and states of a program, powers of two.
        segments, chunks: into how many segments the sequence is cut, and of how many chunks each.
        warps: of a program.
        tile: tokens that it works on together.
    """

    batch: int
    length: int
    channels: int
    size: int
    groups: int
    shares: tuple[int, int]
    block: int
    padded: int
    segments: int
    chunks: int
    warps: int
    tile: int

    @classmethod
    def of(cls, u: Tensor, A: Tensor, B: Tensor, C: Tensor, *, states: int, tile: int | None = None) -> Self:
        """Choose; `states` are those that one warp holds, and `tile` as many tokens as fit unless it is given."""
        batch, length, channels = u.shape
        of_B, of_C = (1 if x.dim() == 2 else x.shape[2] for x in (B, C))
        groups = math.lcm(of_B, of_C)
        shares = groups // of_B, groups // of_C
        padded = triton.next_power_of_2(A.shape[1])
        block = min(max(states // padded, 16), 64, triton.next_power_of_2(channels // groups))
        block = max(block, 32 // padded)  # no thread without a state of its own, lest tokens are spread over threads
        programs = batch * groups * triton.cdiv(channels // groups, block)
        segments = min(triton.cdiv(PROGRAMS, programs), length // SHORTEST)
        chunks = triton.cdiv(length, CHUNK * (segments if segments >= WORTHWHILE else 1))
        segments = triton.cdiv(length, CHUNK * chunks)
        warps = min(max(block * padded // states, 1), 8)
        fitting = NUMBERS * warps // (block * padded * (2 if u.dtype == torch.float64 else 1))
        tile = tile or min(max(fitting, 1), CHUNK)
        return cls(batch, length, channels, A.shape[1], groups, shares, block, padded, segments, chunks, warps, tile)

    @property
    def blocks(self) -> int:
        """Number of blocks of channels."""
        return self.groups * triton.cdiv(self.channels // self.groups, self.block)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs."""
        return (self.blocks, self.segments, self.batch)

    @property
    def sizes(self) -> tuple[int, ...]:
        """What every kernel takes as its sizes."""
        return (self.length, self.channels, self.size, self.groups, *self.shares, self.chunks)

    def constants(self, u: Tensor, B: Tensor, C: Tensor, *, softplus: bool) -> dict[str, object]:
        """Return what every kernel is compiled for."""
        return {
            "softplus": softplus,
            "B_constant": B.dim() == 2,
            "C_constant": C.dim() == 2,
            "WIDE": tl.float64 if u.dtype == torch.float64 else tl.float32,
            "CHUNK": CHUNK,
            "TILE": self.tile,
            "BLOCK": self.block,
            "N": self.padded,
            "num_warps": self.warps,
        }


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    state: Tensor | None,
    *,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [b l d], the last state [b d n], and the states before each chunk [b chunks d n] (if `keep`).

    u, delta and z are [b l d], B and C [b l g n] or constant [d n], state [b d n]; the last axis of each has a
    stride of 1, the others any. D and bias are [d]. States are float32, float64 where u is.
    """
    A, B, C, D, bias, state = _plain(A, B, C, D, bias, state)
    launch = Launch.of(u, A, B, C, states=512)
    wide = torch.promote_types(u.dtype, torch.float32)
    room = _Room(launch, u.device, wide)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    last = room.states()
    saved = room.states(triton.cdiv(launch.length, CHUNK)) if keep else u.new_empty(0, dtype=wide)
    inputs, strides = (u, delta, A, B, C, D, z, bias), _strides(u, delta, B, C, z)
    constants = launch.constants(u, B, C, softplus=softplus)

    def run(start: Tensor | None, ends: Tensor | None, steps: Tensor | None, *, output: bool) -> None:
        forward_kernel[launch.grid](
            *inputs, start, y, last, saved if keep else None, ends, steps, *strides, *launch.sizes, 1,
            OUTPUT=output, **constants,
        )  # fmt: skip

    with torch.cuda.device_of(u):
        start = state
        if launch.segments > 1:
            ends, steps = room.states(launch.segments), room.channels()
            run(None, ends, steps, output=False)
            start = _carried(launch, ends, steps, A, state, backwards=False)
        run(start, None, None, output=True)
    return y, last, saved


def scan_backward(
    grad: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    state: Tensor | None,
    saved: Tensor,
    *,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of u, delta, A, B, C, D, z, bias and state, None where there is no such input.

    grad and grad_last are those of y and of the last state; the rest is what `scan` took and `saved`.
    """
    rates, enter, leave, passage, shift, after = _plain(A, B, C, D, bias, grad_last)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    launch = Launch.of(u, rates, enter, leave, states=256, tile=TILE)
    room = _Room(launch, u.device, saved.dtype)
    inputs = (grad, u, delta, rates, enter, leave, passage, z, shift)
    strides = (*grad.stride()[:2], *_strides(u, delta, enter, leave, z))
    constants = launch.constants(u, enter, leave, softplus=softplus)
    grad_u, grad_delta = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (u, delta))
    grad_z = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
    first = None if state is None else room.states()
    part_A, part_B, part_C = room.states(launch.segments), room.coupling(enter), room.coupling(leave)
    starts = room.empty(math.prod(launch.grid), CHUNK // TILE, launch.block, launch.padded)
    part_D, part_bias = (None if x is None else room.channels() for x in (D, bias))
    with torch.cuda.device_of(u):
        if launch.segments > 1:
            ends, steps = room.states(launch.segments), room.channels()
            returns_kernel[launch.grid](*inputs, ends, steps, *strides, *launch.sizes, **constants)
            after = _carried(launch, ends, steps, rates, after, backwards=True)
        backward_kernel[launch.grid](
            *inputs, saved, after, starts, grad_u, grad_delta, grad_z, first, part_A, part_B, part_C, part_D, part_bias,
            *strides, *launch.sizes, **constants,
        )  # fmt: skip
    return (
        grad_u,
        grad_delta,
        part_A.sum((0, 1)).to(A.dtype),
        _summed(part_B, B),
        _summed(part_C, C),
        None if D is None else part_D.sum((0, 1)).to(D.dtype),
        grad_z,
        None if bias is None else part_bias.sum((0, 1)).to(bias.dtype),
        None if state is None else first.to(state.dtype).view(state.shape),
    )


@dataclass(frozen=True, slots=True)
class _Room:
    launch: Launch
    device: torch.device
    dtype: torch.dtype

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def states(self, *parts: int) -> Tensor:
        return self.empty(self.launch.batch, *parts, self.launch.channels, self.launch.size)

    def channels(self) -> Tensor:
        return self.empty(self.launch.batch, self.launch.segments, self.launch.channels)

    def coupling(self, x: Tensor) -> Tensor:
        """Return room for the parts of its gradient: of each segment, or of each block of channels."""
        if x.dim() == 2:
            return self.states(self.launch.segments)
        return self.empty(self.launch.batch, self.launch.length, self.launch.blocks, self.launch.size)


def _plain(A: Tensor, B: Tensor, C: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """Make contiguous what is read by index alone."""
    couplings = (x.contiguous() if x.dim() == 2 else x for x in (B, C))
    return (A.contiguous(), *couplings, *(None if x is None else x.contiguous() for x in others))


def _strides(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> tuple[int, ...]:
    couplings = [s for x in (B, C) for s in (x.stride()[:3] if x.dim() == 4 else (0, 0, 0))]
    return (*u.stride()[:2], *delta.stride()[:2], *(u if z is None else z).stride()[:2], *couplings)


def _summed(parts: Tensor, x: Tensor) -> Tensor:
    """Add up the parts of the gradient of x, which is B or C."""
    if x.dim() == 2:
        return parts.sum((0, 1)).to(x.dtype)
    batch, length, groups, size = x.shape
    return parts.view(batch, length, groups, -1, size).sum(3).to(x.dtype)


def _carried(
    launch: Launch, ends: Tensor, steps: Tensor, A: Tensor, state: Tensor | None, *, backwards: bool
) -> Tensor:
    """Turn what each segment adds into the state that enters it."""
    starts = torch.empty_like(ends)
    count = launch.channels * launch.size
    grid = (triton.cdiv(count, 128), launch.batch)
    carry_kernel[grid](
        ends, steps, A, state, starts, launch.segments, count, launch.size, BACKWARDS=backwards, CARRIED=CARRIED,
        BLOCK=128, num_warps=4,
    )  # fmt: skip
    return starts
