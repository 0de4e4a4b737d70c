// SPDX-License-Identifier: Apache-2.0
#pragma once
#pragma GCC system_header  // whose macros replace others

// AVX-512 on a machine without it, for the preset `avx512-emulated`: every translation unit of the tests begins with
// this header and takes the AVX-512 path of terse and xsimd, whose intrinsics are functions made of AVX2. They are
// SIMDe's, written and tested by others; what SIMDe 0.7.4 lacks or does otherwise is below. Wrong shuffles, masks,
// tails, alignments and orders of the sums show as on the real machine; what an instruction costs, and what a compiler
// makes of it, does not.

// Eigen, the tests' oracle, has AVX-512 paths of its own.
#define EIGEN_DONT_VECTORIZE

#include <array>
#include <bit>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <immintrin.h>

#define SIMDE_NO_INLINE  // compiles faster
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

namespace terse::emulated {

// A register from its halves, and a register's half.
inline __m512 join(__m256 low, __m256 high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }
inline __m512d join(__m256d low, __m256d high) { return _mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1); }
inline __m512i join(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
inline __m256 half(__m512 x, int i) { return simde__m512_to_private(x).m256[i]; }
inline __m256i half(__m512i x, int i) { return simde__m512i_to_private(x).m256i[i]; }
inline __m128i high(__m256i x) { return _mm256_extracti128_si256(x, 1); }
inline __m128i low(__m256i x) { return _mm256_castsi256_si128(x); }

// An address of an aligned load or store, which faults where it is not.
template <class T>
T* aligned(T* address) {
    if (reinterpret_cast<std::uintptr_t>(address) % 64 != 0) std::abort();
    return address;
}

// Conversions.
inline __m512 cvtepi32_ps(__m512i x) { return join(_mm256_cvtepi32_ps(half(x, 0)), _mm256_cvtepi32_ps(half(x, 1))); }
inline __m512i cvtps_epi32(__m512 x) { return join(_mm256_cvtps_epi32(half(x, 0)), _mm256_cvtps_epi32(half(x, 1))); }
inline __m512i cvttps_epi32(__m512 x) { return join(_mm256_cvttps_epi32(half(x, 0)), _mm256_cvttps_epi32(half(x, 1))); }
inline __m512d cvtps_pd(__m256 x) {
    return join(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}
inline __m512d cvtepi32_pd(__m256i x) { return join(_mm256_cvtepi32_pd(low(x)), _mm256_cvtepi32_pd(high(x))); }
inline __m512 cvtph_ps(__m256i x) { return join(_mm256_cvtph_ps(low(x)), _mm256_cvtph_ps(high(x))); }
template <int Rounding>
__m256i cvtps_ph(__m512 x) {
    return _mm256_set_m128i(_mm256_cvtps_ph(half(x, 1), Rounding), _mm256_cvtps_ph(half(x, 0), Rounding));
}
inline __m512i cvtepi8_epi32(__m128i x) {
    return join(_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)));
}
inline __m512i cvtepu8_epi32(__m128i x) {
    return join(_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)));
}
inline __m512i cvtepu16_epi32(__m256i x) { return join(_mm256_cvtepu16_epi32(low(x)), _mm256_cvtepu16_epi32(high(x))); }
inline __m128i cvtepi32_epi8(__m512i x) {
    auto const from = simde__m512i_to_private(x);
    simde__m128i_private to;
    for (std::size_t i = 0; i < 16; ++i) to.u8[i] = static_cast<std::uint8_t>(from.u32[i]);
    return simde__m128i_from_private(to);
}
inline __m256i cvtepi32_epi16(__m512i x) {
    auto const from = simde__m512i_to_private(x);
    simde__m256i_private to;
    for (std::size_t i = 0; i < 16; ++i) to.u16[i] = static_cast<std::uint16_t>(from.u32[i]);
    return simde__m256i_from_private(to);
}

// Within lanes and blocks.
inline __m512i srai_epi32(__m512i x, unsigned places) {
    auto const count = static_cast<int>(places);
    return join(_mm256_srai_epi32(half(x, 0), count), _mm256_srai_epi32(half(x, 1), count));
}
inline __m512i srai_epi64(__m512i x, unsigned places) {
    auto lanes = simde__m512i_to_private(x);
    for (std::size_t i = 0; i < 8; ++i) lanes.i64[i] >>= places < 64 ? places : 63;
    return simde__m512i_from_private(lanes);
}
inline __m512 permutevar_ps(__m512 x, __m512i which) {
    return join(_mm256_permutevar_ps(half(x, 0), half(which, 0)), _mm256_permutevar_ps(half(x, 1), half(which, 1)));
}

// Masked loads and stores, of values of type T: what the mask leaves out is not touched.
template <class Register, class T>
Register load_masked(std::uint64_t mask, void const* from) {
    std::array<T, sizeof(Register) / sizeof(T)> values{};
    for (std::size_t i = 0; i < values.size(); ++i)
        if ((mask >> i & 1U) != 0) std::memcpy(&values[i], static_cast<char const*>(from) + i * sizeof(T), sizeof(T));
    return std::bit_cast<Register>(values);
}
template <class T, class Register>
void store_masked(void* to, std::uint64_t mask, Register x) {
    auto const values = std::bit_cast<std::array<T, sizeof(Register) / sizeof(T)>>(x);
    for (std::size_t i = 0; i < values.size(); ++i)
        if ((mask >> i & 1U) != 0) std::memcpy(static_cast<char*>(to) + i * sizeof(T), &values[i], sizeof(T));
}

// Denormals as zeros of their sign.
inline __m256 flushed(__m256 x) {
    auto const sign = _mm256_set1_ps(-0.0F);
    auto const normal = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(FLT_MIN), _CMP_NLT_UQ);
    return _mm256_and_ps(x, _mm256_or_ps(normal, sign));
}

// VDPBF16PS as Intel's manual defines it: the product of the upper bfloat16 is added, then that of the lower ones. Each
// is a multiply-add that rounds once, to nearest even, and takes and gives denormals for zeros. SIMDe's keeps denormals
// and adds the lower ones first.
inline __m256 dpbf16_ps(__m256 sum, __m256i x, __m256i y) {
    auto const upper = [](__m256i pairs) {
        return flushed(_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536))));
    };
    auto const lower = [](__m256i pairs) { return flushed(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))); };
    sum = flushed(_mm256_fmadd_ps(upper(x), upper(y), flushed(sum)));
    return flushed(_mm256_fmadd_ps(lower(x), lower(y), sum));
}
inline __m512 dpbf16_ps(__m512 sum, __m512bh x, __m512bh y) {
    auto const a = std::bit_cast<__m512i>(x), b = std::bit_cast<__m512i>(y);
    return join(dpbf16_ps(half(sum, 0), half(a, 0), half(b, 0)), dpbf16_ps(half(sum, 1), half(a, 1), half(b, 1)));
}

// Comparisons by a predicate: the bit of each lane of type T.
template <class T>
std::uint64_t compare(__m512i x, __m512i y, int predicate) {
    T a[64 / sizeof(T)], b[64 / sizeof(T)];
    _mm512_storeu_si512(a, x);
    _mm512_storeu_si512(b, y);
    std::uint64_t mask = 0;
    for (std::size_t i = 0; i < 64 / sizeof(T); ++i) {
        bool const less = a[i] < b[i], equal = a[i] == b[i];
        bool const holds[] = {equal, less, less || equal, false, !equal, !less, !less && !equal, true};
        mask |= std::uint64_t{holds[predicate]} << i;
    }
    return mask;
}

}  // namespace terse::emulated

#undef _mm512_load_ps
#undef _mm512_load_pd
#undef _mm512_load_si512
#undef _mm512_store_ps
#undef _mm512_store_pd
#undef _mm512_store_si512
#define _mm512_load_ps(from) simde_mm512_load_ps(terse::emulated::aligned(from))
#define _mm512_load_pd(from) simde_mm512_load_pd(terse::emulated::aligned(from))
#define _mm512_load_si512(from) simde_mm512_load_si512(terse::emulated::aligned(from))
#define _mm512_store_ps(to, x) simde_mm512_store_ps(terse::emulated::aligned(to), x)
#define _mm512_store_pd(to, x) simde_mm512_store_pd(terse::emulated::aligned(to), x)
#define _mm512_store_si512(to, x) simde_mm512_store_si512(terse::emulated::aligned(to), x)
#define _mm512_maskz_loadu_ps(k, from) terse::emulated::load_masked<__m512, float>(k, from)
#define _mm256_maskz_loadu_epi16(k, from) terse::emulated::load_masked<__m256i, std::int16_t>(k, from)
#define _mm_maskz_loadu_epi8(k, from) terse::emulated::load_masked<__m128i, std::int8_t>(k, from)
#define _mm512_mask_storeu_ps(to, k, ...) terse::emulated::store_masked<float>(to, k, __m512(__VA_ARGS__))
#define _mm512_mask_storeu_epi32(to, k, ...) terse::emulated::store_masked<std::int32_t>(to, k, __m512i(__VA_ARGS__))
#define _mm256_mask_storeu_epi16(to, k, ...) terse::emulated::store_masked<std::int16_t>(to, k, __m256i(__VA_ARGS__))
#define _mm512_stream_si512(to, x) simde_mm512_store_si512(terse::emulated::aligned(to), x)
#define _mm512_stream_ps(to, x) simde_mm512_store_ps(terse::emulated::aligned(to), x)
#define _mm512_cvtss_f32(x) _mm_cvtss_f32(simde_mm512_castps512_ps128(x))
#define _mm512_cvtepi32_ps(x) terse::emulated::cvtepi32_ps(x)
#define _mm512_cvtps_epi32(x) terse::emulated::cvtps_epi32(x)
#define _mm512_cvttps_epi32(x) terse::emulated::cvttps_epi32(x)
#define _mm512_srai_epi32(x, n) terse::emulated::srai_epi32(x, n)
#define _mm512_srai_epi64(x, n) terse::emulated::srai_epi64(x, n)
#define _mm512_extractf32x8_ps(x, i) terse::emulated::half(x, i)
#define _mm512_maskz_cvtepi32_ps(k, ...) _mm512_maskz_mov_ps(k, terse::emulated::cvtepi32_ps(__VA_ARGS__))
#define _mm512_maskz_cvtps_epi32(k, ...) _mm512_maskz_mov_epi32(k, terse::emulated::cvtps_epi32(__VA_ARGS__))
#define _mm512_maskz_cvtps_pd(k, ...) _mm512_maskz_mov_pd(k, terse::emulated::cvtps_pd(__VA_ARGS__))
#define _mm512_maskz_cvtepi32_pd(k, ...) _mm512_maskz_mov_pd(k, terse::emulated::cvtepi32_pd(__VA_ARGS__))
#define _mm512_maskz_cvtph_ps(k, ...) _mm512_maskz_mov_ps(k, terse::emulated::cvtph_ps(__VA_ARGS__))
#define _mm512_maskz_cvtps_ph(k, x, rounding) _mm256_maskz_mov_epi16(k, terse::emulated::cvtps_ph<(rounding)>(x))
#define _mm512_maskz_cvtepi8_epi32(k, ...) _mm512_maskz_mov_epi32(k, terse::emulated::cvtepi8_epi32(__VA_ARGS__))
#define _mm512_maskz_cvtepu8_epi32(k, ...) _mm512_maskz_mov_epi32(k, terse::emulated::cvtepu8_epi32(__VA_ARGS__))
#define _mm512_maskz_cvtepu16_epi32(k, ...) _mm512_maskz_mov_epi32(k, terse::emulated::cvtepu16_epi32(__VA_ARGS__))
#define _mm512_maskz_cvtepi32_epi8(k, ...) _mm_maskz_mov_epi8(k, terse::emulated::cvtepi32_epi8(__VA_ARGS__))
#define _mm512_maskz_cvtepi32_epi16(k, ...) _mm256_maskz_mov_epi16(k, terse::emulated::cvtepi32_epi16(__VA_ARGS__))
#undef _mm512_madd_epi16  // takes four arguments there
#define _mm512_madd_epi16(x, y) simde_mm512_madd_epi16(x, y)
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, x, y) terse::emulated::dpbf16_ps(sum, x, y)
#define _mm512_maskz_slli_epi32(k, x, n) _mm512_maskz_mov_epi32(k, _mm512_slli_epi32(x, n))
#define _mm512_maskz_srli_epi32(k, x, n) _mm512_maskz_mov_epi32(k, _mm512_srli_epi32(x, n))
#define _mm512_maskz_srai_epi32(k, x, n) _mm512_maskz_mov_epi32(k, terse::emulated::srai_epi32(x, n))
#define _mm512_maskz_permutevar_ps(k, x, which) _mm512_maskz_mov_ps(k, terse::emulated::permutevar_ps(x, which))
#define _mm512_maskz_shuffle_ps(k, x, y, order) _mm512_maskz_mov_ps(k, _mm512_shuffle_ps(x, y, order))
#define _mm512_maskz_shuffle_f32x4(k, x, y, order) simde_mm512_maskz_shuffle_f32x4(k, x, y, order)
#define _mm512_maskz_shuffle_i64x2(k, x, y, order) simde_mm512_maskz_shuffle_i64x2(k, x, y, order)
#define _mm512_cmp_epi8_mask(x, y, p) terse::emulated::compare<std::int8_t>(x, y, p)
#define _mm512_cmp_epi16_mask(x, y, p) terse::emulated::compare<std::int16_t>(x, y, p)
#define _mm512_cmp_epi32_mask(x, y, p) terse::emulated::compare<std::int32_t>(x, y, p)
#define _mm512_cmp_epi64_mask(x, y, p) terse::emulated::compare<std::int64_t>(x, y, p)
#define _mm512_cmp_epu8_mask(x, y, p) terse::emulated::compare<std::uint8_t>(x, y, p)
#define _mm512_cmp_epu16_mask(x, y, p) terse::emulated::compare<std::uint16_t>(x, y, p)
#define _mm512_cmp_epu32_mask(x, y, p) terse::emulated::compare<std::uint32_t>(x, y, p)
#define _mm512_cmp_epu64_mask(x, y, p) terse::emulated::compare<std::uint64_t>(x, y, p)

#define __AVX512F__ 1
#define __AVX512CD__ 1
#define __AVX512DQ__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
