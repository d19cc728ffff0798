// What library.cpp and attention.cpp share: self-attention within each image of a batch. Plain C types only, as in library.h.
#pragma once
#include <stdint.h>

struct Attention {
    int64_t images, heads, width;  // width: channels of a head, even in bfloat16
    int64_t queries, tokens;       // of an image: those that look, and those looked at
    int64_t query_step, token_step;  // channels from one of them to the next, of all images in a row
    double scale;         // what turns a product of query and key into the exponent of 2 of its weight
    const void *query, *key, *value;  // of the first image's first token; (heads, width) each
    void *out;            // (images, queries, heads, width)
    void *keys, *values;  // room for all heads of all images, key_words() and value_words() each, aligned to 64 bytes
};

enum {
    kAttentionQueries = 24,  // of a block
    kAttentionPanel = 64,    // tokens, and a value's channels, are filled up to a multiple of it
    kAttentionKeys = 256,    // whose scores are held at once
    kAttentionStride = kAttentionKeys + 16,  // floats from one row of scores to the next; a power of two would share cache sets
};

namespace {  // each file has its own: one copy for all could be the one compiled for AVX-512

// Words of 4 bytes, each one float32 or two bfloat16 (`packed`).
inline int64_t attention_filled(int64_t n) { return (n + kAttentionPanel - 1) / kAttentionPanel * kAttentionPanel; }
inline int64_t key_words(const Attention &a, int64_t packed) { return attention_filled(a.tokens) * (a.width / packed); }
inline int64_t value_words(const Attention &a, int64_t packed) {
    return attention_filled(a.tokens) / packed * attention_filled(a.width);
}

}  // namespace

typedef void (*PackFunction)(const Attention *, int64_t head);  // lays out keys and values of a head, counted through all images
// Queries [first, first + kAttentionQueries) of a head; scratch: kAttentionQueries rows of scores, of sums
// (attention_filled(width)) and of queries (width), aligned to 64 bytes.
typedef void (*AttendFunction)(const Attention *, int64_t head, int64_t first, float *scratch);
