// What the two C++ files of the native backend share: one call's description and the tile function's signature.
// Plain C types only; ctypes fills `Problem` field by field, so its layout is part of the ABI number in library.cpp.
#pragma once
#include <stdint.h>

// A context frame's patches, rounded to a grid, in the order the inner loop reads them: (h, groups, w) words and kSlack more.
struct Grid {
    const void *words;  // null where there is no such grid
    double scale;
    double error;  // no patch is further from its rounded one than this
};

// A word is one float32 channel or, at levels that screen, a pair of int16 channels: round(scale * feature). Those levels
// have coarse words as well, of four channels in uint8: 128 + round(scale * feature).
struct Frame {
    Grid fine, coarse;
    const float *patches;  // (h*w, channels), what the words are made of
    double length;         // of the longest patch
};

struct Problem {
    int64_t channels, height, width, frames, free_frames, top_k;
    int64_t reach;        // rows above and below a patch that its window touches
    const int64_t *half;  // (reach + 1): the window's half width at each row distance
    const float *query;   // (h*w, channels)
    const Frame *context;
    float *scores;     // (h*w, top_k), best first, filled up with -inf
    int64_t *indices;  // (h*w, top_k) into frames*h*w
    int64_t *tied;     // (h*w): further patches exactly as similar as the top_k-th
};

struct Tile {
    int64_t top, bottom, left, right;  // query patches [top, bottom) x [left, right)
    void *scratch;                     // 4 * channels + 16 bytes for each patch of a whole tile and one more, aligned to 4
};

typedef void (*TileFunction)(const Problem *, const Tile *);
// Fills the words of a Frame, which point to memory of the caller, and what is known of them; room: kTogether * channels
// words.
typedef void (*LayoutFunction)(int64_t channels, int64_t h, int64_t w, void *room, Frame *frame);
enum { kTileSide = 16, kTogether = 16, kSlack = 64 };  // kSlack words may be read past a frame's end; they are never used
