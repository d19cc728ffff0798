// The inner part of the native backend: one tile of query patches against all context frames.
//
// Compiled once for each instruction set, with SIAMMAE_LEVEL naming the function. No C++ headers here: an inline
// function from one of them, compiled for AVX-512, could be the copy the linker keeps for every machine.
//
// A block of kQueries patches (kAcross x kDown) is multiplied with up to kVectors * kLanes neighbouring keys of one row,
// every product sum staying in one register lane from the first channel to the last. So a pair's score depends on its
// two patches only, not on tiles or threads (with VNNI, because it is made anew). The sums are compared with each query's
// top_k-th best at once, in registers.
//
// With VNNI the sums are of int8 or int16 products, four times or twice as fast, and only a screen: by Cauchy-Schwarz
// |q.k - q'.k'| <= |q - q'| |k| + |q'| |k - k'|, and every key whose screened score comes within that bound (and the
// rounding of float32 sums) of the top_k-th best is scored again in float32. The result is that of float32. Where patches
// look so alike that int8 lets too many through, the rest of a tile is screened in int16.
#include <stddef.h>

#include "library.h"
#include "grid.h"
#include "lanes.h"

namespace {

const float kMinusInfinity = -__builtin_inff();

// A query patch's running list is its row of the result; this is what is kept beside it.
struct Query {
    int64_t patch;  // into h*w, or -1 for a block's padding
    int64_t count;  // entries in the list
    int64_t tied;   // patches left out that equal the last entry
    float kth;      // the last entry's score; -inf while the list is not full
    Word bar;       // what a sum must reach to be looked at
    Word offset;    // what coarse sums have too much: 128 times the sum of the rounded channels
};

struct Block {
    int64_t y, x;
    Query queries[kQueries];  // row by row
    Word *words, *coarse;     // (groups, kQueries)
    const float *patches[kQueries];
};

struct Screen {  // of a tile's queries
    Rounding fine, coarse;
    double length;
};

struct Effort {
    int64_t sums, looked;  // sums made, and those of them that were looked at
};

struct Row {  // one row of one context frame
    const Frame *frame;
    const Word *words;  // (groups, w)
    int64_t y, first;   // first: the flat index of its first patch
    double scale;       // from a score to a screened sum
    double margin;      // how far the two can be apart, as a score
    bool coarse;
    Effort *effort;
};

void set_bar(Query &query, const Row &row) {
#if defined(__AVX512VNNI__)
    const double bar = __builtin_floor(((double)query.kth - row.margin) * row.scale) + (row.coarse ? query.offset : 0);
    query.bar = bar <= -2147483648.0 ? INT32_MIN : bar >= 2147483647.0 ? INT32_MAX : (Word)bar;
#else
    (void)row;
    query.bar = query.kth;
#endif
}

// Keys come in the order of their index, so among equal scores the first one stays ahead.
void offer(Query &query, const Problem &p, const Row &row, float score, int64_t index) {
    if (query.count == p.top_k && !(score > query.kth)) {
        query.tied += score == query.kth;
        return;
    }
    float *scores = p.scores + query.patch * p.top_k;
    int64_t *indices = p.indices + query.patch * p.top_k;
    const bool full = query.count == p.top_k;
    const float dropped = query.kth;
    int64_t place = full ? p.top_k - 1 : query.count++;
    for (; place > 0 && score > scores[place - 1]; --place) {
        scores[place] = scores[place - 1];
        indices[place] = indices[place - 1];
    }
    scores[place] = score;
    indices[place] = index;
    if (query.count < p.top_k) return;
    query.kth = scores[p.top_k - 1];
    query.tied = full && query.kth == dropped ? query.tied + 1 : 0;
    set_bar(query, row);
}

// Lanes [from, to] of a block's keys, as bits.
inline uint64_t lanes_between(int64_t from, int64_t to, int64_t lanes) {
    from = most(from, 0);
    to = least(to, lanes - 1);
    return to < from ? 0 : (~(uint64_t)0 >> (63 - (to - from))) << from;
}

void look_at(uint64_t bits, const Word *sums, Block &block, int q, const Problem &p, const Row &row, int64_t x) {
    for (; bits; bits &= bits - 1) {
        const int lane = __builtin_ctzll(bits);
        if (!(sums[lane] >= block.queries[q].bar)) continue;
        const float *key = row.frame->patches + (row.y * p.width + x + lane) * p.channels;
        ++row.effort->looked;
        const float score = kScreens ? exact_score(block.patches[q], key, p.channels) : (float)sums[lane];
        offer(block.queries[q], p, row, score, row.first + x + lane);
    }
}

// All sums of a block with V * kLanes keys. Apart from what follows, so that the compiler keeps them in registers.
template <int V, bool coarse>
__attribute__((noinline)) void multiply(const Word *query, const Word *key, int64_t stride, int64_t groups, Word *out) {
    Sums sums[kQueries * V];
#pragma GCC unroll 24
    for (int i = 0; i < kQueries * V; ++i) sums[i] = zero();
    for (int64_t g = 0; g < groups; ++g, key += stride, query += kQueries) {
        Sums keys[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) keys[v] = load(key + v * kLanes);
#pragma GCC unroll 24
        for (int i = 0; i < kQueries * V; ++i)
            sums[i] = coarse ? multiply_add_bytes(sums[i], query[i / V], keys[i % V])
                             : multiply_add(sums[i], query[i / V], keys[i % V]);
    }
#pragma GCC unroll 24
    for (int i = 0; i < kQueries * V; ++i) store(out + i * kLanes, sums[i]);
}

template <int V, bool coarse>
void match(Block &block, const Problem &p, const Row &row, int64_t x, const int64_t *half) {
    alignas(64) Word sums[kQueries * V * kLanes];
    multiply<V, coarse>(coarse ? block.coarse : block.words, row.words + x, p.width, groups_of(p.channels, coarse), sums);
    row.effort->sums += kQueries * V * kLanes;
    for (int q = 0; q < kQueries; ++q) {
        const Word *mine = sums + q * V * kLanes;
        uint64_t bits = 0;
        for (int v = 0; v < V; ++v) bits |= at_least(load(mine + v * kLanes), block.queries[q].bar) << (v * kLanes);
        if (!bits || block.queries[q].patch < 0) continue;
        const int64_t at = block.x + q % kAcross - x, width = half[q / kAcross];
        bits &= lanes_between(most(at - width, -x), least(at + width, p.width - 1 - x), V * kLanes);
        look_at(bits, mine, block, q, p, row, x);
    }
}

template <bool coarse>
void visit(Block &block, const Problem &p, const Row &row, bool free) {
    int64_t half[kDown], widest = -1;
    for (int down = 0; down < kDown; ++down) {
        const int64_t distance = block.y + down < row.y ? row.y - block.y - down : block.y + down - row.y;
        half[down] = free ? p.width : distance <= p.reach ? p.half[distance] : -1 - p.width;
        widest = most(widest, half[down]);
    }
    if (widest < 0) return;
    const int64_t end = least(p.width, block.x + kAcross + widest);
    int64_t x = most(0, block.x - widest);
    for (int64_t vectors = (end - x + kLanes - 1) / kLanes; vectors > 0;) {
        // Four vectors are two and two, not three and one: a single one cannot keep the multipliers busy.
        const int64_t now = vectors == 4 ? 2 : least(vectors, kVectors);
        if (now == 3) match<3, coarse>(block, p, row, x, half);
        if (now == 2) match<2, coarse>(block, p, row, x, half);
        if (now == 1) match<1, coarse>(block, p, row, x, half);
        x += now * kLanes;
        vectors -= now;
    }
}

void place(Block &block, const Problem &p, const Tile &tile, int64_t y, int64_t x) {
    block.y = y, block.x = x;
    for (int q = 0; q < kQueries; ++q) {
        const int64_t row = y + q / kAcross, column = x + q % kAcross;
        const bool real = row < tile.bottom && column < tile.right;
        const int64_t patch = least(row, tile.bottom - 1) * p.width + least(column, tile.right - 1);
        block.queries[q] = Query{real ? patch : -1, 0, 0, kMinusInfinity, Word{}, Word{}};
        block.patches[q] = p.query + patch * p.channels;
    }
}

void pack(Block &block, int64_t channels, const Screen &screen, Word *room) {
    for (int q = 0; q < kQueries; ++q) {
        words_of(block.patches[q], channels, (float)screen.fine.scale, room);
        for (int64_t g = 0; g < groups_of(channels, false); ++g) block.words[g * kQueries + q] = room[g];
        if (!kScreens) continue;
        coarse_words_of(block.patches[q], channels, (float)screen.coarse.scale, 0, room);
        for (int64_t g = 0; g < groups_of(channels, true); ++g) block.coarse[g * kQueries + q] = room[g];
        int64_t sum = 0;
        for (int64_t c = 0; c < channels; ++c) sum += ((const int8_t *)room)[c];
        block.queries[q].offset = (Word)(128 * sum);
    }
}

void finish(const Query &query, const Problem &p) {
    if (query.patch < 0) return;
    p.tied[query.patch] = query.tied;
    for (int64_t place = query.count; place < p.top_k; ++place) {
        p.scores[query.patch * p.top_k + place] = kMinusInfinity;
        p.indices[query.patch * p.top_k + place] = 0;
    }
}

// Asks for a share of the next row's words, so that they are near when the blocks come to them.
void prefetch(const Row &row, const Problem &p, const Tile &tile, bool free, int64_t share, int64_t shares) {
    const int64_t groups = groups_of(p.channels, row.coarse), end = groups * (share + 1) / shares;
    const Word *words = row.words + groups * p.width;
    const int64_t left = free ? 0 : most(0, tile.left - p.reach);
    const int64_t right = free ? p.width : least(p.width, tile.right + p.reach);
    for (int64_t g = groups * share / shares; g < end; ++g)
        for (int64_t x = left; x < right; x += 16) __builtin_prefetch(words + g * p.width + x, 0, 2);
}

template <bool coarse>
void search(Block *blocks, int64_t count, const Problem &p, const Tile &tile, int64_t f, const Screen &screen, Effort *effort) {
    const Frame &frame = p.context[f];
    const Grid &grid = coarse ? frame.coarse : frame.fine;
    const Rounding &own = coarse ? screen.coarse : screen.fine;
    const bool free = f < p.free_frames;
    // What float32 sums can be off by is added twice, with room to spare: the bar and the new score both have it.
    const double rounding = 2.4e-7 * (double)(p.channels + 8) * screen.length * frame.length;
    const double margin = own.error * frame.length + (screen.length + own.error) * grid.error + rounding;
    Row row = {&frame, 0, 0, 0, own.scale * grid.scale, margin, coarse, effort};
    for (int64_t i = 0; i < count; ++i)
        for (Query &query : blocks[i].queries) set_bar(query, row);
    const int64_t begin = free ? 0 : most(0, tile.top - p.reach);
    const int64_t end = free ? p.height : least(p.height, tile.bottom + p.reach);
    for (row.y = begin; row.y < end; ++row.y) {
        row.words = (const Word *)grid.words + row.y * groups_of(p.channels, coarse) * p.width;
        row.first = (f * p.height + row.y) * p.width;
        for (int64_t i = 0; i < count; ++i) {
            if (row.y + 1 < end) prefetch(row, p, tile, free, i, count);
            visit<coarse>(blocks[i], p, row, free);
        }
    }
}

// Fills the blocks of a tile with its queries, and returns how many there are.
int64_t place_all(Block *blocks, const Problem &p, const Tile &tile, Word *words) {
    int64_t count = 0;
    for (int64_t y = tile.top; y < tile.bottom; y += kDown)
        for (int64_t x = tile.left; x < tile.right; x += kAcross) {
            Block &block = blocks[count++];
            block.words = words;
            words += groups_of(p.channels, false) * kQueries;
            block.coarse = words;
            words += kScreens ? groups_of(p.channels, true) * kQueries : 0;
            place(block, p, tile, y, x);
        }
    return count;
}

Screen screen_of(const Block *blocks, int64_t count, int64_t channels) {
    const auto patch = [&](int64_t i) { return blocks[i / kQueries].patches[i % kQueries]; };
    double longest = 0;
    for (int64_t i = 0; i < count * kQueries; ++i) longest = longest_squared(patch(i), channels, longest);
    const double length = length_of(longest, channels);
    return {fine_grid(length, channels), coarse_grid(count * kQueries, channels, patch), length};
}

// Looking at a patch costs as much as this many coarse sums save: measured on an EPYC (Zen 4), 192 and 384 channels.
enum { kSaved = 32 };

void run(const Problem &p, const Tile &tile) {
    Block blocks[(kTileSide / kDown) * (kTileSide / kAcross)];
    Word *room = (Word *)tile.scratch, *words = room + groups_of(p.channels, false);
    const int64_t count = place_all(blocks, p, tile, words);
    Screen screen = {};
    if (kScreens) screen = screen_of(blocks, count, p.channels);
    for (int64_t i = 0; i < count; ++i) pack(blocks[i], p.channels, screen, room);
    bool pays = kScreens;
    for (int64_t f = 0; f < p.frames; ++f) {
        Effort effort = {};
        // The first window fills the lists, so much of it is looked at.
        const bool filled = f > 0 || p.free_frames > 0;
        const bool coarse = pays && filled && p.context[f].coarse.words;
        (coarse ? search<true> : search<false>)(blocks, count, p, tile, f, screen, &effort);
        if (coarse && f > 0) pays = effort.looked * kSaved < effort.sums;
    }
    for (int64_t i = 0; i < count; ++i)
        for (const Query &query : blocks[i].queries) finish(query, p);
}

}  // namespace

#define SIAMMAE_JOIN_(a, b) a##b
#define SIAMMAE_JOIN(a, b) SIAMMAE_JOIN_(a, b)
extern "C" void SIAMMAE_JOIN(siammae_tile_, SIAMMAE_LEVEL)(const Problem *problem, const Tile *tile) {
    run(*problem, *tile);
}
extern "C" void SIAMMAE_JOIN(siammae_layout_, SIAMMAE_LEVEL)(int64_t channels, int64_t h, int64_t w, void *room,
                                                             Frame *frame) {
    lay_out(channels, h, w, (Word *)room, *frame);
}
