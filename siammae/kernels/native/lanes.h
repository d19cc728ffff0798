// Vectors of one instruction set under one set of names, for tile.cpp. Chosen by the compiler's flags.
#pragma once
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
enum { kLanes = 16, kVectors = 3, kAcross = 4, kDown = 2 };
#elif defined(__AVX__)
enum { kLanes = 8, kVectors = 3, kAcross = 2, kDown = 2 };  // 12 sums, 3 keys and 1 query fill the 16 registers
#else
enum { kLanes = 4, kVectors = 3, kAcross = 2, kDown = 2 };
#endif
enum { kQueries = kAcross * kDown };

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#if defined(__AVX512VNNI__)
enum { kScreens = 1 };
typedef int32_t Word;
typedef __m512i Sums;

inline Sums zero() { return _mm512_setzero_si512(); }
inline Sums load(const Word *p) { return _mm512_loadu_si512(p); }
inline Sums multiply_add(Sums sum, Word q, Sums keys) { return _mm512_dpwssd_epi32(sum, _mm512_set1_epi32(q), keys); }
inline Sums multiply_add_bytes(Sums sum, Word q, Sums keys) { return _mm512_dpbusd_epi32(sum, keys, _mm512_set1_epi32(q)); }
inline uint64_t at_least(Sums sums, Word bar) { return _mm512_cmpge_epi32_mask(sums, _mm512_set1_epi32(bar)); }
inline void store(Word *to, Sums sums) { _mm512_storeu_si512(to, sums); }
#else
enum { kScreens = 0 };
typedef float Word;
typedef Floats Sums;

inline Sums zero() { return Sums{}; }
inline Sums load(const Word *p) { return *(const LooseFloats *)p; }
inline Sums multiply_add(Sums sum, Word q, Sums keys) { return sum + q * keys; }
inline Sums multiply_add_bytes(Sums sum, Word, Sums) { return sum; }  // never called
inline void store(Word *to, Sums sums) { *(LooseFloats *)to = sums; }
inline uint64_t at_least(Sums sums, Word bar) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)sums, _mm512_set1_ps(bar), _CMP_GE_OQ);
#elif defined(__AVX__)
    return (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)sums, _mm256_set1_ps(bar), _CMP_GE_OQ));
#else
    uint64_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= (uint64_t)(sums[lane] >= bar) << lane;
    return bits;
#endif
}
#endif

}  // namespace
