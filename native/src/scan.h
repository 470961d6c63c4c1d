// The kernel: a chunk of steps of one vector of channels at a time, states in registers.
//
// A task runs through the sequence chunk by chunk, and in each chunk through its blocks of channels, so that the
// rows of B and C, and what is accumulated over channels, stay in the nearest cache. Inside, some states (the
// template's NB) take all steps of the chunk before the next ones.
//
// A group of few channels would leave lanes idle. There P states of each channel stand side by side in a vector: lane
// P c + p is part p of channel c, and vector k has the states P k to before P (k + 1). What a channel has of its own is
// the same in all its parts, and what its states say is added up over them last.
#pragma once

#include "simd.h"
#include "task.h"

namespace mambino {
namespace MAMBINO_TARGET {

constexpr int CHUNK = MAMBINO_CHUNK;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int FORWARD_STATES = 16;  // 32 registers
#else
constexpr int FORWARD_STATES = 8;
#endif

constexpr int MOST_PARTS = 4;

// How many states of a channel stand in one vector: as many as there are lanes for, and none without its lane. Constant
// couplings are rare, and do without.
template <class T> MAMBINO_INLINE int parts(const mambino_scan &s) {
    int count = s.constant_B || s.constant_C ? 1 : MOST_PARTS;
    while (count > 1 && (s.channels / s.groups * count > Lanes<T>::count || s.states % count)) count /= 2;
    return count;
}

template <int P> struct Parts {
    static constexpr int value = P;
};

// Call work(Parts<P>) for the P of a scan.
template <class T, class Work> MAMBINO_INLINE void with_parts(const mambino_scan &s, const Work &work) {
    const int count = parts<T>(s);
    if (count == 1) work(Parts<1>{});
    if (count == 2) work(Parts<2>{});
    if constexpr (Lanes<T>::count >= MOST_PARTS)
        if (count == MOST_PARTS) work(Parts<MOST_PARTS>{});
}

// Where a block of channels lies: `width` of them from `channel` on, all in one group.
struct Block {
    int64_t channel, group;
    int width;
};

template <class T> MAMBINO_INLINE Block block_at(const mambino_scan &s, int64_t index) {
    const int64_t wide = s.channels / s.groups, each = (wide + Lanes<T>::count - 1) / Lanes<T>::count;
    const int64_t group = index / each, first = index % each * Lanes<T>::count, left = wide - first;
    return {group * wide + first, group, left < Lanes<T>::count ? int(left) : Lanes<T>::count};
}

template <class T> int64_t blocks(const mambino_scan &s) {
    const int64_t wide = s.channels / s.groups;
    return s.groups * ((wide + Lanes<T>::count - 1) / Lanes<T>::count);
}

// Vectors of one block, in one piece of memory.
template <class T> struct Layout {
    int64_t states, rank, size;     // states: vectors of them
    int64_t W, rates, state, B, C;  // where each begins; D and bias come first
    int64_t spread;                 // room for a coupling that is not constant beside one that is
    int64_t dW, dA, dB, dC, dD;     // gradients; that of the bias follows dD. The state's is kept in `carry`
    int64_t carry;
    Layout(const mambino_scan &s, bool backward) : states(s.states / parts<T>(s)), rank(s.rank) {
        int64_t at = 2;
        const auto take = [&at](int64_t count) {
            at += count;
            return at - count;
        };
        W = take(rank);
        rates = take(states);
        state = take(states);
        B = take(s.constant_B ? states : 0);
        C = take(s.constant_C ? states : 0);
        spread = take(!s.constant_B != !s.constant_C ? CHUNK * states : 0);
        dW = take(backward ? rank : 0);
        dA = take(backward ? states : 0);
        dB = take(backward && s.constant_B ? states : 0);
        dC = take(backward && s.constant_C ? states : 0);
        dD = take(backward ? 2 : 0);
        carry = take(backward ? states : 0);
        size = at;
    }
};

// One block over one chunk.
template <class T> struct Tile {
    Vec<T> step[CHUNK], input[CHUNK], out[CHUNK];  // input: step times u
    T steepest;                                    // the largest |step|, where exponents have an end
};

// Rows of the tokens of one chunk, and of B and C of one group. `out` is y, or backwards the gradient of u.
template <class T> struct Steps {
    int64_t token[CHUNK];
    T *u[CHUNK], *delta[CHUNK], *z[CHUNK], *out[CHUNK];
    const T *B[CHUNK], *C[CHUNK];
    int count = 0;

    void find(T **rows, const mambino_rows &in, int64_t batch) const {
        if (!in.data) return;
        T *const base = row<T>(in, batch, 0);
        const int64_t apart = in.token, all = count;
        for (int64_t t = 0; t < all; t++) rows[t] = base + token[t] * apart;
    }

    void seek(const mambino_scan &s, const mambino_rows &to, int64_t batch, int64_t first) {
        count = s.length - first < CHUNK ? int(s.length - first) : CHUNK;
        for (int t = 0; t < count; t++) token[t] = s.order ? s.order[first + t] : first + t;
        find(u, s.u, batch);
        find(delta, s.delta, batch);
        find(z, s.z, batch);
        find(out, to, batch);
    }

    void aim(const mambino_scan &s, int64_t batch, int64_t group) {
        for (int t = 0; t < count; t++) {
            B[t] = s.constant_B ? nullptr : row<T>(s.B, batch, token[t]) + group * s.B.group;
            C[t] = s.constant_C ? nullptr : row<T>(s.C, batch, token[t]) + group * s.C.group;
        }
    }
};

// Numbers of the channels, each in all its parts.
template <class T, int P> MAMBINO_INLINE Vec<T> load_wide(const T *from, int width) {
    return widened<T, P>(load_some(from, width));
}

template <class T, int P> void read_parameters(const mambino_scan &s, const Layout<T> &at, const Block &b, Vec<T> *v) {
    const int64_t c = b.channel;
    v[0] = v[1] = Vec<T>{};
    for (int i = 0; s.D && i < b.width; i++) v[0][i * P] = ((const T *)s.D)[c + i];  // in one part: parts are added up
    if (s.bias) v[1] = load_wide<T, P>((const T *)s.bias + c, b.width);
    for (int64_t r = 0; r < s.rank; r++) v[at.W + r] = gathered<T, P>((const T *)s.W + c * s.rank + r, s.rank, b.width, 0);
    for (int64_t n = 0; n < at.states; n++) {
        const int64_t from = c * s.states + n * P;
        v[at.rates + n] = gathered<T, P>((const T *)s.A + from, s.states, b.width) * T(LOG2E);
        if (s.constant_B) v[at.B + n] = gathered((const T *)s.B.data + from, s.states, b.width);
        if (s.constant_C) v[at.C + n] = gathered((const T *)s.C.data + from, s.states, b.width);
    }
}

template <class T, int P> void read_state(const mambino_scan &s, const void *from, int64_t batch, const Block &b, Vec<T> *h) {
    const T *numbers = (const T *)from + (batch * s.channels + b.channel) * s.states;
    for (int64_t n = 0; n < s.states; n += P) h[n / P] = from ? gathered<T, P>(numbers + n, s.states, b.width) : Vec<T>{};
}

template <class T, int P> void write_state(const mambino_scan &s, void *to, int64_t batch, const Block &b, const Vec<T> *h) {
    T *numbers = (T *)to + (batch * s.channels + b.channel) * s.states;
    for (int64_t n = 0; n < s.states; n += P) scattered<T, P>(numbers + n, s.states, b.width, h[n / P]);
}

template <class T> MAMBINO_INLINE T *saved_row(const mambino_scan &s, int64_t batch, int64_t chunk, int64_t n) {
    const int64_t chunks = (s.length + CHUNK - 1) / CHUNK;
    return (T *)s.saved + ((batch * chunks + chunk) * s.states + n) * s.channels;
}

// The step sizes before softplus of T tokens that follow each other, from those numbers of each that `from` points to.
template <class T, int TOKENS>
MAMBINO_INLINE void raw_steps(T *const *from, int64_t rank, const Vec<T> *W, const Vec<T> &bias, Vec<T> *to) {
    Vec<T> raw[TOKENS];
    for (int i = 0; i < TOKENS; i++) raw[i] = bias;
    for (int64_t r = 0; r < rank; r++)
        for (int i = 0; i < TOKENS; i++) raw[i] += from[i][r] * W[r];
    for (int i = 0; i < TOKENS; i++) to[i] = raw[i];
}

// The step sizes of a chunk before softplus: some tokens at a time, so that their sums do not wait for each other.
template <class T> void make_steps(Vec<T> *to, const Steps<T> &steps, int64_t rank, const Vec<T> *W, const Vec<T> &bias) {
    constexpr int AT_ONCE = 8;
    int t = 0;
    for (; t + AT_ONCE <= steps.count; t += AT_ONCE) raw_steps<T, AT_ONCE>(steps.delta + t, rank, W, bias, to + t);
    for (; t < steps.count; t++) raw_steps<T, 1>(steps.delta + t, rank, W, bias, to + t);
}

// Rows lie far apart, so no processor guesses the next one. WRITE: what will be written.
template <int WRITE = 0> MAMBINO_INLINE void prefetch(const void *at) { __builtin_prefetch(at, WRITE); }

// Read a tile. `next` and `soon` are the rows and the first channel of the one after it, which are fetched meanwhile.
template <class T, int P>
void fill(Tile<T> &tile, const mambino_scan &s, const Steps<T> &steps, const Steps<T> &next, int64_t soon, const Block &b,
          const Vec<T> *v, int64_t W, Vec<T> *slope = nullptr) {
    Vec<T> most = {};
    const int64_t channel = b.channel, own = s.rank ? 0 : soon;
    const bool gate = s.z.data, smooth = s.softplus, made = s.rank;
    if (s.rank) make_steps(tile.step, steps, s.rank, v + W, v[1]);
    for (int t = 0; t < steps.count; t++) {
        if (t < next.count) {
            prefetch(next.u[t] + soon);
            prefetch(next.delta[t] + own);
            prefetch<1>(next.out[t] + soon);
            if (gate) prefetch(next.z[t] + soon);
        }
        const Vec<T> u = load_wide<T, P>(steps.u[t] + channel, b.width);
        Vec<T> step = made ? tile.step[t] : load_wide<T, P>(steps.delta[t] + channel, b.width) + v[1];
        if (slope) {
            const Sloped<T> both = smooth ? softplus_sloped<T>(step) : Sloped<T>{step, splat<T>(1)};
            step = both.value;
            slope[t] = both.slope;
        } else if (smooth) {
            step = softplus<T>(step);
        }
        if constexpr (!NATIVE_SCALE) most = larger<T>(most, magnitude<T>(step));
        tile.step[t] = step;
        tile.input[t] = step * u;
        tile.out[t] = v[0] * u;
    }
    if constexpr (!NATIVE_SCALE) tile.steepest = largest<T>(most);
}

template <class T> T steepest_rate(const Layout<T> &at, const Vec<T> *v) {
    Vec<T> most = {};
    for (int64_t n = 0; n < at.states; n++) most = larger<T>(most, magnitude<T>(v[at.rates + n]));
    return largest<T>(most);
}

// Whether no exponent of this tile can leave its range.
template <class T> MAMBINO_INLINE bool gentle(const Tile<T> &tile, const Layout<T> &at, const Vec<T> *v) {
    return NATIVE_SCALE || tile.steepest * steepest_rate(at, v) <= Lanes<T>::most;
}

// B or C of one step: numbers that all channels share, or (OWN) vectors of the channels themselves.
template <class T, int P, bool OWN> MAMBINO_INLINE Vec<T> coupling(const T *shared, const Vec<T> *own, int n) {
    if constexpr (OWN)
        return own[n];
    else
        return repeated<T, P>(shared + n * P);
}

// Where OWN couplings are: constant ones lie in the layout, others were spread over the channels for one chunk.
template <class T> struct Own {
    const Vec<T> *B = nullptr, *C = nullptr;
    int64_t step_B = 0, step_C = 0;  // from one step to the next (vectors)
};

// Run NB vectors of states from `h` through a chunk; add what they say to `tile.out`.
template <class T, int P, int NB, bool OWN, bool SAFE>
void advance(Tile<T> &tile, const Steps<T> &steps, int64_t first, const Own<T> &own, const Vec<T> *rates, Vec<T> *h) {
    Vec<T> state[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) state[n] = h[n];
    for (int t = 0; t < steps.count; t++) {
        const Vec<T> step = tile.step[t], input = tile.input[t];
        const T *B = OWN ? nullptr : steps.B[t] + first * P, *C = OWN ? nullptr : steps.C[t] + first * P;
        const Vec<T> *own_B = OWN ? own.B + t * own.step_B + first : nullptr;
        const Vec<T> *own_C = OWN ? own.C + t * own.step_C + first : nullptr;
        Vec<T> out = tile.out[t], more = {};
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            state[n] = exp2_of<T, SAFE>(step, rates[n]) * state[n] + input * coupling<T, P, OWN>(B, own_B, n);
            (n % 2 ? more : out) += coupling<T, P, OWN>(C, own_C, n) * state[n];
        }
        tile.out[t] = out + more;
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) h[n] = state[n];
}

// Spread shared rows over the channels: what a scan with one constant coupling does with the other one.
template <class T> const Vec<T> *spread(const T *const *rows, int count, int64_t states, Vec<T> *to) {
    for (int t = 0; t < count; t++)
        for (int64_t n = 0; n < states; n++) to[t * states + n] = splat(rows[t][n]);
    return to;
}

template <class T> Own<T> own_couplings(const mambino_scan &s, const Steps<T> &steps, const Layout<T> &at, Vec<T> *v) {
    Own<T> own;
    if (!s.constant_B && !s.constant_C) return own;
    own.B = s.constant_B ? v + at.B : spread(steps.B, steps.count, s.states, v + at.spread);
    own.C = s.constant_C ? v + at.C : spread(steps.C, steps.count, s.states, v + at.spread);
    own.step_B = s.constant_B ? 0 : s.states;
    own.step_C = s.constant_C ? 0 : s.states;
    return own;
}

template <class T, int P, int NB, bool OWN, bool SAFE>
MAMBINO_INLINE int64_t advance_while(Tile<T> &tile, const Steps<T> &steps, const Own<T> &own, const Layout<T> &at, Vec<T> *v,
                                     int64_t n) {
    for (; n + NB <= at.states; n += NB) advance<T, P, NB, OWN, SAFE>(tile, steps, n, own, v + at.rates + n, v + at.state + n);
    return n;
}

// All states through a chunk, as many at a time as there are registers for.
template <class T, int P, bool SAFE>
void advance_all(const mambino_scan &s, Tile<T> &tile, const Steps<T> &steps, const Layout<T> &at, Vec<T> *v) {
    const Own<T> own = P > 1 ? Own<T>{} : own_couplings(s, steps, at, v);
    int64_t n = 0;
    if (own.B) {
        n = advance_while<T, 1, 4, true, SAFE>(tile, steps, own, at, v, n);
        advance_while<T, 1, 1, true, SAFE>(tile, steps, own, at, v, n);
        return;
    }
    n = advance_while<T, P, FORWARD_STATES / (P > 1 ? 2 : 1), false, SAFE>(tile, steps, own, at, v, n);
    n = advance_while<T, P, 4, false, SAFE>(tile, steps, own, at, v, n);
    advance_while<T, P, 1, false, SAFE>(tile, steps, own, at, v, n);
}

template <class T, int P>
void finish(const Tile<T> &tile, const mambino_scan &s, const Steps<T> &steps, const Block &b) {
    const bool gate = s.z.data, add = s.accumulate;
    for (int t = 0; t < steps.count; t++) {
        Vec<T> out = narrowed<T, P>(joined<T, P>(tile.out[t]));
        if (gate) {
            const Vec<T> z = load_some(steps.z[t] + b.channel, b.width);
            out *= z * sigmoid<T>(z);
        }
        T *to = steps.out[t] + b.channel;
        if (add) out += load_some(to, b.width);
        store_some(to, out, b.width);
    }
}

template <class T, int P> void save_states(const mambino_scan &s, int64_t batch, int64_t chunk, const Block &b, const Vec<T> *h) {
    for (int64_t n = 0; n < s.states; n += P) {
        T *to = saved_row<T>(s, batch, chunk, n) + b.channel;
        P == 1 ? store_some(to, h[n], b.width) : scattered<T, P>(to, 1, b.width, h[n / P], s.channels);
    }
}

template <class T> size_t forward_scratch(const mambino_scan &s, int64_t blocks) {
    return size_t(Layout<T>(s, false).size * blocks) * sizeof(Vec<T>);
}

template <class T, int P> void forward_in_parts(const Task &task) {
    const FlushDenormals flush;
    const mambino_scan &s = *task.scan;
    const Layout<T> at(s, false);
    Vec<T> *const memory = (Vec<T> *)task.scratch;
    const auto of = [&](int64_t block) { return memory + (block - task.first) * at.size; };
    for (int64_t i = task.first; i < task.last; i++) {
        read_parameters<T, P>(s, at, block_at<T>(s, i), of(i));
        read_state<T, P>(s, s.state, task.batch, block_at<T>(s, i), of(i) + at.state);
    }
    Tile<T> tile;
    Steps<T> both[2], *now = both, *next = both + 1;
    next->seek(s, s.y, task.batch, 0);
    Block after = block_at<T>(s, task.first);
    for (int64_t first = 0; first < s.length; first += CHUNK) {
        Steps<T> &steps = *next;
        next = now, now = &steps;
        next->count = 0;
        if (first + CHUNK < s.length) next->seek(s, s.y, task.batch, first + CHUNK);
        int64_t group = -1;
        for (int64_t i = task.first; i < task.last; i++) {
            const bool more = i + 1 < task.last;
            const Block b = after;
            after = block_at<T>(s, more ? i + 1 : task.first);
            Vec<T> *const v = of(i);
            if (b.group != group) steps.aim(s, task.batch, group = b.group);
            if (s.saved) save_states<T, P>(s, task.batch, first / CHUNK, b, v + at.state);
            fill<T, P>(tile, s, steps, more ? steps : *next, after.channel, b, v, at.W);
            if (gentle(tile, at, v))
                advance_all<T, P, false>(s, tile, steps, at, v);
            else
                advance_all<T, P, !NATIVE_SCALE>(s, tile, steps, at, v);
            finish<T, P>(tile, s, steps, b);
        }
    }
    for (int64_t i = task.first; s.last && i < task.last; i++)
        write_state<T, P>(s, s.last, task.batch, block_at<T>(s, i), of(i) + at.state);
}

// Blocks `task.first` to before `task.last` of one sample.
template <class T> void forward(const Task &task) {
    with_parts<T>(*task.scan, [&](auto count) { forward_in_parts<T, count.value>(task); });
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
