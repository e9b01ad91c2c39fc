// CUDA C++ as a processor runs it: every thread of a block is a fiber, and fibers change places at barriers and warp
// operations only. Blocks run one after the other. Included before each kernel by `driver.cpp`.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
template <class To, class From>
static inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float v) { return bits_as<unsigned>(v); }
static inline float __uint_as_float(unsigned v) { return bits_as<float>(v); }
static inline int __float2int_rn(float v) { return (int)lrintf(v); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        out |= (unsigned)(bytes >> (8 * (s >> (4 * i) & 7)) & 255) << (8 * i);
    }
    return out;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) {
        c += (signed char)(a >> i) * (signed char)(b >> i);
    }
    return c;
}

namespace fibers {

// Threads of a block that must arrive before any of them goes on.
struct Barrier {
    unsigned arrived = 0, generation = 0, members = 0;
    void release_if_complete() {
        if (arrived > 0 && arrived == members) {
            arrived = 0;
            generation++;
        }
    }
};

// What a lane shows to the others of its warp; two places, so that a lane that runs ahead overwrites nothing unread.
struct Slot {
    unsigned words[2][6];
    unsigned turn;
};

struct Fiber {
    jmp_buf place;
    bool is_done = true;
    Slot slot{};
    std::vector<char> stack;
};

static std::vector<Fiber> all;
static std::vector<Barrier> warps;
static Barrier block;
static jmp_buf outside;
static unsigned n_live = 0;
static void (*body)(const void*);
static const void* argument;

static void resume_next() {
    unsigned i = threadIdx.x;
    do {
        i = i + 1 == blockDim.x ? 0 : i + 1;
    } while (all[i].is_done);
    threadIdx.x = i;
    _longjmp(all[i].place, 1);
}

static void yield() {
    if (n_live > 1 && _setjmp(all[threadIdx.x].place) == 0) {
        resume_next();
    }
}

static void wait(Barrier& barrier) {
    unsigned generation = barrier.generation;
    barrier.arrived++;
    barrier.release_if_complete();
    while (barrier.generation == generation) {
        yield();
    }
}

static void main() {
    while (true) {
        body(argument);
        all[threadIdx.x].is_done = true;
        n_live--;
        block.members--;
        block.release_if_complete();
        Barrier& warp = warps[threadIdx.x / 32];
        warp.members--;
        warp.release_if_complete();
        if (_setjmp(all[threadIdx.x].place) == 0) {
            if (n_live == 0) {
                _longjmp(outside, 1);
            }
            resume_next();
        }
    }
}

// A fiber's first start; later ones come back by its jump buffer.
static void create(unsigned i) {
    static ucontext_t here, there;
    all[i].stack.resize(128 << 10);
    getcontext(&there);
    there.uc_stack.ss_sp = all[i].stack.data();
    there.uc_stack.ss_size = all[i].stack.size();
    there.uc_link = nullptr;
    makecontext(&there, (void (*)())+[] {
        if (_setjmp(all[threadIdx.x].place) == 0) {
            setcontext(&here);
        }
        main();
    }, 0);
    threadIdx = {i, 0, 0};
    swapcontext(&here, &there);
}

static void run_block() {
    n_live = block.members = blockDim.x;
    block.arrived = 0;
    for (unsigned i = 0; i < warps.size(); i++) {
        warps[i] = Barrier{0, 0, min(32, blockDim.x - 32 * i)};
    }
    for (auto& fiber : all) {
        fiber.is_done = false;
    }
    if (_setjmp(outside) == 0) {
        threadIdx = {0, 0, 0};
        _longjmp(all[0].place, 1);
    }
}

static void run_grid(const unsigned grid[3], unsigned threads, void (*f)(const void*), const void* params) {
    body = f;
    argument = params;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    if (all.size() != threads) {
        all = std::vector<Fiber>(threads);
        warps.resize((threads + 31) / 32);
        for (unsigned i = 0; i < threads; i++) {
            create(i);
        }
    }
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                run_block();
            }
        }
    }
}

// Shows `words` to the warp; returns where those of the other lanes lie.
static unsigned show(const unsigned* words, unsigned n) {
    Slot& slot = all[threadIdx.x].slot;
    unsigned turn = slot.turn ^= 1;
    memcpy(slot.words[turn], words, n * 4);
    wait(warps[threadIdx.x / 32]);
    return turn;
}

static unsigned shown(unsigned turn, unsigned lane, unsigned word) {
    return all[threadIdx.x / 32 * 32 + lane % 32].slot.words[turn][word];
}

}  // namespace fibers

static void __syncthreads() { fibers::wait(fibers::block); }

template <class T>
static T __shfl_sync(unsigned, T value, unsigned lane) {
    unsigned word = bits_as<unsigned>(value);
    unsigned turn = fibers::show(&word, 1);
    return bits_as<T>(fibers::shown(turn, lane, 0));
}

template <class T>
static T __shfl_xor_sync(unsigned mask, T value, unsigned other) {
    return __shfl_sync(mask, value, threadIdx.x % 32 ^ other);
}
