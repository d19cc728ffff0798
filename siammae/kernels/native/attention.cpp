// The inner part of attention: a block of queries of one head against all its keys, never holding the matrix of weights.
//
// Compiled once for each instruction set and dtype, like tile.cpp and with the same care about C++ headers.
//
// A head's keys and values are laid out once, so that one inner loop serves both products: kRows rows of words, each word
// broadcast, times a panel of kPanel columns. Scores with kAttentionKeys keys stay in the cache, become weights in place,
// and the block's sums are scaled down when a later key turns out to be the best so far. Sums are float32. What a query gets
// depends on itself and the head's keys and values only, not on blocks or threads.
#include <stddef.h>

#include "attention.h"
#include "lanes.h"

namespace {

#if defined(__AVX512BF16__)
typedef uint16_t Value;  // the bits of a bfloat16
typedef uint32_t Pack;   // two of them, whose products go into one sum
typedef __m512i Packs;
enum { kPacked = 2 };

inline Packs load_packs(const Pack *p) { return _mm512_load_si512(p); }
inline Floats add_product(Floats sum, Pack one, Packs many) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int32_t)one), (__m512bh)many);
}
#else
typedef float Value;
typedef float Pack;
typedef Floats Packs;
enum { kPacked = 1 };

inline Packs load_packs(const Pack *p) { return *(const Floats *)p; }
inline Floats add_product(Floats sum, Pack one, Packs many) { return sum + one * many; }
#endif

typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// Sums enough to hide the time one takes, few enough to stay in registers.
enum { kRows = 6, kColumns = kLanes == 16 ? 4 : 2, kPanel = kColumns * kLanes };
static_assert(kAttentionQueries % kRows == 0 && kAttentionPanel % kPanel == 0 && kAttentionKeys % kAttentionPanel == 0,
              "blocks are whole groups of rows, what is filled up is whole panels");

// (kRows, depth) times (depth, kPanel): `out` is set, or added to. Rows of `many` are `step` words apart.
template <bool add>
__attribute__((noinline)) void multiply(const Pack *one, int64_t stride, const Pack *many, int64_t step, int64_t depth,
                                        float *out, int64_t out_stride) {
    Floats sums[kRows * kColumns];
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kColumns; ++i) sums[i] = Floats{};
    for (int64_t g = 0; g < depth; ++g, ++one, many += step) {
        Packs columns[kColumns];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) columns[c] = load_packs(many + c * kLanes);
#pragma GCC unroll 24
        for (int i = 0; i < kRows * kColumns; ++i)
            sums[i] = add_product(sums[i], one[i / kColumns * stride], columns[i % kColumns]);
    }
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kColumns; ++i) {
        Floats *to = (Floats *)(out + i / kColumns * out_stride) + i % kColumns;
        *to = add ? *to + sums[i] : sums[i];
    }
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline Floats splat(float x) { return x - Floats{}; }
inline Floats larger(Floats a, Floats b) { return a < b ? b : a; }

// 2 to the power of x, for x of 0 or less, to rounding; what is below 2^-126 is that. NaN stays NaN.
inline Floats power_of_two(Floats x) {
    x = larger(x, splat(-126.0f));
    const Floats whole = splat(12582912.0f);  // 1.5 * 2^23: sums with it are whole numbers
    const Floats shifted = x + whole, rest = x - (shifted - whole);
    // Least relative error over rest in [-0.5, 0.5] with 1 at 0: 2e-9.
    Floats power = splat(1.53533616e-4f);
    power = power * rest + 1.33988744e-3f;
    power = power * rest + 9.61843736e-3f;
    power = power * rest + 5.55033247e-2f;
    power = power * rest + 2.40226479e-1f;
    power = power * rest + 6.93147203e-1f;
    power = power * rest + 1.0f;
    return power * (Floats)(((Ints)shifted - (Ints)whole + 127) << 23);
}

float largest(Floats lanes) {
    float best = lanes[0];
    for (int lane = 1; lane < kLanes; ++lane) best = best < lanes[lane] ? lanes[lane] : best;
    return best;
}

float sum(Floats lanes) {
    float halves[kLanes];
    *(LooseFloats *)halves = lanes;
    for (int half = kLanes / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) halves[lane] += halves[lane + half];
    return halves[0];
}

struct Row {  // of a block: a query
    float best;   // the largest score so far
    float total;  // of its weights
};

// Two vectors of weights take the place of a row's scores, from its number `from` on; in bfloat16 they need half of it.
inline void keep(float *row, int64_t from, Floats first, Floats second) {
#if defined(__AVX512BF16__)
    _mm512_storeu_si512((Value *)row + from, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
#else
    *(Floats *)(row + from) = first;
    *(Floats *)(row + from + kLanes) = second;
#endif
}

// Turns a row's scores into weights, and scales down what its sums have so far where one of them is the best.
void weigh(Row &row, float *scores, int64_t keys, float *sums, int64_t width, float scale) {
    Floats best = *(const Floats *)scores;
    for (int64_t k = kLanes; k < keys; k += kLanes) best = larger(best, *(const Floats *)(scores + k));
    const float now = largest(best);
    if (!(now <= row.best)) {
        const Floats less = power_of_two(splat((row.best - now) * scale));
        for (int64_t c = 0; c < width; c += kLanes) *(Floats *)(sums + c) = less * *(const Floats *)(sums + c);
        row = {now, less[0] * row.total};
    }
    Floats total = {};
    for (int64_t k = 0; k < keys; k += 2 * kLanes) {
        // Subtracted before they are scaled, so that the best one's exponent is 0 whatever its size.
        const Floats first = power_of_two((*(const Floats *)(scores + k) - row.best) * scale);
        const Floats second = power_of_two((*(const Floats *)(scores + k + kLanes) - row.best) * scale);
        total = total + (first + second);
        keep(scores, k, first, second);
    }
    row.total += sum(total);
}

// Where a head's channels of a token are; heads are counted through all images.
const Value *channels_of(const Attention &a, const void *first, int64_t token, int64_t count, int64_t step, int64_t head) {
    return (const Value *)first + (head / a.heads * count + token) * step + head % a.heads * a.width;
}

void lay_out(const Attention &a, int64_t head) {
    const int64_t groups = a.width / kPacked, filled = attention_filled(a.tokens), columns = attention_filled(a.width);
    Pack *keys = (Pack *)a.keys + head * key_words(a, kPacked);
    Value *values = (Value *)((Pack *)a.values + head * value_words(a, kPacked));
    __builtin_memset(values, 0, (size_t)value_words(a, kPacked) * sizeof(Pack));
    for (int64_t token = 0; token < filled; ++token) {
        Pack *to = keys + token / kPanel * kPanel * groups + token % kPanel;
        if (token >= a.tokens) {
            for (int64_t g = 0; g < groups; ++g) to[g * kPanel] = 0;
            continue;
        }
        const Value *key = channels_of(a, a.key, token, a.tokens, a.token_step, head);
        const Value *value = channels_of(a, a.value, token, a.tokens, a.token_step, head);
        for (int64_t g = 0; g < groups; ++g) __builtin_memcpy(to + g * kPanel, key + g * kPacked, sizeof *to);
        Value *row = values + token / kPacked * columns * kPacked + token % kPacked;
        for (int64_t c = 0; c < a.width; ++c) row[c * kPacked] = value[c];
    }
}

void finish(const Row &row, const float *sums, int64_t width, Value *out) {
    alignas(64) Value rounded[kLanes];
    for (int64_t c = 0; c < width; c += kLanes) {
        const Floats mean = *(const Floats *)(sums + c) / row.total;
#if defined(__AVX512BF16__)
        _mm256_store_si256((__m256i *)rounded, (__m256i)_mm512_cvtneps_pbh((__m512)mean));
#else
        *(Floats *)rounded = mean;
#endif
        const int64_t some = least(width - c, kLanes);
        __builtin_memcpy(out + c, rounded, (size_t)some * sizeof(Value));
    }
}

void run(const Attention &a, int64_t head, int64_t first, float *scratch) {
    const int64_t groups = a.width / kPacked, filled = attention_filled(a.tokens), columns = attention_filled(a.width);
    const Pack *keys = (const Pack *)a.keys + head * key_words(a, kPacked);
    const Pack *values = (const Pack *)a.values + head * value_words(a, kPacked);
    float *scores = scratch, *sums = scores + kAttentionQueries * kAttentionStride;
    Pack *queries = (Pack *)(sums + kAttentionQueries * columns);
    Row rows[kAttentionQueries];
    __builtin_memset(sums, 0, sizeof(float) * (size_t)(kAttentionQueries * columns));
    for (int64_t q = 0; q < kAttentionQueries; ++q) {
        rows[q] = {-__builtin_inff(), 0};
        const Value *query = channels_of(a, a.query, least(first + q, a.queries - 1), a.queries, a.query_step, head);
        __builtin_memcpy(queries + q * groups, query, (size_t)a.width * sizeof(Value));
    }
    for (int64_t from = 0; from < filled; from += kAttentionKeys) {
        const int64_t some = least(filled - from, kAttentionKeys);
        for (int64_t k = 0; k < some; k += kPanel)
            for (int64_t q = 0; q < kAttentionQueries; q += kRows)
                multiply<false>(queries + q * groups, groups, keys + (from + k) * groups, kPanel, groups,
                                scores + q * kAttentionStride + k, kAttentionStride);
        for (int64_t q = 0; q < kAttentionQueries; ++q) {
            float *row = scores + q * kAttentionStride;
            for (int64_t k = a.tokens - from; k < some; ++k) row[k] = -__builtin_inff();  // what fills up the last panel
            weigh(rows[q], row, some, sums + q * columns, columns, (float)a.scale);
        }
        for (int64_t c = 0; c < columns; c += kPanel)
            for (int64_t q = 0; q < kAttentionQueries; q += kRows)
                multiply<true>((const Pack *)scores + q * kAttentionStride, kAttentionStride,
                               values + from / kPacked * columns + c, columns, some / kPacked, sums + q * columns + c, columns);
    }
    for (int64_t q = 0; q < kAttentionQueries && first + q < a.queries; ++q)
        finish(rows[q], sums + q * columns, a.width,
               (Value *)a.out + ((head / a.heads * a.queries + first + q) * a.heads + head % a.heads) * a.width);
}

}  // namespace

#define SIAMMAE_JOIN_(a, b) a##b
#define SIAMMAE_JOIN(a, b) SIAMMAE_JOIN_(a, b)
extern "C" void SIAMMAE_JOIN(siammae_pack_, SIAMMAE_LEVEL)(const Attention *a, int64_t head) { lay_out(*a, head); }
extern "C" void SIAMMAE_JOIN(siammae_attend_, SIAMMAE_LEVEL)(const Attention *a, int64_t head, int64_t first,
                                                             float *scratch) {
    run(*a, head, first, scratch);
}
