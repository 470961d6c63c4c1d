"""The kernels of the selective scan on GPUs; triton.py says how they work together, and is all that calls them."""

import math

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))
STAGES = tl.constexpr(3)
"""Tiles that are on their way or worked on at the same time, in the forward pass."""


@triton.jit
def _softplus(x, WIDE: tl.constexpr):
    """Compute log(1 + exp(x)), linear above 20, as precise for steps near 0 as log1p."""
    # log(1 + e) = 2 artanh(e / (2 + e)), and e / (2 + e) <= 1/3: each term of the series adds a digit.
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    squared = s * s
    terms: tl.constexpr = 17 if WIDE == tl.float64 else 8
    series = tl.zeros_like(x) + 1 / (2 * terms - 1)
    for k in tl.static_range(terms - 1):
        series = series * squared + 1 / (2 * (terms - k) - 3)
    return tl.where(x > 20, x, tl.maximum(x, 0) + 2 * s * series)


@triton.jit
def _step(delta, shift, live, softplus: tl.constexpr, WIDE: tl.constexpr):
    """Load a step size. Return it before softplus, and after: zero, which leaves a state as it is, where none lives."""
    raw = tl.load(delta, mask=live, other=0).to(WIDE) + shift
    dt = _softplus(raw, WIDE) if softplus else raw
    return raw, tl.where(live, dt, 0)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _place(d, size, groups, BLOCK: tl.constexpr, N: tl.constexpr):
    """Return which channels and states a program has, whether they exist, and their group."""
    width = d // groups
    per = tl.cdiv(width, BLOCK)
    group = tl.program_id(0) // per
    c = (tl.program_id(0) % per) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    return group * width + c, n, c < width, n < size, group


@triton.jit
def _vector(x, c, own, WIDE: tl.constexpr):
    """Load a number of each channel, zero where there are none."""
    return tl.zeros(c.shape, WIDE) if x is None else tl.load(x + c, mask=own, other=0).to(WIDE)


@triton.jit
def _coupling(x, row, at, there, n, CONSTANT: tl.constexpr, WIDE: tl.constexpr):
    """Return B or C where it is constant, else where it is found at the first token."""
    return tl.load(x + at, mask=there, other=0).to(WIDE) if CONSTANT else x + row + n


@triton.jit
def _now(x, shift, live, CONSTANT: tl.constexpr, AXIS: tl.constexpr, WIDE: tl.constexpr):
    """Return B or C at one token, with an axis for the channels."""
    return x if CONSTANT else tl.expand_dims(tl.load(x + shift, mask=live, other=0).to(WIDE), AXIS)


@triton.jit
def _last(x, k, TILE: tl.constexpr, WIDE: tl.constexpr):
    """Return the last of the first axis, whoever has it; as bits, since a sum with zeros in registers costs nothing."""
    bits = x.to(tl.int64 if WIDE == tl.float64 else tl.int32, bitcast=True)
    return tl.xor_sum(tl.where(k[:, None, None] == TILE - 1, bits, 0), 0).to(WIDE, bitcast=True)


@triton.jit
def _joined(decay, gain, next_decay, next_gain):
    """Join two stretches of a recurrence: what becomes of a state is decay * state + gain."""
    return decay * next_decay, next_decay * gain + next_gain


@triton.jit
def _tile(x, of_b, of_t, sample, token, column, live, WIDE: tl.constexpr):
    """Load some columns of a tile of tokens, zero where none live."""
    return tl.load(x + sample * of_b + token * of_t + column, mask=live, other=0).to(WIDE)


@triton.jit(do_not_specialize=["one"])
def forward_kernel(
    u, delta, A, B, C, D, z, bias, start, y, last, saved, ends, steps,
    u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g,
    length, d, size, groups, B_share, C_share, chunks, one,
    OUTPUT: tl.constexpr, softplus: tl.constexpr, B_constant: tl.constexpr, C_constant: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Take one segment from `start`, or from zero, to `y`, `saved` and `last`, or to `ends` and `steps`."""
    c, n, own, valid, group = _place(d, size, groups, BLOCK, N)
    segment, sample = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    here, pieces = sample * tl.num_programs(1) + segment, tl.cdiv(length, CHUNK)
    at, there = c[None, :] * size + n[:, None] * one, own[None, :] & valid[:, None]
    rates = tl.load(A + at, mask=there, other=0).to(WIDE) * LOG2E
    shift, passage = _vector(bias, c, own, WIDE), _vector(D, c, own, WIDE)
    if B_constant:
        enter = tl.load(B + at, mask=there, other=0).to(WIDE)[None, :, :]
    if C_constant:
        leave = tl.load(C + at, mask=there, other=0).to(WIDE)[None, :, :]
    h = tl.zeros([N, BLOCK], WIDE)
    if start is not None:
        h = tl.load(start + here * d * size + at, mask=there, other=0).to(WIDE)
    total = tl.zeros([BLOCK], WIDE)
    k, begin = tl.arange(0, TILE), segment * chunks * CHUNK
    count = tl.cdiv(tl.minimum(length - begin, chunks * CHUNK), TILE).to(tl.int32)
    for i in tl.range(0, count, num_stages=STAGES):
        token = (begin + i * TILE + k)[:, None]
        live = own[None, :] & (token < length)
        now = valid[None, :] & (token < length)
        dt = _tile(delta, delta_b, delta_t, sample, token, c[None, :], live, WIDE) + shift[None, :]
        if softplus:
            dt = _softplus(dt, WIDE)
        dt = tl.where(live, dt, 0)  # leaves a state as it is, where none lives
        x = _tile(u, u_b, u_t, sample, token, c[None, :], live, WIDE)
        if not B_constant:
            row = group // B_share * B_g + n
            enter = tl.expand_dims(_tile(B, B_b, B_t, sample, token, row[None, :], now, WIDE), 2)
        if saved is not None:
            tl.store(saved + (sample * pieces + (begin + i * TILE) // CHUNK) * d * size + at, h,
                     mask=there & (i % (CHUNK // TILE) == 0))  # fmt: skip
        decay = tl.exp2(dt[:, None, :] * rates[None, :, :])
        gain = enter * (dt * x)[:, None, :]
        gain = tl.where(k[:, None, None] == 0, decay * h[None, :, :] + gain, gain)
        _, hs = tl.associative_scan((decay, gain), 0, _joined)
        h = _last(hs, k, TILE, WIDE)
        if OUTPUT:
            if not C_constant:
                row = group // C_share * C_g + n
                leave = tl.expand_dims(_tile(C, C_b, C_t, sample, token, row[None, :], now, WIDE), 2)
            out = tl.sum(hs * leave, 1) + passage[None, :] * x
            if z is not None:
                gate = _tile(z, z_b, z_t, sample, token, c[None, :], live, WIDE)
                out *= gate * _sigmoid(gate)
            tl.store(y + (sample * length + token) * d + c[None, :], out, mask=live)
        else:
            total += tl.sum(dt, 0)
    if not OUTPUT:
        tl.store(ends + here * d * size + at, h, mask=there)
        tl.store(steps + here * d + c, total, mask=own)
    elif segment == tl.num_programs(1) - 1:
        tl.store(last + sample * d * size + at, h, mask=there)


@triton.jit
def carry_kernel(
    ends, steps, A, first, starts, segments, count, size, BACKWARDS: tl.constexpr, CARRIED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the state that enters each segment, going forwards, or the gradient that enters it, going backwards."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sample, there = tl.program_id(1).to(tl.int64), at < count
    rates = tl.load(A + at, mask=there, other=0).to(ends.dtype.element_ty) * LOG2E
    h = tl.zeros([BLOCK], ends.dtype.element_ty)
    if first is not None:
        h = tl.load(first + sample * count + at, mask=there, other=0).to(ends.dtype.element_ty)
    for lot in range(0, segments, CARRIED):
        gains, decays = (), ()
        for i in tl.static_range(CARRIED):
            place = sample * segments + (segments - 1 - lot - i if BACKWARDS else lot + i)
            live = there & (lot + i < segments)
            gains = gains + (tl.load(ends + place * count + at, mask=live, other=0),)
            total = tl.load(steps + (place * count + at) // size, mask=live, other=0)
            decays = decays + (tl.exp2(total * rates),)
        for i in tl.static_range(CARRIED):
            place = sample * segments + (segments - 1 - lot - i if BACKWARDS else lot + i)
            tl.store(starts + place * count + at, h, mask=there & (lot + i < segments))
            h = decays[i] * h + gains[i]


@triton.jit
def returns_kernel(
    grad, u, delta, A, B, C, D, z, bias, ends, steps,
    grad_b, grad_t, u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g,
    length, d, size, groups, B_share, C_share, chunks,
    softplus: tl.constexpr, B_constant: tl.constexpr, C_constant: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Find the gradient that leaves the beginning of a segment when none enters its end."""
    c, n, own, valid, group = _place(d, size, groups, BLOCK, N)
    segment, sample = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    here = sample * tl.num_programs(1) + segment
    at, there = c[:, None] * size + n[None, :], own[:, None] & valid[None, :]
    rates = tl.load(A + at, mask=there, other=0).to(WIDE) * LOG2E
    shift = _vector(bias, c, own, WIDE)
    leave = _coupling(C, sample * C_b + group // C_share * C_g, at, there, n, C_constant, WIDE)
    w, total = tl.zeros([BLOCK, N], WIDE), tl.zeros([BLOCK], WIDE)
    stop = tl.minimum((segment + 1) * chunks * CHUNK, length)
    for back in range(0, stop - segment * chunks * CHUNK, TILE):
        dts, gs = (), ()
        for i in tl.static_range(TILE):
            t = stop - 1 - back - i
            live = own & (t >= segment * chunks * CHUNK)
            _, dt = _step(delta + sample * delta_b + t * delta_t + c, shift, live, softplus, WIDE)
            g = tl.load(grad + sample * grad_b + t * grad_t + c, mask=live, other=0).to(WIDE)
            if z is not None:
                gate = tl.load(z + sample * z_b + t * z_t + c, mask=live, other=0).to(WIDE)
                g *= gate * _sigmoid(gate)
            dts, gs = dts + (dt,), gs + (g,)
        for i in tl.static_range(TILE):
            t = stop - 1 - back - i
            row = _now(leave, t * C_t, valid & (t >= segment * chunks * CHUNK), C_constant, 0, WIDE)
            w = tl.exp2(dts[i][:, None] * rates) * (w + gs[i][:, None] * row)
            total += dts[i]
    tl.store(ends + here * d * size + at, w, mask=there)
    tl.store(steps + here * d + c, total, mask=own)


@triton.jit
def _walk(
    h, u, delta, enter, shift_B, u_t, delta_t, B_t, rates, shift, own, valid, left,
    softplus: tl.constexpr, B_constant: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Take a tile from the state before it: return all its states, and inputs, steps, and rows of B at each token."""
    hs, xs, dts, raws, bs = (h,), (), (), (), ()
    for i in tl.static_range(TILE):
        live = own & (i < left)
        raw, dt = _step(delta + i * delta_t, shift, live, softplus, WIDE)
        x = tl.load(u + i * u_t, mask=live, other=0).to(WIDE)
        b = _now(enter, shift_B + i * B_t, valid & (i < left), B_constant, 0, WIDE)
        h = tl.exp2(dt[:, None] * rates) * h + (dt * x)[:, None] * b
        hs, xs, dts, raws, bs = hs + (h,), xs + (x,), dts + (dt,), raws + (raw,), bs + (b,)
    return hs, xs, dts, raws, bs


@triton.jit
def backward_kernel(
    grad, u, delta, A, B, C, D, z, bias, saved, after, starts, grad_u, grad_delta, grad_z, first,
    part_A, part_B, part_C, part_D, part_bias,
    grad_b, grad_t, u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g,
    length, d, size, groups, B_share, C_share, chunks,
    softplus: tl.constexpr, B_constant: tl.constexpr, C_constant: tl.constexpr,
    WIDE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Walk back over one segment: from `after`, the gradient that enters its end, to all gradients.

    `starts` is room for the states before each tile of a chunk, which the way back needs last to first.
    """
    c, n, own, valid, group = _place(d, size, groups, BLOCK, N)
    segment, sample = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    here = sample * tl.num_programs(1) + segment
    at, there = c[:, None] * size + n[None, :], own[:, None] & valid[None, :]
    rates = tl.load(A + at, mask=there, other=0).to(WIDE) * LOG2E
    shift, passage = _vector(bias, c, own, WIDE), _vector(D, c, own, WIDE)
    enter = _coupling(B, sample * B_b + group // B_share * B_g, at, there, n, B_constant, WIDE)
    leave = _coupling(C, sample * C_b + group // C_share * C_g, at, there, n, C_constant, WIDE)
    w = tl.load(after + here * d * size + at, mask=there, other=0).to(WIDE)
    sum_A, sum_B, sum_C = tl.zeros([BLOCK, N], WIDE), tl.zeros([BLOCK, N], WIDE), tl.zeros([BLOCK, N], WIDE)
    sum_D, sum_bias = tl.zeros([BLOCK], WIDE), tl.zeros([BLOCK], WIDE)
    pieces = tl.cdiv(length, CHUNK)
    u_rows, delta_rows = u + sample * u_b + c, delta + sample * delta_b + c
    begin = segment * chunks * CHUNK
    count = tl.cdiv(tl.minimum(chunks * CHUNK, length - begin), TILE)
    tiles: tl.constexpr = CHUNK // TILE
    own_starts = starts + ((here * tl.num_programs(0) + tl.program_id(0)) * tiles) * BLOCK * N
    cell = tl.arange(0, BLOCK)[:, None] * N + n[None, :]
    for back in range(count):
        tile = count - 1 - back
        chunk, tile = segment * chunks + tile // tiles, tile % tiles
        if (back == 0) | (tile == tiles - 1):  # a chunk that was not met yet: where do its tiles start?
            h = tl.load(saved + (sample * pieces + chunk) * d * size + at, mask=there, other=0)
            for before in range(tile):
                tl.store(own_starts + before * BLOCK * N + cell, h)
                t = chunk * CHUNK + before * TILE
                hs, _, _, _, _ = _walk(
                    h, u_rows + t * u_t, delta_rows + t * delta_t, enter, t * B_t, u_t, delta_t, B_t, rates, shift,
                    own, valid, CHUNK, softplus, B_constant, WIDE, TILE,
                )  # fmt: skip
                h = hs[TILE]
            tl.store(own_starts + tile * BLOCK * N + cell, h)
        tl.debug_barrier()
        h = tl.load(own_starts + tile * BLOCK * N + cell)
        t = chunk * CHUNK + tile * TILE
        left = (length - t).to(tl.int32)
        hs, xs, dts, raws, bs = _walk(
            h, u_rows + t * u_t, delta_rows + t * delta_t, enter, t * B_t, u_t, delta_t, B_t, rates, shift,
            own, valid, left, softplus, B_constant, WIDE, TILE,
        )  # fmt: skip
        # All loads come before the first store, which they cannot be moved across.
        gs, gates, outs = (), (), ()
        for i in tl.static_range(TILE):
            live = own & (i < left)
            gs = gs + (tl.load(grad + sample * grad_b + t * grad_t + i * grad_t + c, mask=live, other=0).to(WIDE),)
            outs = outs + (_now(leave, t * C_t + i * C_t, valid & (i < left), C_constant, 0, WIDE),)
            if z is not None:
                gate = tl.load(z + sample * z_b + t * z_t + i * z_t + c, mask=live, other=0)
                gates = gates + (gate.to(WIDE),)
        for i in tl.static_range(TILE - 1, -1, -1):
            live, now = own & (i < left), valid & (i < left)
            to = (sample * length + t + i) * d + c
            b, out, g = bs[i], outs[i], gs[i]
            if z is not None:
                opened = _sigmoid(gates[i])
                ungated = tl.sum(hs[i + 1] * out, 1) + passage * xs[i]
                tl.store(grad_z + to, g * ungated * opened * (1 + gates[i] * (1 - opened)), mask=live)
                g *= gates[i] * opened
            state = w + g[:, None] * out
            w = tl.exp2(dts[i][:, None] * rates) * state
            exponent = w * hs[i]
            sum_A += exponent * dts[i][:, None]
            entered = tl.sum(state * b, 1)
            step = tl.sum(exponent * rates, 1) * LN2 + entered * xs[i]
            if softplus:
                step = tl.where(raws[i] > 20, step, step * _sigmoid(raws[i]))
            tl.store(grad_u + to, entered * dts[i] + g * passage, mask=live)
            tl.store(grad_delta + to, step, mask=live)
            sum_D += g * xs[i]
            sum_bias += tl.where(live, step, 0)
            row = ((sample * length + t + i) * tl.num_programs(0) + tl.program_id(0)) * size + n
            if B_constant:
                sum_B += state * (dts[i] * xs[i])[:, None]
            else:
                tl.store(part_B + row, tl.sum(state * (dts[i] * xs[i])[:, None], 0), mask=now)
            if C_constant:
                sum_C += hs[i + 1] * g[:, None]
            else:
                tl.store(part_C + row, tl.sum(hs[i + 1] * g[:, None], 0), mask=now)
    tl.store(part_A + here * d * size + at, sum_A, mask=there)
    if B_constant:
        tl.store(part_B + here * d * size + at, sum_B, mask=there)
    if C_constant:
        tl.store(part_C + here * d * size + at, sum_C, mask=there)
    if part_D is not None:
        tl.store(part_D + here * d + c, sum_D, mask=own)
    if part_bias is not None:
        tl.store(part_bias + here * d + c, sum_bias, mask=own)
    if first is not None:
        if segment == 0:  # the compiler knows the line above, and this one only when it runs
            tl.store(first + sample * d * size + at, w, mask=there)
