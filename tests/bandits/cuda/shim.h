// What CUDA C++ has and C++ has not, so that the kernels compile and run as threads of the processor.
//
// The threads of a launch are run in an order drawn from a seed, by several workers at once: what a kernel leaves must
// not depend on either.

#include <cmath>
#include <cstddef>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

using std::log;
using std::sqrt;

struct Index {
    unsigned x;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;

#define __global__
#define __device__

static inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long amount) {
    return __atomic_fetch_add(to, amount, __ATOMIC_RELAXED);
}
static inline int atomicAdd(int* to, int amount) { return __atomic_fetch_add(to, amount, __ATOMIC_RELAXED); }
static inline unsigned long long atomicCAS(unsigned long long* to, unsigned long long seen, unsigned long long value) {
    __atomic_compare_exchange_n(to, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return seen;
}
static inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
    unsigned long long seen = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(to, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
static inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class... P, std::size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*(P*)arguments[I]...);
}

template <class... P>
static void emulate(void (*kernel)(P...), unsigned grid, unsigned block, unsigned long long seed, unsigned workers,
                    void** arguments) {
    gridDim.x = grid;
    blockDim.x = block;
    const unsigned long long total = (unsigned long long)grid * block;
    unsigned long long size = 1;
    while (size < total) size *= 2;
    const unsigned long long factor = (seed * 2862933555777941757ULL + 3037000493ULL) | 1;  // odd: a permutation
    std::vector<std::thread> running;
    for (unsigned worker = 0; worker < workers; ++worker)
        running.emplace_back([=] {
            for (unsigned long long i = worker; i < size; i += workers) {
                const unsigned long long number = (i * factor + (seed >> 7)) & (size - 1);
                if (number >= total) continue;
                blockIdx.x = (unsigned)(number / block);
                threadIdx.x = (unsigned)(number % block);
                call(kernel, arguments, std::index_sequence_for<P...>{});
            }
        });
    for (auto& worker : running) worker.join();
}
