"""The selective scan in plain torch, vectorised over chunks of the sequence.

The sequence is cut into chunks of equal length that step through time side by side, so that one torch
call moves all of them on by one token. Starting every chunk from zero gives what it adds to the state;
this is carried from chunk to chunk, and a second pass then starts each chunk where the one before it
ended. Tensors are laid out [t b d n k], time slowest and chunk fastest, so that every product runs over
contiguous memory, and a tile of a few steps and channels stays in the cache. Nothing of size [b d l n]
ever exists.

Only decays exp(delta A) <= 1 are multiplied, never divided by, so no step size overflows. The popular
form that divides by cumulative decays gives NaN from steps of 0.1 on.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mambino.ops.selective_scan.pieces import Cut, Piece, Room, run


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, *, keep: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [b d l], the last state [b d n], and the states that the gradient starts from (if `keep`).

    All inputs have one floating type; B and C are [d n] or [b g n l].
    """
    cut = cut_of(u, A, B, C)
    pieces = run(lambda place: Piece(place, cut, (u, delta, A, B, C)), cut.places)
    starts = _starts(cut, pieces, state, _gains) if cut.chains > 1 else state[None, ..., None]
    saved, y, last = A.new_empty(cut.saved_shape if keep else 0), u.new_empty(u.shape), state.new_empty(state.shape)
    run(lambda piece: _outputs(piece, starts, saved, y, last), pieces)
    return y, last, saved


def scan_backward(
    grad: Tensor, grad_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B, C and the first state; `saved` is from `scan`."""
    cut = cut_of(u, A, B, C)
    pieces = run(lambda place: Piece(place, cut, (u, delta, A, B, C), grad), cut.places)
    starts = grad_last[None, ..., None]
    if cut.chains > 1:
        starts = _starts(cut, pieces, grad_last, _gains_back, backwards=True)
    grad_du, grad_delta, first = (x.new_empty(x.shape) for x in (u, u, grad_last))
    parts = run(lambda piece: _gradients(piece, starts, saved, (grad_du, grad_delta, first)), pieces)
    grad_A, grad_B, grad_C = torch.zeros_like(A), B.new_zeros(B.shape), C.new_zeros(C.shape)
    for piece, part in zip(pieces, parts, strict=True):
        grad_A[piece.place.channels] += part
        piece.add_coupling(piece.B, grad_B)
        piece.add_coupling(piece.C, grad_C)
    return grad_du * delta, grad_delta.addcmul_(grad_du, u), grad_A, grad_B, grad_C, first


def cut_of(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Cut:
    """Return how a scan of these inputs is cut up."""
    groups = math.lcm(*(m.shape[1] if m.dim() == 4 else 1 for m in (B, C)))
    return Cut.of(tuple(u.shape), A.shape[1], groups)


def _starts(
    cut: Cut, pieces: list[Piece], state: Tensor, gains: Callable[[Piece, Tensor], None], *, backwards: bool = False
) -> Tensor:
    """Carry the state from chunk to chunk; return the one before each (after each, if backwards): [s b d n k]."""
    ends = state.new_empty(cut.segments, *state.shape, cut.chunks)
    run(lambda piece: gains(piece, ends), pieces)
    decays = torch.empty_like(ends)
    for piece in pieces:
        decays[piece.place.segment, piece.place.batch, piece.place.channels] = piece.decay
    rows = state.new_empty(cut.chunks + 1, state.numel())
    order = slice(None, None, -1 if backwards else 1)
    before, *after = rows.unbind()
    before.copy_(state.flatten())
    for segment in range(cut.segments)[order]:
        gain, decay = (x[segment].view(-1, cut.chunks).t().contiguous().unbind()[order] for x in (ends, decays))
        h = before
        for x, a, here in zip(gain, decay, after, strict=True):
            h = torch.addcmul(x, a, h, out=here)
        entered = rows[:-1].flip(0) if backwards else rows[:-1]
        ends[segment].view(-1, cut.chunks).copy_(entered.t())
        before.copy_(h)
    return ends


def _gains(piece: Piece, ends: Tensor) -> None:
    """Find the state at the end of each chunk that starts from zero."""
    room = Room(piece, 2)
    for lane, end in enumerate(piece.chain(ends)):
        h = torch.zeros_like(end, memory_format=torch.contiguous_format)
        for block in range(piece.blocks):
            _, decays = room.decay(0, block, lane)
            _, gains = room.gain(1, piece.du[block][lane], piece.B.tiles[block][lane])
            for decay, gain in zip(decays, gains, strict=True):
                torch.addcmul(gain, decay, h, out=h)
        end.copy_(h)


def _gains_back(piece: Piece, ends: Tensor) -> None:
    """Find the gradient that leaves the beginning of each chunk when none enters its end."""
    room = Room(piece, 2)
    for lane, end in enumerate(piece.chain(ends)):
        w = torch.zeros_like(end, memory_format=torch.contiguous_format)
        for block in reversed(range(piece.blocks)):
            _, decays = room.decay(0, block, lane)
            _, gains = room.gain(1, piece.grad[block][lane], piece.C.tiles[block][lane])
            torch.mul(decays[0], _step_back(gains, decays, w), out=w)
        end.copy_(w)


def _step_back(gains: tuple[Tensor, ...], decays: tuple[Tensor, ...], w: Tensor) -> Tensor:
    """Turn gains into gradients of the state in place, last step first; return that of the first step.

    w is what comes back through the decay of the step after the last.
    """
    g = gains[-1].add_(w)
    for gain, decay in zip(gains[-2::-1], decays[:0:-1], strict=True):
        g = gain.addcmul_(decay, g)
    return g


def _outputs(piece: Piece, starts: Tensor, saved: Tensor, y: Tensor, last: Tensor) -> None:
    """Run the chunks of a piece from their first states."""
    room, whole = Room(piece, 2), piece.empty()
    out, ends = piece.tiles(whole), piece.part(last)
    kept = [piece.chain(x) for x in saved.unbind(1)] if saved.numel() else []
    for lane, start in enumerate(piece.chain(starts)):
        h = start.clone(memory_format=torch.contiguous_format)
        for block in range(piece.blocks):
            if kept:
                kept[block][lane].copy_(h)
            _, decays = room.decay(0, block, lane)
            states, steps = room.gain(1, piece.du[block][lane], piece.B.tiles[block][lane])
            before = h
            for decay, step in zip(decays, steps, strict=True):
                before = step.addcmul_(decay, before)
            h.copy_(before)
            torch.sum(states.mul_(piece.C.tiles[block][lane]), 3, keepdim=True, out=out[block][lane])
        if piece.place.segment == piece.cut.segments - 1:
            ends[lane].copy_(h[..., -1])
    piece.write(whole, y)


def _gradients(piece: Piece, starts: Tensor, saved: Tensor, out: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Compute the states again, tile by tile from the last, and run the gradients back through them.

    Writes the gradients of delta u, delta (but for its share in delta u) and the first state to `out`, leaves
    those of B and C in the piece, returns that of A.
    """
    room, kept = Room(piece, 3), [piece.chain(x) for x in saved.unbind(1)]
    wholes = piece.empty(), piece.empty()
    grad_du, grad_delta, firsts = piece.tiles(wholes[0]), piece.tiles(wholes[1]), piece.part(out[2])
    grad_rates = [torch.zeros_like(rates) for rates in piece.rates]
    for lane, start in enumerate(piece.chain(starts)):
        w = start.clone(memory_format=torch.contiguous_format)
        for block in reversed(range(piece.blocks)):
            delta, du, grad = (x[block][lane] for x in (piece.delta, piece.du, piece.grad))
            enter, leave = piece.B.tiles[block][lane], piece.C.tiles[block][lane]
            decay, decays = room.decay(0, block, lane)
            states, steps = room.gain(1, du, enter, before=1)
            before = steps[0].copy_(kept[block][lane])
            for a, step in zip(decays, steps[1:], strict=True):
                before = step.addcmul_(a, before)
            g, gains = room.gain(2, grad, leave)
            _step_back(gains, decays, w)
            torch.mul(decays[0], gains[0], out=w)
            decay.mul_(g).mul_(states[:-1])  # now the gradient of delta A
            grad_delta[block][lane].copy_(_weighted(decay, piece.rates[lane]))
            grad_rates[lane] += decay.mul_(delta).sum((0, 1, 4))[..., None]
            piece.B.add(torch.mul(g, du, out=decay), block, lane)
            piece.C.add(states[1:].mul_(grad), block, lane)
            torch.sum(g.mul_(enter), 3, keepdim=True, out=grad_du[block][lane])
        if piece.place.segment == 0:
            firsts[lane].copy_(w[..., 0])
    for whole, target in zip(wholes, out[:2], strict=True):
        piece.write(whole, target)
    return torch.cat(grad_rates)[..., 0]


def _weighted(tile: Tensor, rates: Tensor) -> Tensor:
    """Sum a tile over n, weighted by A: [t b d 1 k]."""
    steps, batch, width, size, chunks = tile.shape
    rows = rates.view(width, 1, size).expand(steps * batch, width, 1, size).reshape(-1, 1, size)
    return torch.bmm(rows, tile.view(-1, size, chunks)).view(steps, batch, width, 1, chunks)
