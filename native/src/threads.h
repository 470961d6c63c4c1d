// Work shared among threads that wait for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "mambino/scan.h"

#if defined(_WIN32)
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace mambino {

// A team that the caller has threads in already. They may spin while they wait, and would take the processors from
// threads of our own. A team does not survive a fork.
struct Lent {
    std::atomic<mambino_team> team{nullptr};
    std::atomic<long> process{0};

    mambino_team here() const { return process.load() == long(getpid()) ? team.load() : nullptr; }
};

inline Lent lent;

// Call work(context, 0) to work(context, count - 1) on a team that was lent.
inline void run_on(mambino_team team, int64_t count, int threads, void (*work)(void *, int64_t), void *context) {
    struct Round {
        int64_t count;
        void (*work)(void *, int64_t);
        void *context;
        std::atomic<int64_t> next{0};
        std::atomic<bool> failed{false};
    } round{count, work, context};
    const auto body = [](void *of) {
        Round &round = *(Round *)of;
        try {
            for (int64_t i; (i = round.next.fetch_add(1)) < round.count;) round.work(round.context, i);
        } catch (...) {
            round.failed = true;  // nothing may be thrown through the runtime, and memory is all that can lack
        }
    };
    team(body, &round, unsigned(count < threads ? count : threads), 0);
    if (round.failed) throw std::bad_alloc();
}

// Threads of one process. It is never destroyed: threads that wait when the program ends end with it.
class Pool {
public:
    // Call work(context, 0) to work(context, count - 1), on at most `threads` threads, the calling one among them.
    // A call from a second thread, while the first one is at work, does all by itself.
    static void run(int64_t count, int threads, void (*work)(void *, int64_t), void *context) {
        const mambino_team team = threads > 1 && count > 1 ? lent.here() : nullptr;
        if (team) return run_on(team, count, threads, work, context);
        if (threads < 2 || count < 2 || !here().share(count, threads, work, context))
            for (int64_t i = 0; i < count; i++) work(context, i);
    }

private:
    explicit Pool(long owner) : owner_(owner) {}

    // The threads of a process do not survive a fork, so each process has a pool of its own.
    static Pool &here() {
        static std::atomic<Pool *> current{nullptr};
        const long process = long(getpid());
        Pool *pool = current.load();
        if (pool && pool->owner_ == process) return *pool;
        Pool *const fresh = new Pool(process);
        while (!pool || pool->owner_ != process)
            if (current.compare_exchange_weak(pool, fresh)) return *fresh;
        delete fresh;
        return *pool;
    }

    bool share(int64_t count, int threads, void (*work)(void *, int64_t), void *context) {
        std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (!alone) return false;
        const int helpers = int(count < threads ? count : threads) - 1;
        {
            std::lock_guard<std::mutex> guard(mutex_);
            while (int(workers_.size()) < helpers) {
                const int index = int(workers_.size());
                try {
                    workers_.emplace_back([this, index] { serve(index); });
                } catch (const std::system_error &) {
                    break;  // no more threads are to be had: the others do the work
                }
                workers_.back().detach();
            }
            wanted_ = int(workers_.size()) < helpers ? int(workers_.size()) : helpers;
            work_ = work, context_ = context, count_ = count, next_ = 0, left_ = wanted_;
            round_++;
        }
        wake_.notify_all();
        take();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return left_ == 0; });
        return true;
    }

    void take() {
        for (int64_t i; (i = next_.fetch_add(1)) < count_;) work_(context_, i);
    }

    void serve(int index) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            if (index >= wanted_) continue;
            lock.unlock();
            take();
            lock.lock();
            if (--left_ == 0) done_.notify_one();
        }
    }

    const long owner_;
    std::mutex busy_, mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    void (*work_)(void *, int64_t) = nullptr;
    void *context_ = nullptr;
    int64_t count_ = 0;
    std::atomic<int64_t> next_{0};
    int wanted_ = 0, left_ = 0;
    uint64_t round_ = 0;
};

// Run `work` for each item, on at most so many threads.
template <class Item, class Work> void share(const std::vector<Item> &items, int threads, const Work &work) {
    struct Context {
        const std::vector<Item> &items;
        const Work &work;
    } context{items, work};
    Pool::run(
        int64_t(items.size()), threads,
        [](void *of, int64_t i) {
            const Context &known = *(const Context *)of;
            known.work(known.items[size_t(i)]);
        },
        &context);
}

}  // namespace mambino
