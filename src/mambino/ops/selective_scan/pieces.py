"""How a scan is cut into pieces that threads work on, and tiles that stay in the cache."""

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on two AVX-512 cores with 1 MiB of L2 each; twice or half as much costs some 10 %.
CHUNKS = 64  # side by side in a piece: the contiguous axis
SEGMENTS = 8  # of a sequence, at most
SHORTEST = 16  # tokens of a chunk, at least
VECTOR = 1 << 14  # numbers that move on by one token together
BLOCK = 8  # tokens of a tile

# A state that decays towards zero ends in denormal numbers, on which processors are many times slower.
# This much is added to every gain: far below its rounding, and enough to stay above them.
FLOOR = {torch.float32: 1e-25, torch.float64: 0.0}

T = TypeVar("T")
R = TypeVar("R")
Tile = tuple[Tensor, tuple[Tensor, ...]]  # [t b d n k], and its steps


@dataclass(frozen=True, slots=True)
class Place:
    """What a piece covers: some samples, some channels, one segment of the sequence."""

    batch: slice
    channels: slice
    segment: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How a scan is cut up. It follows from the shapes alone, so that results do not depend on threads.

    Attributes:
        batch, channels, size, length: b, d, n and l of the scan.
        samples, slices: parts of the batch and of the channels.
        segments, chunks, steps: the sequence is `segments` of `chunks` of `steps` tokens, padded at the end.
    """

    batch: int
    channels: int
    size: int
    length: int
    samples: int
    slices: int
    segments: int
    chunks: int
    steps: int

    @classmethod
    def of(cls, shape: tuple[int, ...], size: int, groups: int) -> Self:
        """Choose a cut for a scan of `shape` [b d l]; channels of one slice share a group."""
        batch, channels, length = shape
        segments = max(1, min(SEGMENTS, length // (CHUNKS * 2 * SHORTEST)))
        chunks = max(1, min(CHUNKS, length // (segments * SHORTEST)))
        samples = batch if channels * size * chunks >= VECTOR else 1
        slices = groups
        worthwhile = batch * channels * size * length >= 1 << 21
        while worthwhile and samples * slices * segments < 4 and channels % (2 * slices) == 0:
            slices *= 2
        steps = math.ceil(length / (segments * chunks))
        return cls(batch, channels, size, length, samples, slices, segments, chunks, steps)

    @property
    def chains(self) -> int:
        """Number of chunks in the whole sequence."""
        return self.segments * self.chunks

    @property
    def saved_shape(self) -> tuple[int, ...]:
        """Shape of the states that the gradient starts from: one before each tile."""
        blocks = math.ceil(self.steps / BLOCK)
        return (self.segments, blocks, self.batch, self.channels, self.size, self.chunks)

    @property
    def places(self) -> tuple[Place, ...]:
        """All pieces."""
        rows, width = self.batch // self.samples, self.channels // self.slices
        return tuple(
            Place(slice(b, b + rows), slice(c, c + width), segment)
            for b in range(0, self.batch, rows)
            for c in range(0, self.channels, width)
            for segment in range(self.segments)
        )


@dataclass(frozen=True, slots=True)
class Coupling:
    """How input enters the state, or state becomes output: B or C of the scan.

    Attributes:
        values: [t b 1 n k], or [1 1 d n 1] where they are constant.
        constant: whether they are.
    """

    values: Tensor
    constant: bool

    def of(self, time: slice, lane: slice) -> Tensor:
        """Return what a tile needs."""
        return self.values[:, :, lane] if self.constant else self.values[time]

    def add(self, total: Tensor, x: Tensor, time: slice, lane: slice) -> None:
        """Add the products of a tile to a gradient of the shape of `values`."""
        if self.constant:
            total[0, 0, lane, :, 0] += x.sum((0, 1, 4))
        else:
            total[time] += x.sum(2, keepdim=True)


class Piece:
    """The inputs of one place, laid out [t b d k].

    Attributes:
        delta, du: step size, and step size times input.
        grad: gradient of y, where there is one.
        A: [d n].
        B, C: the couplings.
    """

    def __init__(
        self, place: Place, cut: Cut, inputs: tuple[Tensor, ...], grad: Tensor | None = None
    ) -> None:
        u, delta, A, B, C = inputs
        self.place, self.cut = place, cut
        rows, channels = place.batch, place.channels
        self.delta = self._laid_out(delta[rows, channels])
        self.du = self._laid_out(u[rows, channels]).mul_(self.delta)
        self.grad = self.delta if grad is None else self._laid_out(grad[rows, channels])
        self.A = A[channels]
        self.B, self.C = self._coupling(B), self._coupling(C)
        batch, width = self.delta.shape[1:3]
        most = max(1, VECTOR // (batch * cut.size * cut.chunks))
        self.width = math.ceil(width / math.ceil(width / most))

    @property
    def lanes(self) -> list[slice]:
        """Channels of each tile, counted from the first of the piece."""
        last = self.delta.shape[2]
        return [slice(i, min(i + self.width, last)) for i in range(0, last, self.width)]

    @property
    def blocks(self) -> list[slice]:
        """Steps of each tile."""
        return [slice(i, min(i + BLOCK, self.cut.steps)) for i in range(0, self.cut.steps, BLOCK)]

    def absolute(self, lane: slice) -> slice:
        """Return a lane counted from the first channel of the scan."""
        first = self.place.channels.start
        return slice(first + lane.start, first + lane.stop)

    def state_shape(self, lane: slice) -> tuple[int, int, int, int]:
        """Return the shape [b d n k] of the states of a tile."""
        return self.delta.shape[1], lane.stop - lane.start, self.cut.size, self.cut.chunks

    def start(self, starts: Tensor, lane: slice, *, backwards: bool = False) -> Tensor:
        """Return the state before each chunk (after it, if backwards), [b d n k], from those of all chunks."""
        first = self.place.segment * self.cut.chunks
        if backwards:
            starts = starts[: self.cut.chains].flip(0)
        starts = starts[first : first + self.cut.chunks, self.place.batch, self.absolute(lane)]
        return starts.movedim(0, -1).clone(memory_format=torch.contiguous_format)

    def total(self) -> Tensor:
        """Return the decay over each whole chunk, [b d n k]."""
        return (self.delta.sum(0)[:, :, None] * self.A[:, :, None]).exp_()

    def weighted(self, tile: Tensor, lane: slice) -> Tensor:
        """Sum a tile over n, weighted by A: [t b d k]."""
        steps, batch, width, size, chunks = tile.shape
        rates = self.A[lane].expand(steps * batch, width, size).reshape(-1, 1, size)
        return torch.bmm(rates, tile.view(-1, size, chunks)).view(steps, batch, width, chunks)

    def write(self, x: Tensor, out: Tensor) -> None:
        """Write a result [t b d k] to its place in a sequence [b d l]."""
        self._segment(out[self.place.batch, self.place.channels])[...] = self._in_sequence(x, out.shape[-1])

    def add_coupling(self, x: Tensor, out: Tensor) -> None:
        """Add the gradient of a coupling to its place in `out`, [d n] or [b g n l]."""
        if out.dim() == 2:
            out[self.place.channels] += x[0, 0, :, :, 0]
        else:
            group = out[self.place.batch, self._group(out)]
            self._segment(group)[...] += self._in_sequence(x[:, :, 0], out.shape[-1])

    def _coupling(self, m: Tensor) -> Coupling:
        if m.dim() == 2:
            return Coupling(m[self.place.channels][None, None, :, :, None], constant=True)
        return Coupling(self._laid_out(m[self.place.batch, self._group(m)])[:, :, None], constant=False)

    def _group(self, m: Tensor) -> int:
        return self.place.channels.start * m.shape[1] // self.cut.channels

    def _segment(self, x: Tensor) -> Tensor:
        tokens = self.cut.chunks * self.cut.steps
        return x[..., self.place.segment * tokens : (self.place.segment + 1) * tokens]

    def _laid_out(self, x: Tensor) -> Tensor:
        """Cut this segment out of [b c l] and lay it out [t b c k]."""
        x = self._segment(x)
        tokens = self.cut.chunks * self.cut.steps
        if x.shape[-1] < tokens:
            x = F.pad(x, (0, tokens - x.shape[-1]))
        rows, width = x.shape[:2]
        x = x.reshape(-1, self.cut.steps).t().clone(memory_format=torch.contiguous_format)
        return x.view(self.cut.steps, rows, width, self.cut.chunks)

    def _in_sequence(self, x: Tensor, length: int) -> Tensor:
        """Turn [t b c k] back to the tokens of this segment that exist, [b c l]."""
        tokens = self.cut.chunks * self.cut.steps
        x = x.permute(1, 2, 3, 0).reshape(*x.shape[1:3], tokens)
        return x[..., : max(length - self.place.segment * tokens, 0)]


class Room:
    """Memory for the tiles of a piece, made once and used for all of them.

    Args:
        piece: whose tiles.
        count: how many tiles are needed at once.
    """

    def __init__(self, piece: Piece, count: int) -> None:
        self.piece = piece
        state = math.prod(piece.state_shape(slice(0, piece.width)))
        self._memory = [piece.A.new_empty((BLOCK + 1) * state) for _ in range(count)]
        self._floor = piece.A.new_tensor(FLOOR[piece.A.dtype])
        self._tiles: dict[tuple[int, int, int], Tile] = {}

    def decay(self, index: int, time: slice, lane: slice) -> Tile:
        """Compute exp(delta A) in tile `index`."""
        tile, steps = self._tile(index, time.stop - time.start, lane)
        torch.mul(self.piece.delta[time, :, lane, None], self.piece.A[lane, :, None], out=tile)
        return tile.exp_(), steps

    def gain(self, index: int, x: Tensor, coupling: Coupling, time: slice, lane: slice, *, before: int = 0) -> Tile:
        """Compute x times a coupling in tile `index`, leaving room for `before` steps before it."""
        tile, steps = self._tile(index, time.stop - time.start + before, lane)
        torch.addcmul(self._floor, x[time, :, lane, None], coupling.of(time, lane), out=tile[before:])
        return tile, steps

    def _tile(self, index: int, steps: int, lane: slice) -> Tile:
        key = (index, steps, lane.stop - lane.start)
        if key not in self._tiles:
            shape = (steps, *self.piece.state_shape(lane))
            tile = self._memory[index][: math.prod(shape)].view(shape)
            self._tiles[key] = tile, tile.unbind()
        return self._tiles[key]


def run(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Call `work` for every item, on as many threads as torch may use; return the results in order."""
    items = list(items)
    threads = min(torch.get_num_threads(), len(items))
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def quietly(item: T) -> R:
        with mode():
            return work(item)

    if threads == 1:
        return [quietly(item) for item in items]
    return list(_threads(threads, os.getpid()).map(quietly, items))


@cache
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Return threads in which torch keeps to one core, since the others work on other pieces.

    `process` is in the key because threads do not survive a fork.
    """
    whole = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "selective-scan", initializer=torch.set_num_threads, initargs=(1,))
    all_there = threading.Barrier(count)
    list(pool.map(lambda _: all_there.wait(), range(count)))
    torch.set_num_threads(whole)  # what a thread sets for itself is also what later threads start with
    return pool
