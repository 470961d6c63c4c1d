// The interface: picks an instruction set once, checks arguments, splits the work, and lets nothing escape.

#include <string.h>

#include <chrono>
#include <memory>
#include <new>
#include <vector>

#include "checks.h"
#include "normalise.h"
#include "task.h"
#include "threads.h"

using namespace mambino;

extern const Target mambino_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const Target mambino_avx2, mambino_avx512;
#elif defined(__aarch64__)
extern const Target mambino_neon;
#endif

namespace {

struct FreeAligned {
    void operator()(void *memory) const { ::operator delete(memory, std::align_val_t(64)); }
};
typedef std::unique_ptr<void, FreeAligned> Memory;

Memory room(size_t bytes) { return Memory(::operator new(bytes ? bytes : 64, std::align_val_t(64))); }

bool runs(const char *name) {
    (void)name;
#if defined(__x86_64__) || defined(_M_X64)
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw");
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

const std::vector<const Target *> &targets() {
    static const std::vector<const Target *> found = [] {
        std::vector<const Target *> all;
#if defined(__x86_64__) || defined(_M_X64)
        all = {&mambino_avx512, &mambino_avx2};
#elif defined(__aarch64__)
        all = {&mambino_neon};
#endif
        all.push_back(&mambino_plain);
        std::vector<const Target *> here;
        for (const Target *target : all)
            if (runs(target->name)) here.push_back(target);
        return here;
    }();
    return found;
}

std::atomic<const Target *> chosen{nullptr};

const Target &target() {
    const Target *known = chosen.load();
    return known ? *known : *targets().front();
}

const Kernels &kernels_for(int bytes) {
    if (bytes != 4 && bytes != 8) {
        snprintf(message, sizeof message, "numbers have 4 or 8 bytes, got %d", bytes);
        throw Refused{MAMBINO_BAD_TYPE};
    }
    return bytes == 4 ? target().of_float : target().of_double;
}

// Cut [batch, blocks] into about `count` runs of blocks of one sample.
template <class Made> std::vector<Made> runs_of_blocks(int64_t batch, int64_t blocks, int64_t count, const Made &like) {
    std::vector<Made> made;
    const int64_t total = batch * blocks;
    count = count < total ? count : total;
    for (int64_t i = 0; i < count; i++)
        for (int64_t at = i * total / count, end = (i + 1) * total / count; at < end;) {
            Made one = like;
            one.batch = at / blocks, one.first = at % blocks;
            const int64_t left = blocks - one.first;
            one.last = one.first + (left < end - at ? left : end - at);
            at += one.last - one.first;
            made.push_back(one);
        }
    return made;
}

void forward(const mambino_scan *scans, int count, const Kernels &k, int threads) {
    // A thread keeps its channels through all scans, so that they may add into the same y.
    std::vector<Task> tasks = runs_of_blocks(scans->batch, k.blocks(*scans), threads, Task{});
    share(tasks, threads, [&](Task task) {
        for (task.scan = scans; task.scan < scans + count; task.scan++) {
            const Memory scratch = room(k.forward_scratch(*task.scan, task.last - task.first));
            task.scratch = scratch.get();
            k.forward(task);
        }
    });
}

void backward(const mambino_scan &s, const mambino_scan_gradients &g, const Kernels &k, int bytes, int threads) {
    // A task has as many channels as keep all threads busy: what is summed over channels is then summed in few parts.
    const int64_t blocks = k.blocks(s), of_group = blocks / s.groups, sets = s.batch * s.groups;
    const int64_t wanted = (threads + sets - 1) / sets, each = (of_group + wanted - 1) / wanted;
    const int64_t parts = (of_group + each - 1) / each, width = k.sum_width(s);
    const bool summed = width && (s.rank || !s.constant_B || !s.constant_C);
    const bool alone = parts == 1 && (s.groups == 1 || !s.rank);
    const size_t kept = size_t(alone && s.length > MAMBINO_CHUNK ? MAMBINO_CHUNK : s.length);
    const size_t sums = summed ? kept * size_t(width) * size_t(bytes) : 0, record = k.channel_sum(s);
    const Memory records = room(size_t(s.batch * blocks) * record);
    const Memory memory = room(sums * size_t(s.batch * s.groups * parts));
    std::vector<Task> tasks;
    for (int64_t i = 0; i < s.batch * s.groups * parts; i++) {
        const int64_t batch = i / (s.groups * parts), group = i / parts % s.groups, first = i % parts * each;
        Task task{};
        task.scan = &s, task.gradients = &g, task.batch = batch, task.alone = alone;
        task.first = group * of_group + first;
        task.last = group * of_group + (first + each < of_group ? first + each : of_group);
        task.token_sums = (char *)memory.get() + size_t(i) * sums;
        task.channel_sums = (char *)records.get() + size_t(batch * blocks) * record;
        tasks.push_back(task);
    }
    share(tasks, threads, [&k](Task task) {
        const Memory scratch = room(k.backward_scratch(*task.scan, task.last - task.first));
        task.scratch = scratch.get();
        k.backward(task);
    });
    k.sum_channels(s, g, records.get());
    if (!summed || alone) return;
    struct Range {
        int64_t batch, begin, end;
    };
    std::vector<Range> ranges;
    const int64_t step = 4096;
    for (int64_t batch = 0; batch < s.batch; batch++)
        for (int64_t begin = 0; begin < s.length; begin += step)
            ranges.push_back({batch, begin, begin + step < s.length ? begin + step : s.length});
    share(ranges, threads, [&](const Range &range) {
        std::vector<void *> pieces(size_t(parts), nullptr);
        for (int64_t group = 0; group < s.groups; group++) {
            const Task *first = &tasks[size_t((range.batch * s.groups + group) * parts)];
            for (int64_t i = 0; i < parts; i++) pieces[size_t(i)] = first[i].token_sums;
            k.sum_tokens(*first, group, pieces.data(), int(parts), range.begin, range.end);
        }
    });
}

void convolve(const mambino_conv &c, const Kernels &k, int bytes, int threads) {
    const int64_t blocks = (c.channels + k.lanes - 1) / k.lanes, step = 1024;
    std::vector<ConvTask> tasks;
    for (int64_t batch = 0; batch < c.batch; batch++)
        for (int64_t begin = 0; begin < c.length; begin += step)
            tasks.push_back({&c, nullptr, batch, 0, blocks, begin, begin + step < c.length ? begin + step : c.length, nullptr, nullptr});
    share(tasks, threads, [&](ConvTask task) {
        const Memory scratch = room(size_t(blocks * (c.kernel + 1) * k.lanes) * size_t(bytes));
        task.scratch = scratch.get();
        k.conv_forward(task);
    });
}

void convolve_back(const mambino_conv &c, const mambino_conv_gradients &g, const Kernels &k, int bytes, int threads) {
    const int64_t blocks = (c.channels + k.lanes - 1) / k.lanes;
    const size_t record = size_t((c.kernel + 1) * k.lanes) * size_t(bytes);
    const Memory records = room(size_t(c.batch * blocks) * record);
    ConvTask like{};
    like.conv = &c, like.gradients = &g, like.end = c.length;
    share(runs_of_blocks(c.batch, blocks, threads, like), threads, [&](ConvTask task) {
        const Memory scratch = room(size_t((task.last - task.first) * (3 * c.kernel + 2) * k.lanes) * size_t(bytes));
        task.scratch = scratch.get();
        task.sums = (char *)records.get() + size_t(task.batch * blocks) * record;
        k.conv_backward(task);
    });
    k.conv_sum(c, g, records.get());
}

// Run a kernel on all tokens of all samples, some at a time.
template <class Made> void share_tokens(int64_t batch, int64_t length, int threads, const Made &like, void (*kernel)(const Made &)) {
    const int64_t step = length / (4 * threads) < 1024 ? length / (4 * threads) / 16 * 16 + 16 : 1024;
    std::vector<Made> tasks;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t begin = 0; begin < length; begin += step) {
            tasks.push_back(like);
            tasks.back().batch = b, tasks.back().begin = begin;
            tasks.back().end = begin + step < length ? begin + step : length;
        }
    share(tasks, threads, kernel);
}

// Run `work`; turn what it throws into a status.
template <class Work> int guarded(const Work &work) {
    try {
        work();
        return MAMBINO_OK;
    } catch (const Refused &refused) {
        return refused.status;
    } catch (const std::bad_alloc &) {
        snprintf(message, sizeof message, "out of memory");
        return MAMBINO_NO_MEMORY;
    } catch (...) {
        snprintf(message, sizeof message, "unexpected failure");
        return MAMBINO_FAILED;
    }
}

}  // namespace

int mambino_scans_forward(const mambino_scan *scans, int count, int bytes, int threads) {
    return guarded([&] {
        require(scans != nullptr, "scan is missing", 0);
        require(count >= 1, "scans must be at least 1", count);
        const Kernels &k = kernels_for(bytes);
        for (const mambino_scan *one = scans; one < scans + count; one++) {
            check(*one);
            require(one->batch == scans->batch, "all scans must have one batch", one->batch);
            require(one->channels == scans->channels, "all scans must have as many channels", one->channels);
            require(one->groups == scans->groups, "all scans must have as many groups", one->groups);
        }
        forward(scans, count, k, threads < 1 ? 1 : threads);
    });
}

int mambino_scan_forward(const mambino_scan *scan, int bytes, int threads) {
    return mambino_scans_forward(scan, 1, bytes, threads);
}

int mambino_scan_backward(const mambino_scan *scan, const mambino_scan_gradients *gradients, int bytes, int threads) {
    return guarded([&] {
        require(scan != nullptr && gradients != nullptr, "scan or gradients are missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*scan);
        check(*scan, *gradients);
        backward(*scan, *gradients, k, bytes, threads < 1 ? 1 : threads);
    });
}

int mambino_conv_forward(const mambino_conv *conv, int bytes, int threads) {
    return guarded([&] {
        require(conv != nullptr, "conv is missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*conv);
        convolve(*conv, k, bytes, threads < 1 ? 1 : threads);
    });
}

int mambino_conv_backward(const mambino_conv *conv, const mambino_conv_gradients *gradients, int bytes, int threads) {
    return guarded([&] {
        require(conv != nullptr && gradients != nullptr, "conv or gradients are missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*conv);
        require_rows(gradients->y, "the gradient of y is missing");
        require_rows(gradients->x, "room for the gradient of x is missing");
        convolve_back(*conv, *gradients, k, bytes, threads < 1 ? 1 : threads);
    });
}

int mambino_norm_forward(const mambino_norm *norm, int bytes, int threads) {
    return guarded([&] {
        require(norm != nullptr, "norm is missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*norm);
        (bytes == 4 ? normalise<float> : normalise<double>)(*norm, k, threads < 1 ? 1 : threads);
    });
}

int mambino_norm_backward(const mambino_norm *norm, const mambino_norm_gradients *gradients, int bytes, int threads) {
    return guarded([&] {
        require(norm != nullptr && gradients != nullptr, "norm or gradients are missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*norm);
        require_rows(gradients->y, "the gradient of y is missing");
        require_rows(gradients->x, "room for the gradient of x is missing");
        (bytes == 4 ? normalise_back<float> : normalise_back<double>)(*norm, *gradients, k, threads < 1 ? 1 : threads);
    });
}

int mambino_layer_norm_forward(const mambino_layer_norm *norm, int bytes, int threads) {
    return guarded([&] {
        require(norm != nullptr, "norm is missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*norm);
        share_tokens(norm->batch, norm->length, threads < 1 ? 1 : threads, LayerNormTask{norm, 0, 0, 0}, k.layer_norm);
    });
}

int mambino_grid_conv_forward(const mambino_grid_conv *conv, int bytes, int threads) {
    return guarded([&] {
        require(conv != nullptr, "conv is missing", 0);
        const Kernels &k = kernels_for(bytes);
        check(*conv);
        const int64_t tokens = conv->sides[0] * conv->sides[1] * conv->sides[2];
        share_tokens(conv->batch, tokens, threads < 1 ? 1 : threads, GridConvTask{conv, 0, 0, 0}, k.grid_conv);
    });
}

void mambino_use_team(mambino_team team) {
    lent.team = team;
    lent.process = long(getpid());
}

double mambino_issue_rate(int bytes) {
    if (bytes != 4 && bytes != 8) return 0;
    const Kernels &k = bytes == 4 ? target().of_float : target().of_double;
    constexpr int64_t rounds = 200000;
    double best = 0, kept = 0;
    for (int i = 0; i < 20; i++) {
        const auto begin = std::chrono::steady_clock::now();
        kept += k.spin(rounds);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        const double rate = 12.0 * double(rounds) / took.count();
        best = rate > best ? rate : best;
    }
    return kept != kept ? 0 : best;
}

const char *mambino_isa(void) { return target().name; }

int mambino_set_isa(const char *name) {
    for (const Target *known : targets())
        if (name && !strcmp(known->name, name)) {
            chosen = known;
            return MAMBINO_OK;
        }
    snprintf(message, sizeof message, "this build or processor does not have the instruction set asked for");
    return MAMBINO_BAD_ARGUMENT;
}

const char *mambino_isas(void) {
    static const char *const names = [] {
        static char text[64] = "";
        for (const Target *known : targets()) {
            if (*text) strcat(text, " ");
            strcat(text, known->name);
        }
        return text;
    }();
    return names;
}

const char *mambino_message(void) { return message; }
