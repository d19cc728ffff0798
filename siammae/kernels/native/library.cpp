// The C interface of the native backend: which instruction sets there are, and one call of affinity or attention over threads.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "library.h"
#include "attention.h"

#define SIAMMAE_DECLARE(level)                                \
    void siammae_tile_##level(const Problem *, const Tile *); \
    void siammae_layout_##level(int64_t, int64_t, int64_t, void *, Frame *);

#define SIAMMAE_DECLARE_ATTENTION(level)               \
    void siammae_pack_##level(const Attention *, int64_t); \
    void siammae_attend_##level(const Attention *, int64_t, int64_t, float *);

extern "C" {
SIAMMAE_DECLARE(portable)
#if defined(__x86_64__)
SIAMMAE_DECLARE(avx2)
SIAMMAE_DECLARE(avx512)
SIAMMAE_DECLARE(avx512vnni)
SIAMMAE_DECLARE_ATTENTION(avx2)
SIAMMAE_DECLARE_ATTENTION(avx512)
SIAMMAE_DECLARE_ATTENTION(avx512bf16)
#endif
}

namespace {

struct Attends {
    PackFunction pack;  // null where a level has none
    AttendFunction attend;
};

struct Level {
    const char *name;
    TileFunction tile;
    LayoutFunction layout;
    bool screens;  // in int8 and int16, with words of both and float32 patches beside them
    bool (*runs_here)();
    Attends attention, attention_bfloat16;
};

#if SIAMMAE_WITH_BFLOAT16
const Attends kAttendsBfloat16 = {siammae_pack_avx512bf16, siammae_attend_avx512bf16};
bool runs_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
#else
const Attends kAttendsBfloat16 = {};
bool runs_bfloat16() { return false; }
#endif

// Best first.
const Level kLevels[] = {
#if defined(__x86_64__)
    {"avx512-vnni", siammae_tile_avx512vnni, siammae_layout_avx512vnni, true,
     [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); },
     {siammae_pack_avx512, siammae_attend_avx512},
     kAttendsBfloat16},
    {"avx512", siammae_tile_avx512, siammae_layout_avx512, false,
     [] { return bool(__builtin_cpu_supports("avx512f")); },
     {siammae_pack_avx512, siammae_attend_avx512},
     {}},
    {"avx2", siammae_tile_avx2, siammae_layout_avx2, false,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     {siammae_pack_avx2, siammae_attend_avx2},
     {}},
#endif
    {"portable", siammae_tile_portable, siammae_layout_portable, false, [] { return true; }, {}, {}},
};
const int kLevelCount = sizeof(kLevels) / sizeof(kLevels[0]);

// Threads take tiles from a counter: which thread does a tile changes nothing in it.
void work(const Problem &problem, TileFunction tile, std::atomic<int64_t> &next, int64_t side, void *scratch) {
    const int64_t across = (problem.width + side - 1) / side, down = (problem.height + side - 1) / side;
    for (int64_t i; (i = next.fetch_add(1)) < across * down;) {
        const int64_t top = i / across * side, left = i % across * side;
        const Tile part = {top, std::min(problem.height, top + side), left, std::min(problem.width, left + side), scratch};
        tile(&problem, &part);
    }
}

// Runs `part` in up to so many threads. PyTorch's own where its OpenMP is in the process: they go on turning for a while
// after each of its operations, and others would share the cores with them.
template <typename Part>
void in_threads(int32_t count, const Part &part) {
    using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
    static const Parallel parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (parallel && count > 1) {
        parallel([](void *part) { (*static_cast<const Part *>(part))(); }, const_cast<Part *>(&part), unsigned(count), 0);
        return;
    }
    std::vector<std::thread> others;
    others.reserve(count);
    for (int32_t i = 1; i < count; ++i) {
        try {
            others.emplace_back(part);
        } catch (...) {
            break;  // the system gives no more threads: those there are do all the tiles
        }
    }
    part();
    for (std::thread &other : others) other.join();
}

}  // namespace

extern "C" {

// Goes up with every change of the headers' structures or of a function here.
int32_t siammae_native_abi() { return 5; }

int32_t siammae_native_levels() { return kLevelCount; }
const char *siammae_native_level_name(int32_t level) { return kLevels[level].name; }
int32_t siammae_native_level_screens(int32_t level) { return kLevels[level].screens; }
int32_t siammae_native_level_runs(int32_t level) { return kLevels[level].runs_here(); }

int32_t siammae_native_level_attends(int32_t level, int32_t bfloat16) {
    if (bfloat16 && !runs_bfloat16()) return 0;
    return (bfloat16 ? kLevels[level].attention_bfloat16 : kLevels[level].attention).pack != nullptr;
}

// Returns 0, or 1 where there is too little memory; as do the next ones.
int32_t siammae_native_layout(int64_t channels, int64_t h, int64_t w, int32_t level, Frame *frame) try {
    std::vector<float> room(size_t(channels) * kTogether);
    kLevels[level].layout(channels, h, w, room.data(), frame);
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}

int32_t siammae_native_topk(const Problem *problem, int32_t level, int32_t threads) try {
    const auto tiles = [&](int64_t side) {
        return ((problem->width + side - 1) / side) * ((problem->height + side - 1) / side);
    };
    // Large tiles read the context less often; small ones share the work out evenly.
    const int64_t side = tiles(kTileSide) >= 4 * threads ? kTileSide : kTileSide / 2;
    threads = int32_t(std::min<int64_t>(std::max(threads, 1), tiles(side)));
    const size_t bytes = (size_t(problem->channels) * 4 + 16) * (kTileSide * kTileSide + 1);
    std::vector<char> memory(bytes * threads + 64);
    char *scratch = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
    std::atomic<int64_t> next{0}, number{0};
    in_threads(threads, [&] { work(*problem, kLevels[level].tile, next, side, scratch + number.fetch_add(1) * bytes); });
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}
// The caller leaves `keys` and `values` of the call's description empty.
int32_t siammae_native_attend(const Attention *call, int32_t bfloat16, int32_t level, int32_t threads) try {
    const Attends &run = bfloat16 ? kLevels[level].attention_bfloat16 : kLevels[level].attention;
    const int64_t packed = bfloat16 ? 2 : 1, blocks = (call->queries + kAttentionQueries - 1) / kAttentionQueries;
    const int64_t heads = call->images * call->heads;
    threads = int32_t(std::min<int64_t>(std::max(threads, 1), heads * blocks));
    // All counts are multiples of 16 words, so that what follows an array is aligned as well.
    const int64_t keys = heads * key_words(*call, packed), values = heads * value_words(*call, packed);
    const int64_t row = kAttentionStride + attention_filled(call->width) + call->width;
    const int64_t scratch = (kAttentionQueries * row + 15) / 16 * 16;
    const std::unique_ptr<float[]> memory(new float[keys + values + threads * scratch + 16]);
    float *start = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) / 4;
    Attention attention = *call;
    attention.keys = start, attention.values = start + keys;
    std::atomic<int64_t> next_head{0}, next_block{0}, number{0};
    in_threads(threads, [&] {
        for (int64_t head; (head = next_head.fetch_add(1)) < heads;) run.pack(&attention, head);
    });
    in_threads(threads, [&] {
        float *mine = start + keys + values + number.fetch_add(1) * scratch;
        for (int64_t i; (i = next_block.fetch_add(1)) < heads * blocks;)
            run.attend(&attention, i / blocks, i % blocks * kAttentionQueries, mine);
    });
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}
}
