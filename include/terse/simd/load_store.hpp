// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>

#include <terse/core/types.hpp>
#include <terse/simd/batch.hpp>

// Values of every storage between memory and registers of floats, whole registers and parts of them.

namespace terse::simd {

/// One value as a float, by the instruction where there is one.
template <class T>
[[nodiscard]] float to_float(T x) noexcept {
#ifdef __F16C__
    if constexpr (std::same_as<T, half>) return _cvtsh_ss(std::bit_cast<std::uint16_t>(x));
#endif
    return static_cast<float>(x);
}

/// The first `count` < N values to elsewhere, in pieces of fixed sizes: for so few a call takes longer.
template <int N, class T>
void copy_few(T const* from, T* to, index count) noexcept {
    unroll<std::bit_width(unsigned{N}) - 1>([&](auto bit) {
        constexpr index piece = index{1} << bit;
        if ((count & piece) == 0) return;
        std::memcpy(to, from, static_cast<std::size_t>(piece) * sizeof(T));
        from += piece, to += piece;
    });
}

#ifdef __AVX2__
/// Whether 8 values of T are made floats in registers.
template <class T>
inline constexpr bool widens =
#ifdef __F16C__
    std::same_as<T, half> ||
#endif
    std::same_as<T, bfloat16>;

/// 8 values in 16 bit as floats.
template <real T>
[[nodiscard]] __m256 widen(__m128i bits) noexcept {
#ifdef __F16C__
    if constexpr (std::same_as<T, half>) return _mm256_cvtph_ps(bits);
#endif
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/// The mask of the first `count` of 8 lanes.
[[nodiscard]] inline __m256i first_of_eight(index count) noexcept {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/// The first `count` < 8 values in 16 bit and zeros after them: in memory they would keep sums around them from
/// registers.
template <class T>
[[nodiscard]] __m128i load_few(T const* from, index count) noexcept {
    if (count == 0) return _mm_setzero_si128();
    auto const whole = _mm256_castsi256_si128(first_of_eight(count / 2));
    auto const pairs = _mm_maskload_epi32(reinterpret_cast<int const*>(from), whole);
    auto const last =
        _mm_cmpeq_epi16(_mm_set1_epi16(static_cast<std::int16_t>(count - 1)), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm_or_si128(pairs, _mm_and_si128(last, _mm_set1_epi16(std::bit_cast<std::int16_t>(from[count - 1]))));
}
#endif

#ifdef __AVX512F__
/// 16 values in 16 bit as floats.
template <real T>
[[nodiscard]] __m512 widen(__m256i bits) noexcept {
    if constexpr (std::same_as<T, half>) return _mm512_maskz_cvtph_ps(every_lane, bits);
    auto const whole = _mm512_maskz_cvtepu16_epi32(every_lane, bits);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every_lane, whole, 16));
}

/// The mask of the first `count` lanes.
[[nodiscard]] inline __mmask16 first_lanes(index count) noexcept {
    return static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1);
}
#endif

/// `lanes` values from anywhere in memory, as floats.
template <class Arch, real T>
[[nodiscard]] floats<Arch> load(T const* from) noexcept {
    if constexpr (std::same_as<T, float>) {
        return floats<Arch>::load_unaligned(from);
    } else {
#ifdef __F16C__
        if constexpr (std::same_as<T, half>) {
            auto const* const bits = reinterpret_cast<__m128i const*>(from);
            if constexpr (lanes<Arch> == 4) return floats<Arch>(_mm_cvtph_ps(_mm_loadl_epi64(bits)));
        }
#endif
#ifdef __SSE2__
        if constexpr (std::same_as<T, bfloat16> && lanes<Arch> == 4) {
            auto const bits = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(from));
            return floats<Arch>(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits)));
        }
#endif
#ifdef __AVX2__
        if constexpr (lanes<Arch> == 8 && widens<T>)
            return floats<Arch>(widen<T>(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from))));
#endif
#ifdef __AVX512F__
        if constexpr (lanes<Arch> == 16) {
            return floats<Arch>(widen<T>(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(from))));
        }
#endif
        std::array<float, floats<Arch>::size> values;
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(from[i]);
        return floats<Arch>::load_unaligned(values.data());
    }
}

/// A float from anywhere in memory, where also pairs of bfloat16 may lie, as by `load`.
[[nodiscard]] inline float load_one(float const* from) noexcept {
    float x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

/// The first `count` < lanes values and zeros after them; reads nothing beyond `count`.
template <class Arch, real T>
[[nodiscard]] floats<Arch> load_partial(T const* from, index count) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16 && std::same_as<T, float>)
        return floats<Arch>(_mm512_maskz_loadu_ps(first_lanes(count), from));
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (lanes<Arch> == 16 && sizeof(T) == 2)
        return floats<Arch>(widen<T>(_mm256_maskz_loadu_epi16(first_lanes(count), from)));
#endif
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8 && std::same_as<T, float>)
        return floats<Arch>(_mm256_maskload_ps(from, first_of_eight(count)));
    if constexpr (lanes<Arch> == 8 && widens<T>) return floats<Arch>(widen<T>(load_few(from, count)));
#endif
    std::array<T, floats<Arch>::size> values;
    values.fill(static_cast<T>(0.0F));
    copy_few<lanes<Arch>>(from, values.data(), count);
    return load<Arch>(values.data());
}

/// The bits of bfloat16 in the upper half of each lane, rounded to nearest even; NaN becomes the quiet one of its sign.
template <class Arch>
[[nodiscard]] ints<Arch> round_to_bfloat16(floats<Arch> const& x) noexcept {
    auto const bits = std::bit_cast<ints<Arch>>(x);
    auto const rounded = bits + (shift_right<16, Arch>(bits) & ints<Arch>(1)) + ints<Arch>(0x7FFF);
    auto const quiet = (bits & ints<Arch>(std::numeric_limits<std::int32_t>::min())) | ints<Arch>(0x7FC0'0000);
    return blend<Arch>((bits & ints<Arch>(0x7FFF'FFFF)) > ints<Arch>(0x7F80'0000), quiet, rounded);
}

#ifdef __AVX512F__
/// 16 floats in 16 bit, rounded to nearest even.
template <real T, class Arch>
[[nodiscard]] __m256i narrow(floats<Arch> const& x) noexcept {
    if constexpr (std::same_as<T, half>) return _mm512_maskz_cvtps_ph(every_lane, x, _MM_FROUND_TO_NEAREST_INT);
    auto const bits = _mm512_maskz_srli_epi32(every_lane, round_to_bfloat16<Arch>(x), 16);
    return _mm512_maskz_cvtepi32_epi16(every_lane, bits);
}
#endif

/// Writes the lanes to anywhere in memory, rounded to nearest even.
template <class Arch, real T>
void store(floats<Arch> const& x, T* to) noexcept {
    if constexpr (std::same_as<T, float>) {
        x.store_unaligned(to);
    } else {
#ifdef __F16C__
        if constexpr (std::same_as<T, half>) {
            if constexpr (lanes<Arch> == 4)
                return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
            if constexpr (lanes<Arch> == 8)
                return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        }
#endif
#ifdef __SSE2__
        if constexpr (std::same_as<T, bfloat16> && lanes<Arch> == 4) {
            auto const high = _mm_srai_epi32(round_to_bfloat16<Arch>(x), 16);
            return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi32(high, high));
        }
#endif
#ifdef __AVX2__
        if constexpr (std::same_as<T, bfloat16> && lanes<Arch> == 8) {
            __m256i const high = _mm256_srai_epi32(round_to_bfloat16<Arch>(x), 16);
            return _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                                    _mm_packs_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
        }
#endif
#ifdef __AVX512F__
        if constexpr (lanes<Arch> == 16) {
            return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow<T, Arch>(x));
        }
#endif
        auto const values = to_array<Arch>(x);
        for (std::size_t i = 0; i < values.size(); ++i) to[i] = static_cast<T>(values[i]);
    }
}

/// Writes the first `count` < lanes lanes and nothing beyond.
template <class Arch, real T>
void store_partial(floats<Arch> const& x, T* to, index count) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16 && std::same_as<T, float>) return _mm512_mask_storeu_ps(to, first_lanes(count), x);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (lanes<Arch> == 16 && sizeof(T) == 2)
        return _mm256_mask_storeu_epi16(to, first_lanes(count), narrow<T, Arch>(x));
#endif
#endif
    std::array<T, floats<Arch>::size> values;
    store<Arch>(x, values.data());
    copy_few<lanes<Arch>>(values.data(), to, count);
}

/// Writes x to an aligned place around the caches, where there is such a store. The stores of other threads see it after
/// `end_stream`.
template <class Arch>
void stream(floats<Arch> const& x, float* to) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return _mm512_stream_ps(to, x);
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8) return _mm256_stream_ps(to, x);
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) return _mm_stream_ps(to, x);
#endif
    x.store_aligned(to);
}

/// `double_lanes` floats from anywhere in memory.
template <class Arch>
[[nodiscard]] doubles<Arch> load_doubles(float const* from) noexcept {
#ifdef __AVX512F__
    if constexpr (double_lanes<Arch> == 8)
        return doubles<Arch>(_mm512_maskz_cvtps_pd(static_cast<__mmask8>(every_lane), _mm256_loadu_ps(from)));
#endif
#ifdef __AVX__
    if constexpr (double_lanes<Arch> == 4) return doubles<Arch>(_mm256_cvtps_pd(_mm_loadu_ps(from)));
#endif
#ifdef __SSE2__
    if constexpr (double_lanes<Arch> == 2)
        return doubles<Arch>(_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(from)))));
#endif
    std::array<double, doubles<Arch>::size> values;
    std::copy_n(from, values.size(), values.begin());
    return doubles<Arch>::load_unaligned(values.data());
}

/// `double_lanes` integers from anywhere in memory.
template <class Arch>
[[nodiscard]] doubles<Arch> load_doubles(token const* from) noexcept {
#ifdef __AVX512F__
    if constexpr (double_lanes<Arch> == 8) {
        auto const whole = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from));
        return doubles<Arch>(_mm512_maskz_cvtepi32_pd(static_cast<__mmask8>(every_lane), whole));
    }
#endif
#ifdef __AVX__
    if constexpr (double_lanes<Arch> == 4)
        return doubles<Arch>(_mm256_cvtepi32_pd(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from))));
#endif
    std::array<double, doubles<Arch>::size> values;
    std::copy_n(from, values.size(), values.begin());
    return doubles<Arch>::load_unaligned(values.data());
}

}  // namespace terse::simd
