// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>

// Rows of quantise.hpp back in floats. Converting and writing limit it in cache, from memory the writing alone.

namespace terse::simd {

#ifdef __AVX512F__
/// 16 bytes as integers.
template <class Byte>
requires(sizeof(Byte) == 1) [[nodiscard]] __m512i widen(__m128i bytes) noexcept {
    return std::is_signed_v<Byte> ? _mm512_maskz_cvtepi8_epi32(every_lane, bytes)
                                  : _mm512_maskz_cvtepu8_epi32(every_lane, bytes);
}
#endif

/// `lanes` bytes as integers.
template <class Arch, class Byte>
[[nodiscard]] ints<Arch> load_bytes(Byte const* from) noexcept {
    [[maybe_unused]] constexpr bool is_signed = std::is_signed_v<Byte>;
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return ints<Arch>(widen<Byte>(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from))));
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8) {
        auto const bytes = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(from));
        return ints<Arch>(is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
    }
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) {
        std::int32_t four;
        std::memcpy(&four, from, 4);
        auto const bytes = _mm_cvtsi32_si128(four), zero = _mm_setzero_si128();
        auto const upper = _mm_unpacklo_epi16(zero, _mm_unpacklo_epi8(zero, bytes));
        return ints<Arch>(is_signed ? _mm_srai_epi32(upper, 24) : _mm_srli_epi32(upper, 24));
    }
#endif
    std::array<std::int32_t, ints<Arch>::size> values;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = from[i];
    return ints<Arch>::load_unaligned(values.data());
}

/// The first `count` < lanes bytes as integers and zeros after them; reads nothing beyond `count`.
template <class Arch, class Byte>
[[nodiscard]] ints<Arch> load_bytes(Byte const* from, index count) noexcept {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (lanes<Arch> == 16) return ints<Arch>(widen<Byte>(_mm_maskz_loadu_epi8(first_lanes(count), from)));
#endif
    std::array<Byte, ints<Arch>::size> values{};
    copy_few<lanes<Arch>>(from, values.data(), count);
    return load_bytes<Arch>(values.data());
}

/// out[i] = codes[i] * scales[i / group], rounded to nearest even: a row, or several whose planes are contiguous. NaN in
/// a scale makes its group NaN.
/// @pre  group is a multiple of 32, dim one of group
/// @complexity  O(dim)
template <class Arch = default_arch, class Scale, real T>
[[gnu::flatten]] void dequantise_int8(std::int8_t const* codes, Scale const* scales, index dim, index group,
                                      T* out) noexcept {
    for (index end = group; end <= dim; end += group, ++scales) {
        floats<Arch> const scale(static_cast<float>(*scales));
        for (index i = end - group; i < end; i += lanes<Arch>)
            store<Arch>(from_ints<Arch>(load_bytes<Arch>(codes + i)) * scale, out + i);
    }
}

/// out[i] = code i * scales[i / group] + minima[i / group], rounded to nearest even: a row, or several whose planes are
/// contiguous. NaN in a scale or a minimum makes its group NaN.
/// @pre  group is a multiple of 32, dim one of group
/// @complexity  O(dim)
template <class Arch = default_arch, class Scale, real T>
[[gnu::flatten]] void dequantise_int4(std::uint8_t const* codes, Scale const* scales, Scale const* minima, index dim,
                                      index group, T* out) noexcept {
    for (index end = group; end <= dim; end += group, ++scales, ++minima) {
        floats<Arch> const scale(static_cast<float>(*scales)), minimum(static_cast<float>(*minima));
        for (index i = end - group; i < end; i += 32) {
            for (index k = 0; k < 16; k += lanes<Arch>) {
                auto const pairs = load_bytes<Arch>(codes + i / 2 + k);
                auto const low = from_ints<Arch>(pairs & ints<Arch>(15));
                auto const high = from_ints<Arch>(shift_right<4, Arch>(pairs));
                store<Arch>(fma<Arch>(low, scale, minimum), out + i + k);
                store<Arch>(fma<Arch>(high, scale, minimum), out + i + k + 16);
            }
        }
    }
}

}  // namespace terse::simd
