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
    starts = state[None]
    if cut.chains > 1:
        starts = _chained(cut, pieces, state, _gains, backwards=False)
    saved, y, last = A.new_empty(cut.saved_shape if keep else 0), u.new_empty(u.shape), state.new_empty(state.shape)
    run(lambda piece: _outputs(piece, starts, saved, y, last), pieces)
    return y, last, saved


def scan_backward(
    grad: Tensor, grad_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B, C and the first state; `saved` is from `scan`."""
    cut = cut_of(u, A, B, C)
    pieces = run(lambda place: Piece(place, cut, (u, delta, A, B, C), grad), cut.places)
    starts = grad_last[None]
    if cut.chains > 1:
        starts = _chained(cut, pieces, grad_last, _gains_back, backwards=True)
    grad_du, grad_delta, first = (x.new_empty(x.shape) for x in (u, u, grad_last))
    grad_A, grad_B, grad_C = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
    parts = run(lambda piece: _gradients(piece, starts, saved, (grad_du, grad_delta, first)), pieces)
    for piece, (a, b, c) in zip(pieces, parts, strict=True):
        grad_A[piece.place.channels] += a
        piece.add_coupling(b, grad_B)
        piece.add_coupling(c, grad_C)
    return grad_du * delta, grad_delta.addcmul_(grad_du, u), grad_A, grad_B, grad_C, first


def cut_of(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Cut:
    """Return how a scan of these inputs is cut up."""
    groups = math.lcm(*(m.shape[1] if m.dim() == 4 else 1 for m in (B, C)))
    return Cut.of(tuple(u.shape), A.shape[1], groups)


def _chained(
    cut: Cut, pieces: list[Piece], state: Tensor, gains: Callable[[Piece, Tensor], None], *, backwards: bool
) -> Tensor:
    """Carry the state from chunk to chunk; return it before each, and after the last: [k+1 b d n].

    Backwards, chunks are taken last first.
    """
    decay, gain = state.new_empty(2, cut.segments, cut.chunks, *state.shape)

    def summarise(piece: Piece) -> None:
        place = piece.place
        decay[place.segment, :, place.batch, place.channels] = piece.total().movedim(-1, 0)
        gains(piece, gain)

    run(summarise, pieces)
    starts = state.new_empty(cut.chains + 1, *state.shape)
    starts[0] = state
    order = slice(None, None, -1 if backwards else 1)
    before, *others = starts.unbind()
    steps = zip(decay.flatten(0, 1).unbind()[order], gain.flatten(0, 1).unbind()[order], others, strict=True)
    for a, x, here in steps:
        before = torch.addcmul(x, a, before, out=here)
    return starts


def _gains(piece: Piece, ends: Tensor) -> None:
    """Find the state at the end of each chunk that starts from zero."""
    place, room = piece.place, Room(piece, 2)
    for lane in piece.lanes:
        h = piece.A.new_zeros(piece.state_shape(lane))
        for time in piece.blocks:
            _, decays = room.decay(0, time, lane)
            _, gains = room.gain(1, piece.du, piece.B, time, lane)
            for decay, gain in zip(decays, gains, strict=True):
                torch.addcmul(gain, decay, h, out=h)
        ends[place.segment, :, place.batch, piece.absolute(lane)] = h.movedim(-1, 0)


def _gains_back(piece: Piece, ends: Tensor) -> None:
    """Find the gradient that leaves the beginning of each chunk when none enters its end."""
    place, room = piece.place, Room(piece, 2)
    for lane in piece.lanes:
        w = piece.A.new_zeros(piece.state_shape(lane))
        for time in reversed(piece.blocks):
            _, decays = room.decay(0, time, lane)
            _, gains = room.gain(1, piece.grad, piece.C, time, lane)
            torch.mul(decays[0], _step_back(gains, decays, w), out=w)
        ends[place.segment, :, place.batch, piece.absolute(lane)] = w.movedim(-1, 0)


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
    place, room, out = piece.place, Room(piece, 2), torch.empty_like(piece.delta)
    for lane in piece.lanes:
        h = piece.start(starts, lane)
        channels = piece.absolute(lane)
        for j, time in enumerate(piece.blocks):
            if saved.numel():
                saved[place.segment, j, place.batch, channels] = h
            _, decays = room.decay(0, time, lane)
            states, steps = room.gain(1, piece.du, piece.B, time, lane)
            before = h
            for decay, step in zip(decays, steps, strict=True):
                before = step.addcmul_(decay, before)
            h.copy_(before)
            torch.sum(states.mul_(piece.C.of(time, lane)), 3, out=out[time, :, lane])
        if place.segment == piece.cut.segments - 1:
            last[place.batch, channels] = h[..., -1]
    piece.write(out, y)


def _gradients(
    piece: Piece, starts: Tensor, saved: Tensor, out: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the states again, tile by tile from the last, and run the gradients back through them.

    Writes the gradients of delta u, delta (but for its share in delta u) and the first state to `out`;
    returns those of A, B and C.
    """
    place, room = piece.place, Room(piece, 3)
    grad_du, grad_delta = torch.empty_like(piece.delta), torch.empty_like(piece.delta)
    grad_A, grad_B, grad_C = (torch.zeros_like(x) for x in (piece.A, piece.B.values, piece.C.values))
    for lane in piece.lanes:
        w = piece.start(starts, lane, backwards=True)
        channels = piece.absolute(lane)
        for j, time in reversed(list(enumerate(piece.blocks))):
            decay, decays = room.decay(0, time, lane)
            states, steps = room.gain(1, piece.du, piece.B, time, lane, before=1)
            before = steps[0].copy_(saved[place.segment, j, place.batch, channels])
            for a, step in zip(decays, steps[1:], strict=True):
                before = step.addcmul_(a, before)
            g, gains = room.gain(2, piece.grad, piece.C, time, lane)
            _step_back(gains, decays, w)
            w.copy_(decays[0]).mul_(gains[0])
            decay.mul_(g).mul_(states[:-1])  # now the gradient of delta A
            grad_delta[time, :, lane] = piece.weighted(decay, lane)
            grad_A[lane] += decay.mul_(piece.delta[time, :, lane, None]).sum((0, 1, 4))
            piece.B.add(grad_B, torch.mul(g, piece.du[time, :, lane, None], out=decay), time, lane)
            piece.C.add(grad_C, states[1:].mul_(piece.grad[time, :, lane, None]), time, lane)
            torch.sum(g.mul_(piece.B.of(time, lane)), 3, out=grad_du[time, :, lane])
        if place.segment == 0:
            out[2][place.batch, channels] = w[..., 0]
    piece.write(grad_du, out[0])
    piece.write(grad_delta, out[1])
    return grad_A, grad_B, grad_C

