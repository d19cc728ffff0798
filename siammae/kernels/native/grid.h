// How patches become words: float32 as it is, or rounded to a grid of int16 or int8, and how far that moves them.
// For tile.cpp, like it compiled once for each instruction set.
#pragma once
#include <stdint.h>

#include "library.h"
#include "lanes.h"

namespace {

struct Rounding {  // as in Grid
    double scale, error;
};

inline int64_t groups_of(int64_t channels, bool coarse) {
    return coarse ? (channels + 3) / 4 : kScreens ? (channels + 1) / 2 : channels;
}
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Sums of float32 products in a fixed order: lanes, then halves of lanes.
// Not inlined, so that it is the same code everywhere.
__attribute__((noinline)) float exact_score(const float *q, const float *k, int64_t channels) {
    Floats even = {}, odd = {};
    int64_t c = 0;
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
        even = even + *(const LooseFloats *)(q + c) * *(const LooseFloats *)(k + c);
        odd = odd + *(const LooseFloats *)(q + c + kLanes) * *(const LooseFloats *)(k + c + kLanes);
    }
    even = even + odd;
    float lanes[kLanes];
    *(LooseFloats *)lanes = even;
    for (; c < channels; ++c) lanes[c % kLanes] += q[c] * k[c];
    for (int half = kLanes / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// The grid of int16: no patch is longer than kLongest units before it is rounded, so no sum of products leaves 32 bits.
Rounding fine_grid(double length, int64_t channels) {
    const double kLongest = 32700;
    // 0.5 for rounding, 0.01 for the rounding of scale * feature
    return {kLongest / length, 0.51 * __builtin_sqrt((double)channels) * length / kLongest};
}

inline int32_t rounded(float scaled) { return (int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f)); }
inline Word pair(float even, float odd) { return (Word)(((uint32_t)rounded(odd) << 16) | (rounded(even) & 0xFFFF)); }

// A patch's channels as words: (groups).
void words_of(const float *patch, int64_t channels, float scale, Word *words) {
    if (!kScreens) {
        __builtin_memcpy(words, patch, sizeof(Word) * (size_t)channels);
        return;
    }
    for (int64_t g = 0; g < channels / 2; ++g) words[g] = pair(scale * patch[2 * g], scale * patch[2 * g + 1]);
    if (channels % 2) words[channels / 2] = pair(scale * patch[channels - 1], 0);
}

// A patch's channels as coarse words: (groups), each byte flipped by `flip`.
void coarse_words_of(const float *patch, int64_t channels, float scale, uint8_t flip, Word *words) {
    uint8_t *bytes = (uint8_t *)words;
    words[groups_of(channels, true) - 1] = 0;
    for (int64_t c = 0; c < channels; ++c) bytes[c] = (uint8_t)(rounded(scale * patch[c]) ^ flip);
}

// The square of the longest patch's length, with the sums' own rounding added.
double longest_squared(const float *patch, int64_t channels, double so_far) {
    return __builtin_fmax(so_far, exact_score(patch, patch, channels) * (1 + 1.2e-7 * (double)(channels + 8)));
}

// No less than the length: the squares of channels below 1e-19 may be lost.
double length_of(double longest_squared, int64_t channels) {
    return __builtin_sqrt(longest_squared + 1.2e-38 * (double)channels);
}

float largest_channel(const float *patch, int64_t channels, float so_far) {
    for (int64_t c = 0; c < channels; ++c) {
        const float size = __builtin_fabsf(patch[c]);
        so_far = size > so_far ? size : so_far;
    }
    return so_far;
}

// The square of how far a patch is from its rounded one, in units of the grid.
float error_squared(const float *patch, int64_t channels, float scale) {
    float lanes[kLanes] = {};
    const auto add = [&](int64_t c, int lane) {
        const float scaled = scale * patch[c], off = scaled - (float)rounded(scaled);
        lanes[lane] += off * off;
    };
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) add(c + lane, lane);
    for (; c < channels; ++c) add(c, 0);
    for (int lane = 1; lane < kLanes; ++lane) lanes[0] += lanes[lane];
    return lanes[0];
}

// The grid of int8, which the largest channel fills. Patches are numbers [0, n) for `patch`.
template <typename Patch>
Rounding coarse_grid(int64_t n, int64_t channels, const Patch &patch) {
    float largest = 1e-30f, worst = 0;
    for (int64_t i = 0; i < n; ++i) largest = largest_channel(patch(i), channels, largest);
    const float scale = 127 / largest;
    for (int64_t i = 0; i < n; ++i) {
        const float error = error_squared(patch(i), channels, scale);
        worst = error > worst ? error : worst;
    }
    // a hundredth for the sum's own rounding and for that of scale * feature
    return {scale, 1.01 * (__builtin_sqrt((double)worst) + 1e-4 * __builtin_sqrt((double)channels)) / scale};
}

// Rows of patches turn into rows of groups, 16 patches at a time, so that both stay in the cache. `words_of` gives the words
// of one patch.
template <typename WordsOf>
void lay_out_grid(int64_t groups, int64_t h, int64_t w, Word *room, Word *words, const WordsOf &words_of) {
    for (int64_t y = 0; y < h; ++y, words += groups * w)
        for (int64_t from = 0; from < w; from += kTogether) {
            const int64_t some = least(kTogether, w - from);
            for (int64_t i = 0; i < some; ++i) words_of(y * w + from + i, room + i * groups);
            for (int64_t g = 0; g < groups; ++g)
                for (int64_t i = 0; i < some; ++i) words[g * w + from + i] = room[i * groups + g];
        }
    __builtin_memset(words, 0, sizeof(Word) * kSlack);
}

void lay_out(int64_t channels, int64_t h, int64_t w, Word *room, Frame &frame) {
    const auto patch = [&](int64_t i) { return frame.patches + i * channels; };
    double longest = 0;
    for (int64_t i = 0; kScreens && i < h * w; ++i) longest = longest_squared(patch(i), channels, longest);
    frame.length = length_of(longest, channels);
    const Rounding fine = fine_grid(frame.length, channels);
    frame.fine.scale = fine.scale, frame.fine.error = fine.error;
    lay_out_grid(groups_of(channels, false), h, w, room, (Word *)frame.fine.words, [&](int64_t i, Word *words) {
        words_of(patch(i), channels, (float)fine.scale, words);
    });
    if (!frame.coarse.words) return;
    const Rounding coarse = coarse_grid(h * w, channels, patch);
    frame.coarse.scale = coarse.scale, frame.coarse.error = coarse.error;
    lay_out_grid(groups_of(channels, true), h, w, room, (Word *)frame.coarse.words, [&](int64_t i, Word *words) {
        coarse_words_of(patch(i), channels, (float)coarse.scale, 128, words);
    });
}

}  // namespace
