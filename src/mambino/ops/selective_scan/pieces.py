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
from torch import Tensor
from torch.nn.functional import pad

# Measured on two AVX-512 cores with 1 MiB of L2 each; twice or half as much costs some 10 %.
CHUNKS = 64  # side by side in a piece: the contiguous axis
LANES = 16  # they are a multiple of the widest vector of a processor
SHORT = 256  # tokens: a sequence below is one chunk
SHORTEST = 16  # tokens of a chunk, at least
LONG = 64  # tokens of a chunk from which on a sequence has more segments
SEGMENTS = 8  # of a sequence, at most
VECTOR = 1 << 15  # numbers that move on by one token together
BLOCK = 16  # tokens of a tile
LONE_BLOCK = 32  # the same for a sequence of one chunk

# Denormal numbers are many times slower (measured: a product 15 times, an exponential that gives one 200 times).
# A state without input decays to them and stays, so this much is added to every gain: far below its rounding,
# and its square is zero. A decay with an exponent lower than this is zero: what it leaves is far below the rest.
FLOOR = {torch.float32: 1e-25, torch.float64: 0.0}
LOWEST = {torch.float32: -60.0, torch.float64: -700.0}

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
        block: steps of a tile.
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
    block: int

    @classmethod
    def of(cls, shape: tuple[int, ...], size: int, groups: int) -> Self:
        """Choose a cut for a scan of `shape` [b d l]; channels of one slice share a group."""
        batch, channels, length = shape
        most = max(CHUNKS, min(4 * CHUNKS, VECTOR // (channels * size) // LANES * LANES))
        segments = max(1, min(SEGMENTS, length // (most * LONG)))
        chunks = 1 if length < SHORT else min(most, length // (segments * SHORTEST) // LANES * LANES)
        samples = batch if channels * size * chunks >= VECTOR else 1
        slices = groups
        worthwhile = batch * channels * size * length >= 1 << 21
        while worthwhile and samples * slices * segments < 4 and channels % (2 * slices) == 0:
            slices *= 2
        steps = math.ceil(length / (segments * chunks))
        block = LONE_BLOCK if chunks == 1 else BLOCK
        return cls(batch, channels, size, length, samples, slices, segments, chunks, steps, block)

    @property
    def chains(self) -> int:
        """Number of chunks in the whole sequence."""
        return self.segments * self.chunks

    @property
    def saved_shape(self) -> tuple[int, ...]:
        """Shape of the states that the gradient starts from: one before each tile."""
        blocks = math.ceil(self.steps / self.block)
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


Views = list[tuple[Tensor, ...]]  # of each block of steps, of each lane of channels


class Coupling:
    """How input enters the state, or state becomes output: B or C of the scan.

    Attributes:
        values: [t b 1 n k], or [1 1 d n 1] where they are constant.
        gradient: of the same shape.
        tiles, gradients: what a tile needs of them, by block and lane.
    """

    def __init__(self, values: Tensor, piece: "Piece", *, constant: bool) -> None:
        self._summed = (0, 1, 4) if constant else (2,)
        self.values, self.gradient = values, values.new_zeros(values.shape if piece.differentiated else 0)
        self.tiles = _coupling_tiles(values, piece, constant=constant)
        self.gradients = _coupling_tiles(self.gradient, piece, constant=constant) if piece.differentiated else []

    def add(self, x: Tensor, block: int, lane: int) -> None:
        """Add the products [t b d n k] of a tile to the gradient."""
        self.gradients[block][lane].add_(x.sum(self._summed, keepdim=True))


def _coupling_tiles(values: Tensor, piece: "Piece", *, constant: bool) -> Views:
    if constant:
        return [torch.split(values, piece.width, 2)] * piece.blocks
    return [(block,) * piece.lanes for block in torch.split(values, piece.cut.block)]


class Piece:
    """The inputs of one place, laid out [t b d k], and views of all its tiles.

    Attributes:
        differentiated: whether there is a gradient of y.
        width: channels of a lane.
        lanes, blocks: how many tiles there are, along the channels and along time.
        delta, du: step size, and step size times input, by block and lane: [t b d 1 k].
        grad: gradient of y in the same form; without use where it is not differentiated.
        rates: A by lane, [d n 1].
        steep: whether exponents delta A come below `lowest`.
        B, C: the couplings.
    """

    def __init__(self, place: Place, cut: Cut, inputs: tuple[Tensor, ...], grad: Tensor | None = None) -> None:
        u, delta, A, B, C = inputs
        self.place, self.cut, self.differentiated = place, cut, grad is not None
        rows, channels = place.batch, place.channels
        whole = self._laid_out(delta[rows, channels])
        self._shape = whole.shape
        batch, width = whole.shape[1:3]
        most = max(1, VECTOR // (batch * cut.size * cut.chunks))
        self.width = math.ceil(width / math.ceil(width / most))
        self.lanes, self.blocks = math.ceil(width / self.width), math.ceil(cut.steps / cut.block)
        self.delta, self.du = self.tiles(whole), self.tiles(self._laid_out(u[rows, channels]).mul_(whole))
        self.grad = self.delta if grad is None else self.tiles(self._laid_out(grad[rows, channels]))
        self.rates = torch.split(A[channels, :, None], self.width)
        self.lowest = LOWEST[A.dtype]
        self.steep = float(whole.amax()) * float(A[channels].amin()) < self.lowest
        # What is left of a state after each whole chunk, [b d n k].
        self.decay = self.decayed((whole.sum(0)[:, :, None] * A[channels, :, None]), steep=True)
        self.B, self.C = self._coupling(B), self._coupling(C)

    def decayed(self, exponents: Tensor, *, steep: bool) -> Tensor:
        """Turn exponents into decays, in place."""
        if not steep:
            return exponents.exp_()
        return torch.threshold_(exponents.clamp_(min=self.lowest).exp_(), 2 * math.exp(self.lowest), 0.0)

    def tiles(self, x: Tensor) -> Views:
        """Return views [t b d 1 k] of something laid out [t b d k]."""
        return [torch.split(block, self.width, 2) for block in torch.split(x.unsqueeze(3), self.cut.block)]

    def empty(self) -> Tensor:
        """Return room for a result [t b d k]."""
        return self.rates[0].new_empty(self._shape)

    def chain(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return this piece's part of something known of each chunk, by lane: [b d n k] of [s b d n k]."""
        return torch.split(x[self.place.segment, self.place.batch, self.place.channels], self.width, 1)

    def part(self, state: Tensor) -> tuple[Tensor, ...]:
        """Return this piece's part of a state [b d n], by lane."""
        return torch.split(state[self.place.batch, self.place.channels], self.width, 1)

    def write(self, x: Tensor, out: Tensor) -> None:
        """Write a result [t b d k] to its place in a sequence [b d l]."""
        self._segment(out[self.place.batch, self.place.channels])[...] = self._in_sequence(x, out.shape[-1])

    def add_coupling(self, coupling: Coupling, out: Tensor) -> None:
        """Add the gradient of a coupling to its place in `out`, [d n] or [b g n l]."""
        if out.dim() == 2:
            out[self.place.channels] += coupling.gradient[0, 0, :, :, 0]
        else:
            group = self._segment(out[self.place.batch, self._group(out)])
            group += self._in_sequence(coupling.gradient[:, :, 0], out.shape[-1])

    def _coupling(self, m: Tensor) -> Coupling:
        if m.dim() == 2:
            return Coupling(m[self.place.channels][None, None, :, :, None], self, constant=True)
        return Coupling(self._laid_out(m[self.place.batch, self._group(m)])[:, :, None], self, constant=False)

    def _group(self, m: Tensor) -> int:
        first: int = self.place.channels.start
        return first * m.shape[1] // self.cut.channels

    def _segment(self, x: Tensor) -> Tensor:
        tokens = self.cut.chunks * self.cut.steps
        return x[..., self.place.segment * tokens : (self.place.segment + 1) * tokens]

    def _laid_out(self, x: Tensor) -> Tensor:
        """Cut this segment out of [b c l] and lay it out [t b c k]."""
        x = self._segment(x)
        tokens = self.cut.chunks * self.cut.steps
        if x.shape[-1] < tokens:
            x = pad(x, (0, tokens - x.shape[-1]))
        rows, width = x.shape[:2]
        # Two axes are all that torch transposes block by block.
        x = x.reshape(-1, self.cut.steps).t().clone(memory_format=torch.contiguous_format)
        return x.view(self.cut.steps, rows, width, self.cut.chunks)

    def _in_sequence(self, x: Tensor, length: int) -> Tensor:
        """Turn [t b c k] back to the tokens of this segment that exist, [b c l]."""
        tokens = self.cut.chunks * self.cut.steps
        rows, width = x.shape[1:3]
        x = x.reshape(self.cut.steps, -1).t().reshape(rows, width, tokens)
        return x[..., : max(length - self.place.segment * tokens, 0)]


class Room:
    """Memory for the tiles of a piece, made once and used for all of them.

    Args:
        piece: whose tiles.
        count: how many tiles are needed at once.
    """

    def __init__(self, piece: Piece, count: int) -> None:
        self.piece = piece
        self._state = (piece.place.batch.stop - piece.place.batch.start, piece.cut.size, piece.cut.chunks)
        largest = math.prod(self._state) * piece.width * (piece.cut.block + 1)
        like = piece.rates[0]
        self._memory = [like.new_empty(largest) for _ in range(count)]
        self._floor = like.new_tensor(FLOOR[like.dtype])
        self._tiles: dict[tuple[int, int, int], Tile] = {}

    def decay(self, index: int, block: int, lane: int) -> Tile:
        """Compute exp(delta A) in tile `index`."""
        delta = self.piece.delta[block][lane]
        tile, steps = self._tile(index, delta.shape[0], delta.shape[2])
        torch.mul(delta, self.piece.rates[lane], out=tile)
        return self.piece.decayed(tile, steep=self.piece.steep), steps

    def gain(self, index: int, x: Tensor, coupling: Tensor, *, before: int = 0) -> Tile:
        """Compute x times a coupling in tile `index`, leaving room for `before` steps before it."""
        tile, steps = self._tile(index, x.shape[0] + before, x.shape[2])
        torch.addcmul(self._floor, x, coupling, out=tile[before:] if before else tile)
        return tile, steps

    def _tile(self, index: int, steps: int, width: int) -> Tile:
        key = (index, steps, width)
        if key not in self._tiles:
            batch, size, chunks = self._state
            shape = (steps, batch, width, size, chunks)
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
