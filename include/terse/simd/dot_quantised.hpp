// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/quantise.hpp>

// A query in 8 bit against keys in 8 or 4 bit. Products of bytes are summed as integers within a group and as floats,
// times both scales, between groups. Per register of codes that is one or two multiplications, a conversion and a
// multiply-add: in cache these limit it, from memory the reading. Four keys go together, so that the query is prepared
// once for them and their sums are reduced at once.

namespace terse::simd {

/// A query as quantise_query makes it.
struct quantised_query {
    std::int8_t const* codes;  ///< [dim]
    float const* scales;       ///< [dim / group]
    float const* sums;         ///< [dim / group]: of the values that the group's codes stand for; only read with minima
};

/// Makes a query's codes [dim], scales [dim / group] and sums [dim / group]; as quantise_int8.
template <class Arch = default_arch, real T>
[[gnu::flatten]] index quantise_query(T const* query, index dim, index group, std::int8_t* codes, float* scales,
                                      float* sums) noexcept {
    auto const odd = quantise_int8<Arch>(
        1, [query](index) noexcept { return query; }, dim, group, codes, scales);
    for (index g = 0; g < dim / group; ++g) {
        std::int32_t total = 0;
        for (index i = g * group; i < (g + 1) * group; ++i) total += codes[i];
        sums[g] = static_cast<float>(total) * scales[g];
    }
    return odd;
}

/// The products of 32 codes of [-127, 127], summed in any lanes.
template <class Arch>
[[nodiscard]] ints<Arch> multiply_int8(std::int8_t const* query, std::int8_t const* key) noexcept {
#ifdef __AVX512BW__
    if constexpr (lanes<Arch> == 16) {
        auto const words = [](std::int8_t const* p) noexcept {
            return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)));
        };
        return ints<Arch>(_mm512_madd_epi16(words(query), words(key)));
    }
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8) {  // a product of an unsigned and a signed byte: the query's sign goes to the key
        auto const q = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(query));
        auto const k = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(key));
        auto const pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(k, q));
        return ints<Arch>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) {
        auto sum = _mm_setzero_si128();
        for (index i = 0; i < 32; i += 16) {
            auto const q = _mm_loadu_si128(reinterpret_cast<__m128i const*>(query + i));
            auto const k = _mm_loadu_si128(reinterpret_cast<__m128i const*>(key + i));
            auto const low = [](__m128i x) noexcept { return _mm_srai_epi16(_mm_unpacklo_epi8(x, x), 8); };
            auto const high = [](__m128i x) noexcept { return _mm_srai_epi16(_mm_unpackhi_epi8(x, x), 8); };
            sum = _mm_add_epi32(sum, _mm_madd_epi16(low(q), low(k)));
            sum = _mm_add_epi32(sum, _mm_madd_epi16(high(q), high(k)));
        }
        return ints<Arch>(sum);
    }
#endif
    std::array<std::int32_t, ints<Arch>::size> sums{};
    for (std::size_t i = 0; i < 32; ++i) sums[i % sums.size()] += query[i] * key[i];
    return ints<Arch>::load_unaligned(sums.data());
}

/// The products of 32 codes of [-127, 127] with 32 of [0, 15] as quantise_int4 writes them, summed in any lanes.
template <class Arch>
[[nodiscard]] ints<Arch> multiply_int4(std::int8_t const* query, std::uint8_t const* key) noexcept {
#ifdef __AVX2__
    if constexpr (lanes<Arch> >= 8) {
        auto const pairs = _mm_loadu_si128(reinterpret_cast<__m128i const*>(key));
        auto const k = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(pairs, 4), pairs), _mm256_set1_epi8(15));
        auto const q = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(query));
#ifdef __AVX512BW__
        if constexpr (lanes<Arch> == 16)
            return ints<Arch>(_mm512_madd_epi16(_mm512_cvtepi8_epi16(q), _mm512_cvtepi8_epi16(k)));
#endif
        if constexpr (lanes<Arch> == 8)
            return ints<Arch>(_mm256_madd_epi16(_mm256_maddubs_epi16(k, q), _mm256_set1_epi16(1)));
    }
#endif
    alignas(16) std::array<std::int8_t, 32> codes;
    for (std::size_t i = 0; i < 16; ++i) {
        codes[i] = static_cast<std::int8_t>(key[i] & 15);
        codes[i + 16] = static_cast<std::int8_t>(key[i] >> 4);
    }
    return multiply_int8<Arch>(query, codes.data());
}

/// Groups of 32 codes that the products below take at once, each in its own, equally many lanes; 1 for those above.
template <class Arch, int Bits>
inline constexpr int groups_at_once = [] {
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
    if (lanes<Arch> == 16 && Bits == 8) return 2;
#endif
#ifdef __AVX512BW__
    if (lanes<Arch> == 16 && Bits == 4) return 4;
#endif
#ifdef __AVX2__
    if (lanes<Arch> == 8 && Bits == 4) return 2;
#endif
    return 1;
}();

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
/// The products of 64 codes of [-127, 127]. The instruction multiplies unsigned bytes by signed ones: the key's are
/// raised by 128, and as much of the query taken away.
template <class Arch>
[[nodiscard]] ints<Arch> multiply_groups_int8(std::int8_t const* query, std::int8_t const* key) noexcept {
    auto const raise = _mm512_set1_epi8(std::numeric_limits<std::int8_t>::min()), zero = _mm512_setzero_si512();
    auto const q = _mm512_loadu_si512(query), k = _mm512_xor_si512(_mm512_loadu_si512(key), raise);
    return ints<Arch>(_mm512_dpbusd_epi32(_mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, raise, q)), k, q));
}
#endif

/// The products of 64 or 128 codes with as many of [0, 15]: lower halves with the first 16 of each 32, then upper ones.
template <class Arch>
[[nodiscard]] ints<Arch> multiply_groups_int4([[maybe_unused]] std::int8_t const* query,
                                              [[maybe_unused]] std::uint8_t const* key) noexcept {
#ifdef __AVX512BW__
    if constexpr (lanes<Arch> == 16) {
        auto const pairs = _mm512_loadu_si512(key), mask = _mm512_set1_epi8(15);
        auto const low = _mm512_and_si512(pairs, mask), high = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), mask);
        auto const first = _mm512_loadu_si512(query), last = _mm512_loadu_si512(query + 64);
        auto const with_low = _mm512_maskz_shuffle_i64x2(0xFF, first, last, 0x88);
        auto const with_high = _mm512_maskz_shuffle_i64x2(0xFF, first, last, 0xDD);
#ifdef __AVX512VNNI__
        auto const sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, with_low);
        return ints<Arch>(_mm512_dpbusd_epi32(sum, high, with_high));
#else
        auto const sum = _mm512_add_epi16(_mm512_maddubs_epi16(low, with_low), _mm512_maddubs_epi16(high, with_high));
        return ints<Arch>(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)));
#endif
    }
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8) {
        auto const pairs = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(key)), mask = _mm256_set1_epi8(15);
        auto const low = _mm256_and_si256(pairs, mask), high = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), mask);
        auto const first = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(query));
        auto const last = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(query + 32));
        auto const sum = _mm256_add_epi16(_mm256_maddubs_epi16(low, _mm256_permute2x128_si256(first, last, 0x20)),
                                          _mm256_maddubs_epi16(high, _mm256_permute2x128_si256(first, last, 0x31)));
        return ints<Arch>(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
#endif
}

/// Registers of four floats, and their architecture.
template <class Arch>
using quad_arch = std::conditional_t<lanes<Arch> == 4, Arch, xsimd::sse2>;
template <class Arch>
using quad = floats<quad_arch<Arch>>;

/// The first Count values, 1, 2 or 4, as floats, and zeros.
template <class Arch, int Count, class T>
[[nodiscard]] quad<Arch> load_first(T const* from) noexcept {
    if constexpr (Count == 4) return load<quad_arch<Arch>>(from);
    if constexpr (Count == 2) return quad<Arch>{to_float(from[0]), to_float(from[1]), 0.0F, 0.0F};
    if constexpr (Count == 1) return quad<Arch>{to_float(from[0]), 0.0F, 0.0F, 0.0F};
}

/// Four floats in each 128 bits.
template <class Arch>
[[nodiscard]] floats<Arch> repeat(quad<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_maskz_broadcast_f32x4(every_lane, x));
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8) return floats<Arch>(_mm256_set_m128(x, x));
#endif
    if constexpr (lanes<Arch> == 4) return x;
}

/// Factors First, First + 1, ..., of four in each 128 bits: `Groups` of them, each in its own, equally many lanes.
template <class Arch, int First, int Groups>
[[nodiscard]] floats<Arch> spread(floats<Arch> const& factors) noexcept {
    [[maybe_unused]] constexpr auto which = [] {
        std::array<std::int32_t, ints<Arch>::size> lane{};
        for (std::size_t i = 0; i < lane.size(); ++i)
            lane[i] = First + static_cast<std::int32_t>(i * Groups / lane.size());
        return lane;
    }();
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return floats<Arch>(_mm512_maskz_permutevar_ps(every_lane, factors, ints<Arch>::load_unaligned(which.data())));
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8)
        return floats<Arch>(_mm256_permutevar_ps(factors, ints<Arch>::load_unaligned(which.data())));
#endif
    if constexpr (lanes<Arch> == 4) return floats<Arch>(to_array<Arch>(factors)[First]);
}

/// The sum of the parts of 128 bits.
template <class Arch>
[[nodiscard]] quad<Arch> fold(floats<Arch> const& x) noexcept {
#ifdef __AVX__
    [[maybe_unused]] auto const halves = [](__m256 y) noexcept {
        return quad<Arch>(_mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)));
    };
    if constexpr (lanes<Arch> == 8) return halves(x);
#endif
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {
        auto const y = _mm512_castps_pd(x);
        auto const low = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xF, y, 0));
        auto const high = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xF, y, 1));
        return halves(_mm256_add_ps(low, high));
    }
#endif
    if constexpr (lanes<Arch> == 4) return x;
}

/// The dot products of a query with keys whose codes have `Bits` bits; no minima where they have eight.
template <class Arch, int Bits, class Codes, class Scales, class Minima>
[[gnu::flatten]] void dot_quantised(index count, Codes codes, Scales scales, [[maybe_unused]] Minima minima,
                                    quantised_query const& query, index dim, index group, float* out) noexcept {
    constexpr int keys = 4;
    index const groups = dim / group;
    auto const multiply = [](auto at_once, std::int8_t const* q, auto const* key) noexcept {
        if constexpr (Bits == 8 && at_once == 1) return multiply_int8<Arch>(q, key);
        if constexpr (Bits == 8 && at_once > 1) return multiply_groups_int8<Arch>(q, key);
        if constexpr (Bits == 4 && at_once == 1) return multiply_int4<Arch>(q, key);
        if constexpr (Bits == 4 && at_once > 1) return multiply_groups_int4<Arch>(q, key);
    };
    for (index first = 0; first < count; first += keys) {
        std::array<index, keys> which;
        std::array<floats<Arch>, keys> sums;
        std::array<quad<Arch>, keys> shifts;
        unroll<keys>([&](auto k) {
            which[k] = std::min<index>(first + k, count - 1);
            sums[k] = floats<Arch>(0.0F);
            shifts[k] = quad<Arch>(0.0F);
        });
        // `taken` groups from g on, of `blocks` times 32 codes each.
        auto const add = [&](auto taken, index g, auto blocks) noexcept {
            std::array<floats<Arch>, keys> factors;
            unroll<keys>([&](auto k) {
                factors[k] = repeat<Arch>(load_first<Arch, taken>(scales(which[k]) + g) *
                                          load_first<Arch, taken>(query.scales + g));
                if constexpr (Bits == 4)
                    shifts[k] = fma<quad_arch<Arch>>(load_first<Arch, taken>(minima(which[k]) + g),
                                                     load_first<Arch, taken>(query.sums + g), shifts[k]);
            });
            constexpr int at_once = taken % groups_at_once<Arch, Bits> == 0 ? groups_at_once<Arch, Bits> : 1;
            unroll<taken / at_once>([&](auto i) {
                index const start = (g + i * at_once) * blocks * 32;
                unroll<keys>([&](auto k) {
                    auto const* const key = codes(which[k]);
                    auto const product = [&](index at) noexcept {
                        return multiply(std::integral_constant<int, at_once>{}, query.codes + at, key + at * Bits / 8);
                    };
                    auto products = product(start);
                    for (index b = 1; b < blocks; ++b) products = products + product(start + b * 32);
                    auto const scale = spread<Arch, i * at_once, at_once>(factors[k]);
                    sums[k] = fma<Arch>(from_ints<Arch>(products), scale, sums[k]);
                });
            });
        };
        constexpr std::integral_constant<index, 1> whole{};
        index g = 0;
        if (group == 32) {
            for (; g + 4 <= groups; g += 4) add(std::integral_constant<int, 4>{}, g, whole);
            if (g + 2 <= groups) add(std::integral_constant<int, 2>{}, g, whole), g += 2;
            if (g < groups) add(std::integral_constant<int, 1>{}, g, whole);
        } else {
            for (; g < groups; ++g) add(std::integral_constant<int, 1>{}, g, group / 32);
        }
        unroll<keys>([&](auto k) { shifts[k] = shifts[k] + fold<Arch>(sums[k]); });
        store_first<quad_arch<Arch>>(sum_each<quad_arch<Arch>>(shifts), out + first,
                                     std::min<index>(count - first, keys));
    }
}

/// out[i] = the dot product of the query with key i, both as their codes stand for it: the sum over groups of
/// scale of the query * scale of the key * (sum of products of codes).
///
/// @param codes   callable index -> std::int8_t const*: a key's dim codes, of [-127, 127]; any alignment
/// @param scales  callable index -> float const* or half const*: a key's dim / group scales
/// @param group   of the query and the keys, a multiple of 32; dim is one of group
/// @param out     [count]; NaN where a scale is
/// @complexity    O(count * dim); no allocation
template <class Arch = default_arch, class Codes, class Scales>
void dot_int8(index count, Codes codes, Scales scales, quantised_query const& query, index dim, index group,
              float* out) noexcept {
    dot_quantised<Arch, 8>(count, codes, scales, nullptr, query, dim, group, out);
}

/// out[i] = the dot product of the query with key i, both as their codes stand for it: the sum over groups of
/// scale of the query * scale of the key * (sum of products of codes) + minimum of the key * sum of the query.
///
/// @param codes   callable index -> std::uint8_t const*: a key's dim / 2 bytes, as of quantise_int4; any alignment
/// @param scales, minima  callables index -> float const* or half const*: a key's dim / group
/// @param group   of the query and the keys, a multiple of 32; dim is one of group
/// @param out     [count]; NaN where a scale or a minimum is
/// @complexity    O(count * dim); no allocation
template <class Arch = default_arch, class Codes, class Scales, class Minima>
void dot_int4(index count, Codes codes, Scales scales, Minima minima, quantised_query const& query, index dim,
              index group, float* out) noexcept {
    dot_quantised<Arch, 4>(count, codes, scales, minima, query, dim, group, out);
}

}  // namespace terse::simd
