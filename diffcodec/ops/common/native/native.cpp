// Threads, memory, the list of exported functions. Compiled once, for the oldest processor.
#include "native.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(_WIN32)
#include <malloc.h>
#include <process.h>
static int process_id() { return _getpid(); }
#else
#include <unistd.h>
static int process_id() { return (int)getpid(); }
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// Sleeping threads, woken for one piece of work at a time. A fork leaves its child without them: it starts its own.
class Pool {
public:
    void run(int64_t threads, int64_t n, void (*f)(const void*, int64_t), const void* p) {
        std::unique_lock<std::mutex> one(busy_, std::try_to_lock);
        if (!one.owns_lock()) {  // another thread's work is on: the caller alone does its own
            for (int64_t i = 0; i < n; i++) f(p, i);
            return;
        }
        int64_t helpers = std::min<int64_t>({threads - 1, n - 1, 255});
        try {
            while ((int64_t)workers_.size() < helpers) {
                int number = (int)workers_.size();
                workers_.emplace_back([this, number] { work(number); });
                workers_.back().detach();
            }
        } catch (const std::exception&) {  // no more threads to be had
            helpers = (int64_t)workers_.size();
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            f_ = f, p_ = p, n_ = n, next_ = 0, wanted_ = helpers, open_ = true;
            failed_ = false;
            round_++;
        }
        wake_.notify_all();
        take(f, p, n);
        std::unique_lock<std::mutex> lock(mutex_);
        open_ = false;  // nobody waits for a thread that has not even woken up
        done_.wait(lock, [this] { return active_ == 0; });
        if (failed_) throw dc::OutOfMemory();
    }

private:
    void take(void (*f)(const void*, int64_t), const void* p, int64_t n) {
        try {
            for (int64_t i; (i = next_.fetch_add(1)) < n;) f(p, i);
        } catch (...) {  // the caller throws in their name
            failed_ = true;
            next_ = n;
        }
    }
    void work(int number) {
        uint64_t seen = 0;
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            if (number >= wanted_ || !open_) continue;
            active_++;
            auto f = f_;
            auto p = p_;
            auto n = n_;
            lock.unlock();
            take(f, p, n);
            lock.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    void (*f_)(const void*, int64_t) = nullptr;
    const void* p_ = nullptr;
    int64_t n_ = 0, wanted_ = 0, active_ = 0;
    bool open_ = false;
    uint64_t round_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<bool> failed_{false};
};

Pool* pool() {  // never destroyed: its threads may outlive what runs at exit
    static std::mutex mutex;
    static Pool* one = new Pool;
    static int owner = process_id();
    if (owner != process_id()) {
        // in a child of a fork: one thread, unless it has started others since; the old pool's locks may be held by threads that do not exist here
        static std::atomic_flag making = ATOMIC_FLAG_INIT;
        while (making.test_and_set()) std::this_thread::yield();
        if (owner != process_id()) {
            one = new Pool;
            owner = process_id();
        }
        making.clear();
    }
    return one;
}

// Memory that a thread has used and will want again: what a row of macroblocks needs is asked for thousands of times a second
class Cache {
public:
    static constexpr int SIZES = 9, EACH = 8;  // powers of two from 4 KiB to 1 MiB
    static int64_t bytes_of(int size) { return (int64_t)4096 << size; }
    static int size_of(int64_t bytes) {
        int size = 0;
        while (size < SIZES && bytes_of(size) < bytes) size++;
        return size;
    }
    void* take(int size) { return count_[size] ? kept_[size][--count_[size]] : nullptr; }
    bool keep(void* p, int size) {
        if (gone_ || count_[size] == EACH) return false;
        kept_[size][count_[size]++] = p;
        return true;
    }
    static void release(void* p) {
#if defined(_WIN32)
        _aligned_free((char*)p - 64);
#else
        free((char*)p - 64);
#endif
    }
    ~Cache() {
        gone_ = true;
        for (int s = 0; s < SIZES; s++)
            while (count_[s]) release(kept_[s][--count_[s]]);
    }

private:
    void* kept_[SIZES][EACH];
    int count_[SIZES] = {};
    bool gone_ = false;
};
thread_local Cache cache;

struct Function {
    std::string name, isa, signature;
    void* address;
};
std::vector<Function>& functions() {
    static std::vector<Function> all;
    return all;
}

}  // namespace

extern "C" {

void dc_parallel(int64_t threads, int64_t n, void (*run)(const void*, int64_t), const void* p) { pool()->run(threads, n, run, p); }

void* dc_allocate(int64_t bytes) {
    int size = Cache::size_of(bytes);
    if (size < Cache::SIZES)
        if (void* known = cache.take(size)) return known;
    // room in front says how large it is
    int64_t whole = (size < Cache::SIZES ? Cache::bytes_of(size) : bytes) + 64;
    void* p = nullptr;
#if defined(_WIN32)
    p = _aligned_malloc((size_t)whole, 64);
#else
    if (posix_memalign(&p, 64, (size_t)whole)) p = nullptr;
#endif
    if (!p) throw dc::OutOfMemory();
    *(int*)p = size;
    return (char*)p + 64;
}

void dc_free(void* p) {
    int size = *(int*)((char*)p - 64);
    if (size < Cache::SIZES && cache.keep(p, size)) return;
    Cache::release(p);
}

void dc_register(const char* name, const char* isa, const char* signature, void* function) {
    functions().push_back({name, isa, signature, function});
}

// Memory that is about to be written for the first time, mapped in one go: a page fault for every 4 KiB of a large new tensor takes longer than the
// arithmetic on it. Where the system does not know the request nothing happens.
__attribute__((visibility("default"))) void dc_map(void* p, int64_t bytes) {
#if defined(__linux__)
    constexpr int populate_write = 23;  // MADV_POPULATE_WRITE of Linux 5.14
    uintptr_t page = 4096, first = ((uintptr_t)p + page - 1) & ~(page - 1), last = ((uintptr_t)p + (uintptr_t)bytes) & ~(page - 1);
    if (last > first) madvise((void*)first, last - first, populate_write);
#else
    (void)p, (void)bytes;
#endif
}

// For the loader: functions one after the other (null behind the last), and what this processor can do.
__attribute__((visibility("default"))) const char* dc_function(int64_t i, const char** isa, const char** signature, void** address) {
    if (i < 0 || i >= (int64_t)functions().size()) return nullptr;
    const Function& f = functions()[(size_t)i];
    *isa = f.isa.c_str(), *signature = f.signature.c_str(), *address = f.address;
    return f.name.c_str();
}

__attribute__((visibility("default"))) const char* dc_version() { return DC_VERSION; }

__attribute__((visibility("default"))) int32_t dc_runs(const char* isa) {
    if (!strcmp(isa, "base")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") != 0;
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}
}
