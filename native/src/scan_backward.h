// The gradients of the scan: the states of a chunk are computed again from a saved one, then walked back.
#pragma once

#include "scan.h"

namespace mambino {
namespace MAMBINO_TARGET {

constexpr int BACKWARD_STATES = 4;  // with twice as many, what is kept of a chunk leaves the nearest cache

template <class T> struct TileBack : Tile<T> {
    Vec<T> u[CHUNK];
    Vec<T> slope[CHUNK];                            // of the step size over what went into softplus
    Vec<T> grad[CHUNK], outer[CHUNK];               // gradient of the output before the gate, and after it
    Vec<T> z[CHUNK], gate[CHUNK];                   // of the gate, and its sigmoid
    Vec<T> into_input[CHUNK], into_step[CHUNK];     // gradients that the states leave
};

// Scratch of `retreat`: decays, and states before each step after their decay.
template <class T> struct Trace {
    Vec<T> decay[CHUNK * BACKWARD_STATES], kept[CHUNK * BACKWARD_STATES];
};

// Which of the blocks of a chunk one is, for the sums over channels: the only one writes them as they are.
enum Place { FIRST, LATER, ONLY };

// Whether each group is one block, with couplings that its channels share; channels in parts always are.
template <class T> MAMBINO_INLINE bool single(const mambino_scan &s) {
    return !s.constant_B && !s.constant_C && s.channels / s.groups <= Lanes<T>::count;
}

// Rows of gradients too: of y, which comes in, and of what goes out; of B and C where a group is a single block.
template <class T> struct StepsBack : Steps<T> {
    T *outer[CHUNK], *into_delta[CHUNK], *into_z[CHUNK], *into_B[CHUNK], *into_C[CHUNK];

    void seek_back(const mambino_scan &s, const mambino_scan_gradients &g, int64_t batch, int64_t first, int64_t group) {
        this->seek(s, g.u, batch, first);
        this->aim(s, batch, group);
        this->find(outer, g.y, batch);
        if (!s.rank) this->find(into_delta, g.delta, batch);
        if (s.z.data) this->find(into_z, g.z, batch);
        if (!single<T>(s)) return;
        this->find(into_B, g.B, batch);
        this->find(into_C, g.C, batch);
        for (int t = 0; t < this->count; t++) into_B[t] += group * g.B.group, into_C[t] += group * g.C.group;
    }
};

// Where gradients of B and C are added up: one vector a state, and of each step where the coupling is shared.
template <class T> struct Sums {
    Vec<T> *B, *C;
    int64_t step_B, step_C;
    bool add;  // to what is in the rows of gradients
};

// Add up over the channels what NB vectors of states in P parts give to B and C, and write both rows.
template <class T, int P, int NB> MAMBINO_INLINE void write_sums(T *B, T *C, const Vec<T> *into_B, const Vec<T> *into_C, bool add) {
    constexpr int rows = Lanes<T>::count / P, count = NB * P;
    T sums[2 * count];
    if constexpr (2 * NB <= rows) {
        Vec<T> all[2 * NB];
        for (int n = 0; n < NB; n++) all[n] = into_B[n], all[NB + n] = into_C[n];
        const Vec<T> both = folded<T, P, Lanes<T>::count / (2 * NB)>(row_sums<T, 2 * NB>(all));
        memcpy(sums, &both, sizeof sums);
    } else {
        static_assert(NB % rows == 0, "whole vectors of sums");
#pragma GCC unroll 4
        for (int n = 0; n < NB; n += rows) {
            store(sums + n * P, row_sums<T, rows>(into_B + n));
            store(sums + count + n * P, row_sums<T, rows>(into_C + n));
        }
    }
    for (int i = 0; add && i < count; i++) sums[i] += B[i], sums[count + i] += C[i];
    memcpy(B, sums, count * sizeof(T));
    memcpy(C, sums + count, count * sizeof(T));
}

// Run NB vectors of states through a chunk again, and the gradients back through them. The first block of a chunk writes the sums.
template <class T, int P, int NB, bool OWN, bool SAFE, bool GATE, Place PLACE>
void retreat(TileBack<T> &tile, const StepsBack<T> &steps, int64_t first, const Own<T> &own, const Sums<T> &sums, const Vec<T> *rates,
             const Vec<T> *start, Vec<T> *carry, Vec<T> *dA, Trace<T> &trace) {
    Vec<T> state[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) state[n] = start[n];
    for (int t = 0; t < steps.count; t++) {
        const Vec<T> step = tile.step[t], input = tile.input[t];
        const T *B = OWN ? nullptr : steps.B[t] + first * P, *C = OWN ? nullptr : steps.C[t] + first * P;
        const Vec<T> *own_B = OWN ? own.B + t * own.step_B + first : nullptr;
        const Vec<T> *own_C = OWN ? own.C + t * own.step_C + first : nullptr;
        Vec<T> out = GATE ? tile.out[t] : Vec<T>{};
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            const Vec<T> decay = exp2_of<T, SAFE>(step, rates[n]), kept = decay * state[n];
            trace.decay[t * NB + n] = decay;
            trace.kept[t * NB + n] = kept;
            state[n] = kept + input * coupling<T, P, OWN>(B, own_B, n);
            if constexpr (GATE) out += coupling<T, P, OWN>(C, own_C, n) * state[n];
        }
        if constexpr (GATE) tile.out[t] = out;
    }
    Vec<T> back[NB], rate_grad[NB];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) back[n] = carry[n], rate_grad[n] = dA[n];
    for (int t = steps.count - 1; t >= 0; t--) {
        const Vec<T> step = tile.step[t], input = tile.input[t], grad = tile.grad[t];
        const T *B = OWN ? nullptr : steps.B[t] + first * P, *C = OWN ? nullptr : steps.C[t] + first * P;
        const Vec<T> *own_B = OWN ? own.B + t * own.step_B + first : nullptr;
        const Vec<T> *own_C = OWN ? own.C + t * own.step_C + first : nullptr;
        Vec<T> *const sum_B = sums.B + t * sums.step_B + first, *const sum_C = sums.C + t * sums.step_C + first;
        Vec<T> all_B[NB], all_C[NB];
        Vec<T> into_input = tile.into_input[t], into_step = tile.into_step[t];
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            const Vec<T> b = coupling<T, P, OWN>(B, own_B, n), kept = trace.kept[t * NB + n];
            const Vec<T> g = back[n] + coupling<T, P, OWN>(C, own_C, n) * grad;
            const Vec<T> into_C = grad * (kept + input * b), into_B = g * input;
            if constexpr (PLACE == ONLY) {
                all_B[n] = into_B, all_C[n] = into_C;
            } else {
                sum_C[n] = PLACE == FIRST ? into_C : sum_C[n] + into_C;
                sum_B[n] = PLACE == FIRST ? into_B : sum_B[n] + into_B;
            }
            into_input += g * b;
            const Vec<T> q = g * kept;
            rate_grad[n] += step * q;
            into_step += q * rates[n];
            back[n] = trace.decay[t * NB + n] * g;
        }
        tile.into_input[t] = into_input;
        tile.into_step[t] = into_step;
        if constexpr (PLACE == ONLY)
            write_sums<T, P, NB>(steps.into_B[t] + first * P, steps.into_C[t] + first * P, all_B, all_C, sums.add);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) carry[n] = back[n], dA[n] = rate_grad[n];
}

template <class T, int P, int NB, bool OWN, bool SAFE, bool GATE, Place PLACE>
MAMBINO_INLINE int64_t retreat_while(TileBack<T> &tile, const StepsBack<T> &steps, const Own<T> &own, const Sums<T> &sums,
                                     const Layout<T> &at, Vec<T> *v, Trace<T> &trace, int64_t n) {
    for (; n + NB <= at.states; n += NB)
        retreat<T, P, NB, OWN, SAFE, GATE, PLACE>(tile, steps, n, own, sums, v + at.rates + n, v + at.state + n, v + at.carry + n,
                                        v + at.dA + n, trace);
    return n;
}

template <class T, int P, bool SAFE, bool GATE, Place PLACE>
void retreat_all(const mambino_scan &s, TileBack<T> &tile, const StepsBack<T> &steps, const Layout<T> &at, Vec<T> *v, Vec<T> *of_tokens,
                 int64_t stride, Trace<T> &trace) {
    const Own<T> own = PLACE == LATER ? own_couplings(s, steps, at, v) : Own<T>{};
    const Sums<T> sums = {s.constant_B ? v + at.dB : of_tokens, s.constant_C ? v + at.dC : of_tokens + s.states,
                          s.constant_B ? 0 : stride, s.constant_C ? 0 : stride, s.accumulate != 0};
    int64_t n = 0;
    if constexpr (PLACE == LATER) {  // a coupling of the channels' own adds to sums that all steps share
        if (own.B) {
            retreat_while<T, P, 1, true, SAFE, GATE, LATER>(tile, steps, own, sums, at, v, trace, n);
            return;
        }
    }
    n = retreat_while<T, P, BACKWARD_STATES, false, SAFE, GATE, PLACE>(tile, steps, own, sums, at, v, trace, n);
    retreat_while<T, P, 1, false, SAFE, GATE, PLACE>(tile, steps, own, sums, at, v, trace, n);
}

// What of each token is summed over channels, in vectors: B, C and what the step size is made of. A single
// block has written the first two by then.
template <class T> MAMBINO_INLINE int64_t sum_vectors(const mambino_scan &s) {
    return single<T>(s) ? s.rank : (2 * s.states + s.rank) | 1;
}

// The same in numbers: one for each part of a channel.
template <class T> int64_t sum_width(const mambino_scan &s) { return sum_vectors<T>(s) * parts<T>(s); }

template <class T, int P>
void fill_back(TileBack<T> &tile, const Task &task, const StepsBack<T> &steps, const StepsBack<T> &next, int64_t soon, const Block &b,
               const Vec<T> *v, int64_t W) {
    const mambino_scan &s = *task.scan;
    const int64_t channel = b.channel;
    const bool gate = s.z.data, own = !s.rank;
    fill<T, P>(tile, s, steps, next, soon, b, v, W, tile.slope);
    for (int t = 0; t < steps.count; t++) {
        if (t < next.count) {
            prefetch(next.outer[t] + soon);
            if (own) prefetch<1>(next.into_delta[t] + soon);
            if (gate) prefetch<1>(next.into_z[t] + soon);
        }
        tile.u[t] = load_wide<T, P>(steps.u[t] + channel, b.width);
        const Vec<T> outer = load_wide<T, P>(steps.outer[t] + channel, b.width);
        tile.grad[t] = outer;
        if (gate) {
            tile.outer[t] = outer;
            tile.z[t] = load_wide<T, P>(steps.z[t] + channel, b.width);
            tile.gate[t] = sigmoid<T>(tile.z[t]);
            tile.grad[t] = outer * (tile.z[t] * tile.gate[t]);
        }
        tile.into_input[t] = tile.into_step[t] = Vec<T>{};
    }
}

template <class T, int P> MAMBINO_INLINE void put(T *row, const Block &b, Vec<T> x, bool add) {
    T *to = row + b.channel;
    x = narrowed<T, P>(x);
    store_some(to, add ? x + load_some(to, b.width) : x, b.width);
}

// Write what a chunk of a block gives to its own tokens, and add up the rest.
template <class T, int P>
void finish_back(const TileBack<T> &tile, const Task &task, const StepsBack<T> &steps, const Block &b, const Layout<T> &at, Vec<T> *v,
                 Vec<T> *sums, int64_t stride, bool fresh) {
    const mambino_scan &s = *task.scan;
    const bool gate = s.z.data, add = s.accumulate;
    const int64_t rank = s.rank, before = single<T>(s) ? 0 : 2 * s.states;
    Vec<T> dD = v[at.dD], bias = v[at.dD + 1];
    for (int t = 0; t < steps.count; t++) {
        const Vec<T> grad = tile.grad[t];
        const Vec<T> into_input = joined<T, P>(tile.into_input[t]);
        const Vec<T> into_step = (into_input * tile.u[t] + joined<T, P>(tile.into_step[t]) * T(LN2)) * tile.slope[t];
        put<T, P>(steps.out[t], b, into_input * tile.step[t] + v[0] * grad, add);
        dD += grad * tile.u[t];
        bias += into_step;
        if (gate) {
            const Vec<T> slope = tile.gate[t] * (1 + tile.z[t] * (1 - tile.gate[t]));
            put<T, P>(steps.into_z[t], b, tile.outer[t] * joined<T, P>(tile.out[t]) * slope, add);
        }
        if (!rank) put<T, P>(steps.into_delta[t], b, into_step, add);
        for (int64_t r = 0; r < rank; r++) {
            Vec<T> &sum = sums[t * stride + before + r];
            sum = fresh ? into_step * v[at.W + r] : sum + into_step * v[at.W + r];
            v[at.dW + r] += into_step * steps.delta[t][r];
        }
    }
    v[at.dD] = dD, v[at.dD + 1] = bias;
}

template <class T> size_t sums_count(const mambino_scan &s) {
    const size_t all = size_t(CHUNK * sum_vectors<T>(s)), lanes = Lanes<T>::count;
    return (all + lanes - 1) / lanes * lanes;
}

template <class T> size_t backward_scratch(const mambino_scan &s, int64_t blocks) {
    return (size_t(Layout<T>(s, true).size * blocks) + sums_count<T>(s)) * sizeof(Vec<T>) + sizeof(Trace<T>);
}

// The gradients of a block that are summed over its steps, as one record: W, A, B, C, D and bias, then the first state.
template <class T> size_t channel_sum(const mambino_scan &s) {
    const Layout<T> at(s, true);
    return size_t(at.size - at.dW) * sizeof(Vec<T>);
}

template <class T, int P> void load_saved(const mambino_scan &s, int64_t batch, int64_t chunk, const Block &b, Vec<T> *h) {
    for (int64_t n = 0; n < s.states; n += P) {
        const T *from = saved_row<T>(s, batch, chunk, n) + b.channel;
        h[n / P] = P == 1 ? load_some(from, b.width) : gathered<T, P>(from, 1, b.width, s.channels);
    }
}

template <class T, int P, Place PLACE>
void run_back(const Task &task, TileBack<T> &tile, const StepsBack<T> &steps, const Layout<T> &at, Vec<T> *v, Vec<T> *sums,
              int64_t stride, Trace<T> &trace) {
    const mambino_scan &s = *task.scan;
    constexpr bool SAFE = !NATIVE_SCALE;
    const bool gently = gentle(tile, at, v);
    if (s.z.data)
        gently ? retreat_all<T, P, false, true, PLACE>(s, tile, steps, at, v, sums, stride, trace)
               : retreat_all<T, P, SAFE, true, PLACE>(s, tile, steps, at, v, sums, stride, trace);
    else
        gently ? retreat_all<T, P, false, false, PLACE>(s, tile, steps, at, v, sums, stride, trace)
               : retreat_all<T, P, SAFE, false, PLACE>(s, tile, steps, at, v, sums, stride, trace);
}

// Numbers of a token from `from` on, summed over the tasks, to one row.
template <class T>
MAMBINO_INLINE void sum_row(T *to, void *const *tasks, int tasks_count, int64_t from, int64_t count, bool add) {
    for (int64_t i = 0; i < count; i += Lanes<T>::count) {
        const int some = count - i < Lanes<T>::count ? int(count - i) : Lanes<T>::count;
        Vec<T> sum = load_some((const T *)tasks[0] + from + i, some);
        for (int task = 1; task < tasks_count; task++) sum += load_some((const T *)tasks[task] + from + i, some);
        store_some(to + i, add ? load_some(to + i, some) + sum : sum, some);
    }
}

template <class T>
void sum_tokens(const Task &task, int64_t group, void *const *tasks, int count, int64_t begin, int64_t end) {
    const mambino_scan &s = *task.scan;
    const mambino_scan_gradients &g = *task.gradients;
    const int64_t stride = sum_width<T>(s), n = s.states, apart = parts<T>(s), origin = task.alone ? begin : 0;
    const bool written = single<T>(s);
    for (int64_t t = begin; t < end; t++) {
        const int64_t token = s.order ? s.order[t] : t, at = (t - origin) * stride;
        const auto add_up = [&](const mambino_rows &rows, int64_t from) {
            sum_row<T>(row<T>(rows, task.batch, token) + group * rows.group, tasks, count, from, n, s.accumulate);
        };
        if (!written && !s.constant_B) add_up(g.B, at);
        if (!written && !s.constant_C) add_up(g.C, at + n);
        // Every group has a share in what the step size is made of; they come one after the other.
        T *const delta = s.rank ? row<T>(g.delta, task.batch, token) : nullptr;
        const int64_t run = apart == 1 ? s.rank : 1;
        for (int64_t r = 0; r < s.rank; r += run)
            sum_row<T>(delta + r, tasks, count, at + (written ? 0 : 2 * n) + r * apart, run, s.accumulate || group > 0);
    }
}

template <class T, int P> void backward_in_parts(const Task &task) {
    const FlushDenormals flush;
    const mambino_scan &s = *task.scan;
    const Layout<T> at(s, true);
    Trace<T> &trace = *(Trace<T> *)task.scratch;
    Vec<T> *const sums = (Vec<T> *)(&trace + 1), *const memory = sums + sums_count<T>(s);
    const auto of = [&](int64_t block) { return memory + (block - task.first) * at.size; };
    for (int64_t i = task.first; i < task.last; i++) {
        memset(of(i), 0, size_t(at.size) * sizeof(Vec<T>));
        read_parameters<T, P>(s, at, block_at<T>(s, i), of(i));
        read_state<T, P>(s, task.gradients->last, task.batch, block_at<T>(s, i), of(i) + at.carry);
    }
    const int64_t group = block_at<T>(s, task.first).group, stride = sum_vectors<T>(s), chunks = (s.length + CHUNK - 1) / CHUNK;
    const bool summed = stride && (s.rank || !s.constant_B || !s.constant_C);
    // Where both couplings are shared, the first block of a chunk writes what the others add to.
    const bool fresh = !s.constant_B && !s.constant_C;
    memset(sums, 0, sums_count<T>(s) * sizeof(Vec<T>));
    TileBack<T> tile;
    StepsBack<T> both[2], *now = both, *next = both + 1;
    next->seek_back(s, *task.gradients, task.batch, (chunks - 1) * CHUNK, group);
    Block after = block_at<T>(s, task.first);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        StepsBack<T> &steps = *next;
        next = now, now = &steps;
        next->count = 0;
        if (chunk) next->seek_back(s, *task.gradients, task.batch, (chunk - 1) * CHUNK, group);
        if (summed && !fresh) memset(sums, 0, sums_count<T>(s) * sizeof(Vec<T>));
        for (int64_t i = task.first; i < task.last; i++) {
            const bool more = i + 1 < task.last;
            const Block b = after;
            after = block_at<T>(s, more ? i + 1 : task.first);
            Vec<T> *const v = of(i);
            load_saved<T, P>(s, task.batch, chunk, b, v + at.state);
            fill_back<T, P>(tile, task, steps, more ? steps : *next, after.channel, b, v, at.W);
            const bool first = fresh && i == task.first;
            if (single<T>(s))
                run_back<T, P, ONLY>(task, tile, steps, at, v, sums, stride, trace);
            else if constexpr (P == 1)
                first ? run_back<T, P, FIRST>(task, tile, steps, at, v, sums, stride, trace)
                      : run_back<T, P, LATER>(task, tile, steps, at, v, sums, stride, trace);
            finish_back<T, P>(tile, task, steps, b, at, v, sums, stride, first);
        }
        T *to = (T *)task.token_sums + (task.alone ? 0 : chunk * CHUNK * stride * P);
        constexpr int rows = Lanes<T>::count / P;
        const int64_t all = summed ? steps.count * stride : 0;
        for (int64_t i = 0; i < all; i += rows)
            store_some(to + i * P, row_sums<T, rows>(sums + i), all - i < rows ? int(all - i) * P : rows * P);
        if (summed && task.alone) sum_tokens<T>(task, group, &task.token_sums, 1, chunk * CHUNK, chunk * CHUNK + steps.count);
    }
    for (int64_t i = task.first; i < task.last; i++)
        memcpy((char *)task.channel_sums + size_t(i) * channel_sum<T>(s), of(i) + at.dW, channel_sum<T>(s));
}

// Blocks `task.first` to before `task.last` of one sample, all of one group.
template <class T> void backward(const Task &task) {
    with_parts<T>(*task.scan, [&](auto count) { backward_in_parts<T, count.value>(task); });
}

template <class T, int P> void sum_channels_in_parts(const mambino_scan &s, const mambino_scan_gradients &g, const void *records) {
    const Layout<T> at(s, true);
    const int64_t count = blocks<T>(s), size = int64_t(channel_sum<T>(s) / sizeof(Vec<T>));
    for (int64_t i = 0; i < count; i++) {
        const Block b = block_at<T>(s, i);
        const auto total = [&](int64_t place) {
            Vec<T> sum = {};
            for (int64_t batch = 0; batch < s.batch; batch++)
                sum += ((const Vec<T> *)records)[(batch * count + i) * size + place - at.dW];
            return sum;
        };
        // What each channel has once, and what it has for each state.
        const auto columns = [&](void *to, int64_t place, int64_t count) {
            for (int64_t k = 0; to && k < count; k++)
                scattered<T>((T *)to + b.channel * count + k, count, b.width, narrowed<T, P>(total(place + k)));
        };
        const auto of_states = [&](void *to, int64_t place) {
            for (int64_t n = 0; to && n < s.states; n += P)
                scattered<T, P>((T *)to + b.channel * s.states + n, s.states, b.width, total(place + n / P));
        };
        columns(g.W, at.dW, s.rank);
        of_states(g.A, at.dA);
        if (s.constant_B) of_states(g.B.data, at.dB);
        if (s.constant_C) of_states(g.C.data, at.dC);
        columns(g.D, at.dD, 1);
        columns(g.bias, at.dD + 1, 1);
        for (int64_t batch = 0; g.state && batch < s.batch; batch++)
            write_state<T, P>(s, g.state, batch, b, (const Vec<T> *)records + (batch * count + i) * size + at.carry - at.dW);
    }
}

template <class T> void sum_channels(const mambino_scan &s, const mambino_scan_gradients &g, const void *records) {
    with_parts<T>(s, [&](auto count) { sum_channels_in_parts<T, count.value>(s, g, records); });
}

}  // namespace MAMBINO_TARGET
}  // namespace mambino
