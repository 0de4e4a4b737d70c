// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/scalar_quantise.hpp>

// Rows in 8 and 4 bit. A group of at least 32 neighbouring channels shares a scale, in a plane apart from the
// codes, which stay aligned that way. In cache the extremes of a group and the division limit it: `lanes` groups are
// reduced together, transposing, and share one division; their values are read again for the codes, from L1. From
// memory it is the reading.

namespace terse::simd {

/// Registers that hold 32 values.
template <class Arch>
using block = std::array<ints<Arch>, 32 / lanes<Arch>>;

/// The larger magnitude, lane by lane, of x and a magnitude; NaN and infinity are above every number.
template <class Arch>
[[nodiscard]] floats<Arch> max_magnitude(floats<Arch> const& x, floats<Arch> const& magnitude) noexcept {
    auto const bits = std::bit_cast<ints<Arch>>(x) & ints<Arch>(0x7FFF'FFFF);
    return std::bit_cast<floats<Arch>>(max_int<Arch>(bits, std::bit_cast<ints<Arch>>(magnitude)));
}

/// Lane i of each 128 bits: x[i]'s four lanes there, reduced by `op`.
template <class Arch, class Op>
[[nodiscard]] floats<Arch> reduce_four(std::array<floats<Arch>, 4> const& x, Op op) noexcept {
    auto const both = [op](floats<Arch> const& a, floats<Arch> const& b) noexcept {
        return op(interleave<false, Arch>(a, b), interleave<true, Arch>(a, b));
    };
    return both(both(x[0], x[2]), both(x[1], x[3]));
}

/// Of results of reduce_four: the 128 bits of each, reduced by `op`, one result's after the other's.
template <class Arch, class Op>
[[nodiscard]] floats<Arch> reduce_blocks(std::array<floats<Arch>, lanes<Arch> / 4> const& x,
                                         [[maybe_unused]] Op op) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {
        auto const both = [op](floats<Arch> const& a, floats<Arch> const& b) noexcept {
            return op(floats<Arch>(_mm512_maskz_shuffle_f32x4(every_lane, a, b, 0x44)),
                      floats<Arch>(_mm512_maskz_shuffle_f32x4(every_lane, a, b, 0xEE)));
        };
        auto const low = both(x[0], x[1]), high = both(x[2], x[3]);
        return op(floats<Arch>(_mm512_maskz_shuffle_f32x4(every_lane, low, high, 0x88)),
                  floats<Arch>(_mm512_maskz_shuffle_f32x4(every_lane, low, high, 0xDD)));
    }
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8)
        return op(floats<Arch>(_mm256_permute2f128_ps(x[0], x[1], 0x20)),
                  floats<Arch>(_mm256_permute2f128_ps(x[0], x[1], 0x31)));
#endif
    if constexpr (lanes<Arch> == 4) return x[0];
}

/// One lane a group: the values of each group from[i], reduced by `op`, which is given what it gave and more values.
template <class Arch, real T, class Op>
[[nodiscard]] floats<Arch> reduce_groups(T const* const* from, index group, floats<Arch> const& first, Op op) noexcept {
    std::array<floats<Arch>, lanes<Arch> / 4> quads;
    unroll<lanes<Arch> / 4>([&](auto q) {
        std::array<floats<Arch>, 4> each;
        unroll<4>([&](auto i) {
            each[i] = first;
            for (index k = 0; k < group; k += 32)
                unroll<32 / lanes<Arch>>(
                    [&](auto v) { each[i] = op(load<Arch>(from[4 * q + i] + k + v * lanes<Arch>), each[i]); });
        });
        quads[q] = reduce_four<Arch>(each, op);
    });
    return reduce_blocks<Arch>(quads, op);
}

/// Each lane's next half that is not below it, as a float.
template <class Arch>
[[nodiscard]] floats<Arch> round_up_to_half(floats<Arch> const& x) noexcept {
#ifdef __F16C__
    constexpr int up = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
    if constexpr (lanes<Arch> == 4) return floats<Arch>(_mm_cvtph_ps(_mm_cvtps_ph(x, up)));
    if constexpr (lanes<Arch> == 8) return floats<Arch>(_mm256_cvtph_ps(_mm256_cvtps_ph(x, up)));
#endif
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return floats<Arch>(_mm512_maskz_cvtph_ps(every_lane, _mm512_maskz_cvtps_ph(every_lane, x, up)));
#endif
    auto values = to_array<Arch>(x);
    for (float& value : values) value = static_cast<float>(scalar::round_up<half>(value));
    return floats<Arch>::load_unaligned(values.data());
}

/// `exact` as it will be stored, never smaller, and its inverse; both 0 for what is no normal float.
template <class Arch, class Scale>
[[nodiscard]] std::array<floats<Arch>, 2> scale_and_inverse(floats<Arch> const& exact) noexcept {
    floats<Arch> const zero(0.0F);
    auto scale = xsimd::select(exact >= floats<Arch>(std::numeric_limits<float>::min()), exact, zero);
    if constexpr (std::same_as<Scale, half>) scale = round_up_to_half<Arch>(scale);
    return {scale, xsimd::select(scale > zero, floats<Arch>(1.0F) / scale, zero)};
}

/// Writes 32 values of [-127, 127] as bytes.
template <class Arch>
void store_int8(block<Arch> const& x, std::int8_t* to) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return unroll<2>([&](auto v) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * v), _mm512_maskz_cvtepi32_epi8(every_lane, x[v]));
        });
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8) {
        auto const bytes = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
        auto const order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
    }
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4)
        return unroll<2>([&](auto v) {
            auto const bytes =
                _mm_packs_epi16(_mm_packs_epi32(x[4 * v], x[4 * v + 1]), _mm_packs_epi32(x[4 * v + 2], x[4 * v + 3]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * v), bytes);
        });
#endif
    std::array<std::int32_t, 32> values;
    for (std::size_t v = 0; v < x.size(); ++v) x[v].store_unaligned(values.data() + v * ints<Arch>::size);
    for (std::size_t i = 0; i < 32; ++i) to[i] = static_cast<std::int8_t>(values[i]);
}

/// Writes 32 values of [0, 15] as 16 bytes: byte i holds the i-th and, in its upper half, the (i + 16)-th.
/// @return  lanes of 16 bit, negative where a value was the lowest integer
template <class Arch>
[[nodiscard]] ints<Arch> store_int4(block<Arch> const& x, std::uint8_t* to) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm512_maskz_cvtepi32_epi8(every_lane, x[0] | shift_left<4, Arch>(x[1])));
        return x[0] | x[1];
    }
#endif
#ifdef __AVX2__
    if constexpr (lanes<Arch> == 8) {
        auto const low = _mm256_packs_epi32(x[0], x[1]), high = _mm256_packs_epi32(x[2], x[3]);
        auto const pairs = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
        auto const bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi32(bytes, 0xD8));
        return ints<Arch>(_mm256_or_si256(low, high));
    }
#endif
    constexpr std::size_t half_block = 16 / ints<Arch>::size;
    auto odd = x[0];
    for (std::size_t v = 1; v < x.size(); ++v) odd = odd | x[v];
    std::array<ints<Arch>, half_block> pairs;
    for (std::size_t v = 0; v < half_block; ++v) pairs[v] = x[v] | shift_left<4, Arch>(x[v + half_block]);
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) {
        auto const bytes = _mm_packus_epi16(_mm_packs_epi32(pairs[0], pairs[1]), _mm_packs_epi32(pairs[2], pairs[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
        return odd;
    }
#endif
    std::array<std::int32_t, 16> values;
    for (std::size_t v = 0; v < half_block; ++v) pairs[v].store_unaligned(values.data() + v * ints<Arch>::size);
    for (std::size_t i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(values[i]);
    return odd;
}

/// The nearest integers, to even; the lowest integer for NaN.
template <class Arch>
[[nodiscard]] ints<Arch> round_to_int(floats<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return ints<Arch>(_mm512_maskz_cvtps_epi32(every_lane, x));
#endif
#ifdef __SSE2__
    return xsimd::nearbyint_as_int(x);
#else
    ints<Arch> const lowest(std::numeric_limits<std::int32_t>::min());
    return xsimd::select(xsimd::bool_cast(xsimd::isnan(x)), lowest, xsimd::nearbyint_as_int(x));
#endif
}

/// Groups whose scales are found before their codes: enough to hide how long one takes, few enough to stay in L1.
template <class Arch>
inline constexpr index groups_held = 4 * lanes<Arch>;

/// Calls body(from, first, count) for the groups of all rows, at most groups_held at a time: group first + i starts at
/// from[i]; from `count` on to a multiple of lanes the last one repeats.
template <class Arch, class Row, class Body>
void for_groups(index rows, Row row, index dim, index group, Body const& body) noexcept {
    index const total = rows * (dim / group);
    using value = std::remove_pointer_t<decltype(row(index{}))>;
    std::array<value const*, static_cast<std::size_t>(groups_held<Arch>)> from;
    for (index first = 0, r = -1, rest = 0; first < total; first += groups_held<Arch>) {
        index const count = std::min(total - first, groups_held<Arch>);
        index i = 0;
        for (; i < count; ++i, rest -= group) {
            if (rest == 0) rest = dim, ++r;
            from[static_cast<std::size_t>(i)] = row(r) + (dim - rest);
        }
        for (; i % lanes<Arch> != 0; ++i) from[static_cast<std::size_t>(i)] = from[static_cast<std::size_t>(i - 1)];
        body(from.data(), first, count);
    }
}

/// Calls body() out of line: what is rare, and would take registers from what is not.
template <class Arch, class Body>
[[gnu::noinline, gnu::flatten]] void rarely(Body const& body) noexcept {
    body();
}

/// Writes the first `count` lanes and nothing beyond.
template <class Arch, real T>
void store_first(floats<Arch> const& x, T* to, index count) noexcept {
    if (count == lanes<Arch>)
        store<Arch>(x, to);
    else
        rarely<Arch>([x, to, count] { store_partial<Arch>(x, to, count); });
}

/// Rows in 8 bit: code = the integer next to x / scale, to even, where scale = the largest magnitude of the group /
/// 127.
///
/// Scales are rounded up where they are half, and codes follow the scale that is stored: |x - code * scale| is at most
/// scale / 2, a rounding of x aside. A group of zeros, or of nothing above 127 * 2^-126, has scale 0 and codes 0. What
/// is beyond 2^126 (scales in half: 65504), infinity too, has no part in the scale and becomes 127 or -127; NaN becomes
/// 0. All of that is the same on every architecture, to the bit.
///
/// @param row     callable index -> T const*, of dim contiguous values; any alignment
/// @param codes   [rows, dim], of [-127, 127]
/// @param scales  [rows, dim / group], float or half
/// @return        how many values were NaN or beyond
/// @pre           group is a multiple of 32, dim one of group
/// @complexity    O(rows * dim); no allocation
template <class Arch = default_arch, class Row, class Scale>
[[gnu::flatten]] index quantise_int8(index rows, Row row, index dim, index group, std::int8_t* codes,
                                     Scale* scales) noexcept {
    index odd = 0;
    auto const larger = [](auto const& x, auto const& y) noexcept { return max_magnitude<Arch>(x, y); };
    for_groups<Arch>(rows, row, dim, group, [&](auto const& from, index first, index count) {
        std::array<float, static_cast<std::size_t>(groups_held<Arch>)> inverses;
        bool ordinary = true;
        for (index i = 0; i < count; i += lanes<Arch>) {
            auto const most = reduce_groups<Arch>(from + i, group, floats<Arch>(0.0F), larger);
            auto const [scale, inverse] = scale_and_inverse<Arch, Scale>(most / floats<Arch>(127.0F));
            store_first<Arch>(scale, scales + first + i, std::min(count - i, lanes<Arch>));
            inverse.store_unaligned(inverses.data() + i);
            ordinary = ordinary && xsimd::all(most <= floats<Arch>(scalar::largest_code_value<Scale>));
        }
        std::int8_t* to = codes + first * group;
        for (index i = 0; i < count; ++i) {
            auto const* const x = from[i];
            floats<Arch> const factor(inverses[static_cast<std::size_t>(i)]);
            for (index k = 0; k < group; k += 32, to += 32) {
                block<Arch> values;
                unroll<32 / lanes<Arch>>(
                    [&](auto v) { values[v] = round_to_int<Arch>(load<Arch>(x + k + v * lanes<Arch>) * factor); });
                store_int8<Arch>(values, to);
            }
        }
        if (ordinary) return;
        rarely<Arch>([&] {
            for (index i = 0; i < count; ++i)
                odd += scalar::quantise_int8_group(from[i], group, codes + (first + i) * group, scales[first + i]);
        });
    });
    return odd;
}

/// Rows in 4 bit: code = the integer next to (x - minimum) / scale, to even, where minimum = the group's least and
/// scale = (its largest - minimum) / 15.
///
/// Where they are half, minima are rounded down and scales up, and codes follow what is stored:
/// |x - (code * scale + minimum)| is at most scale / 2, a rounding of x aside. A scale that is no normal float is 0,
/// and so are its codes. What is beyond 2^126 (planes in half: 65504), infinity too, has no part in minimum and scale
/// and becomes 15 or 0; NaN becomes 0; minimum and scale are 0 if there is nothing else. All of that is the same on
/// every architecture, to the bit.
///
/// @param row     callable index -> T const*, of dim contiguous values; any alignment
/// @param codes   [rows, dim / 2]: of each 32 channels, byte i holds the i-th and, in its upper half, the (i + 16)-th
/// @param scales, minima  [rows, dim / group], float or half
/// @return        how many values were NaN or beyond
/// @pre           group is a multiple of 32, dim one of group
/// @complexity    O(rows * dim); no allocation
template <class Arch = default_arch, class Row, class Scale>
[[gnu::flatten]] index quantise_int4(index rows, Row row, index dim, index group, std::uint8_t* codes, Scale* scales,
                                     Scale* minima) noexcept {
    index odd = 0;
    floats<Arch> const zero(0.0F), infinity(std::numeric_limits<float>::infinity());
    floats<Arch> const beyond(scalar::largest_code_value<Scale>);
    auto const lower = [](auto const& x, auto const& y) noexcept { return min_number<Arch>(x, y); };
    auto const upper = [](auto const& x, auto const& y) noexcept { return max_number<Arch>(x, y); };
    for_groups<Arch>(rows, row, dim, group, [&](auto const& from, index first, index count) {
        std::array<float, static_cast<std::size_t>(groups_held<Arch>)> inverses, starts;
        bool ordinary = true;
        for (index i = 0; i < count; i += lanes<Arch>) {
            auto const least = reduce_groups<Arch>(from + i, group, infinity, lower);
            auto const most = reduce_groups<Arch>(from + i, group, -infinity, upper);
            auto minimum = least + zero;  // -0 becomes 0
            if constexpr (std::same_as<Scale, half>) minimum = zero - round_up_to_half<Arch>(zero - least);
            auto const [scale, inverse] = scale_and_inverse<Arch, Scale>((most - minimum) / floats<Arch>(15.0F));
            index const now = std::min(count - i, lanes<Arch>);
            store_first<Arch>(minimum, minima + first + i, now);
            store_first<Arch>(scale, scales + first + i, now);
            minimum.store_unaligned(starts.data() + i);
            inverse.store_unaligned(inverses.data() + i);
            ordinary = ordinary && xsimd::all((least >= -beyond) & (most <= beyond));
        }
        ints<Arch> unordered(0);
        std::uint8_t* to = codes + first * group / 2;
        for (index i = 0; i < count; ++i) {
            auto const* const x = from[i];
            floats<Arch> const factor(inverses[static_cast<std::size_t>(i)]);
            floats<Arch> const start(starts[static_cast<std::size_t>(i)]);
            for (index k = 0; k < group; k += 32, to += 16) {
                block<Arch> values;
                unroll<32 / lanes<Arch>>([&](auto v) {
                    values[v] = round_to_int<Arch>((load<Arch>(x + k + v * lanes<Arch>) - start) * factor);
                });
                unordered = unordered | store_int4<Arch>(values, to);
            }
        }
        auto const signs = unordered & ints<Arch>(static_cast<std::int32_t>(0x8000'8000U));
        if (ordinary && !xsimd::any(signs != ints<Arch>(0))) return;
        rarely<Arch>([&] {
            for (index i = 0; i < count; ++i)
                odd += scalar::quantise_int4_group(from[i], group, codes + (first + i) * group / 2, scales[first + i],
                                                   minima[first + i]);
        });
    });
    return odd;
}

}  // namespace terse::simd
