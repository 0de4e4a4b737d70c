// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <xsimd/xsimd.hpp>

#include <terse/core/types.hpp>

/// The kernels. Unless one says otherwise: pointers, strides and lengths are any, zero among them; nothing is read or
/// written beyond them; what NaN and infinities meet follows IEEE 754, so that NaN stays in the results that it enters;
/// of equals the earlier wins.
namespace terse::simd {

using xsimd::default_arch;

/// A register of floats. The architecture is part of every kernel's signature, so that translation units built for
/// SSE2, AVX2 and AVX-512 do not share a symbol. Those of one architecture must be built for the same processor: VNNI,
/// BF16 and F16C change what is behind the same name.
template <class Arch>
using floats = xsimd::batch<float, Arch>;

/// The same register seen as integers.
template <class Arch>
using ints = xsimd::batch<std::int32_t, Arch>;

// Kernels whose inner loops are lambdas carry [[gnu::flatten]]: past a size of the translation unit gcc stops inlining
// them, and a tile whose sums go through memory runs at a fifth of its speed.

#ifdef __AVX512F__
/// The mask of all lanes: gcc 12 warns of an undefined operand in its own intrinsics without one.
inline constexpr __mmask16 every_lane = 0xFFFF;
#endif

/// How many floats a register holds.
template <class Arch>
inline constexpr index lanes = static_cast<index>(floats<Arch>::size);

/// Calls body(0), ..., body(N - 1), each with a constant.
template <int N, class Body>
constexpr void unroll(Body&& body) noexcept {
    [&]<int... I>(std::integer_sequence<int, I...>) { (body(std::integral_constant<int, I>{}), ...); }
    (std::make_integer_sequence<int, N>{});
}

/// x * y + z. xsimd 8 rounds the product first on AVX-512, so the instruction is named there.
template <class Arch>
[[nodiscard]] floats<Arch> fma(floats<Arch> const& x, floats<Arch> const& y, floats<Arch> const& z) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_fmadd_ps(x, y, z));
#endif
    return xsimd::fma(x, y, z);
}

/// z - x * y, rounded once like `fma`.
template <class Arch>
[[nodiscard]] floats<Arch> fnma(floats<Arch> const& x, floats<Arch> const& y, floats<Arch> const& z) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_fnmadd_ps(x, y, z));
#endif
    return xsimd::fnma(x, y, z);
}

/// Integers as floats, rounded to nearest even.
template <class Arch>
[[nodiscard]] floats<Arch> from_ints(ints<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_maskz_cvtepi32_ps(every_lane, x));
#endif
    return xsimd::to_float(x);
}

template <class Arch>
[[nodiscard]] floats<Arch> square_root(floats<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_mask_sqrt_ps(x, every_lane, x));
#endif
    return xsimd::sqrt(x);
}

/// Each lane's bits N places higher.
template <int N, class Arch>
[[nodiscard]] ints<Arch> shift_left(ints<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return ints<Arch>(_mm512_maskz_slli_epi32(every_lane, x, N));
#endif
    return x << N;
}

/// Each lane's bits N places lower, below copies of the sign.
template <int N, class Arch>
[[nodiscard]] ints<Arch> shift_right(ints<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return ints<Arch>(_mm512_maskz_srai_epi32(every_lane, x, N));
#endif
    return x >> N;
}

/// x where `mask` is set, else y.
template <class Arch>
[[nodiscard]] ints<Arch> blend(xsimd::batch_bool<std::int32_t, Arch> const& mask, ints<Arch> const& x,
                               ints<Arch> const& y) noexcept {
#ifdef __AVX512F__  // xsimd 8.1's own compiles for 16 lanes in optimised builds alone
    if constexpr (lanes<Arch> == 16)
        return ints<Arch>(_mm512_mask_mov_epi32(y, mask.data, x));
    else
#endif
        return xsimd::select(mask, x, y);
}

/// sum + x * y of two bfloat16 a lane: products are exact. The instruction rounds differently from float's sums and
/// takes denormals for zero; where there is none, this is two multiply-adds.
template <class Arch>
[[nodiscard]] floats<Arch> dot_pairs(floats<Arch> const& x, floats<Arch> const& y, floats<Arch> const& sum) noexcept {
#ifdef __AVX512BF16__
    if constexpr (lanes<Arch> == 16)
        return floats<Arch>(_mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(x.data), std::bit_cast<__m512bh>(y.data)));
#endif
    auto const low = [](floats<Arch> const& pair) noexcept {
        return std::bit_cast<floats<Arch>>(shift_left<16, Arch>(std::bit_cast<ints<Arch>>(pair)));
    };
    auto const high = [](floats<Arch> const& pair) noexcept {
        return std::bit_cast<floats<Arch>>(std::bit_cast<ints<Arch>>(pair) & ints<Arch>(-65536));
    };
    return fma<Arch>(high(x), high(y), fma<Arch>(low(x), low(y), sum));
}

/// Whether `dot_pairs` is one instruction.
template <class Arch>
inline constexpr bool has_dot_pairs =
#ifdef __AVX512BF16__
    lanes<Arch> == 16;
#else
    false;
#endif

/// The larger of x and y, lane by lane; y where x is NaN.
template <class Arch>
[[nodiscard]] floats<Arch> max_number(floats<Arch> const& x, floats<Arch> const& y) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_maskz_max_ps(every_lane, x, y));
#endif
#ifdef __SSE2__
    return xsimd::max(x, y);  // x86's instruction gives its second operand when one is NaN
#else
    return xsimd::select(x > y, x, y);
#endif
}

template <class Arch>
[[nodiscard]] ints<Arch> max_int(ints<Arch> const& x, ints<Arch> const& y) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return ints<Arch>(_mm512_maskz_max_epi32(every_lane, x, y));
#endif
    return xsimd::max(x, y);
}

/// The smaller of x and y, lane by lane; y where x is NaN.
template <class Arch>
[[nodiscard]] floats<Arch> min_number(floats<Arch> const& x, floats<Arch> const& y) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_maskz_min_ps(every_lane, x, y));
#endif
#ifdef __SSE2__
    return xsimd::min(x, y);
#else
    return xsimd::select(x < y, x, y);
#endif
}

/// The nearest whole numbers, of two the even one.
template <class Arch>
[[nodiscard]] floats<Arch> round(floats<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return floats<Arch>(_mm512_maskz_roundscale_ps(every_lane, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
    return xsimd::nearbyint(x);
}

/// 2^n for whole n of [-126, 127]; 0 for -127.
template <class Arch>
[[nodiscard]] floats<Arch> power_of_two(floats<Arch> const& n) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {
        auto const whole = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(every_lane, n), _mm512_set1_epi32(127));
        return floats<Arch>(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(every_lane, whole, 23)));
    }
#endif
    auto const exponent = (xsimd::to_int(n) + ints<Arch>(127)) << 23;
    return std::bit_cast<floats<Arch>>(exponent);
}

/// The sum of the lanes, under either name that xsimd has had for it (hadd before 9).
template <class Arch>
[[nodiscard]] float sum_lanes(floats<Arch> const& x) noexcept {
    if constexpr (requires { reduce_add(x); })
        return reduce_add(x);
    else
        return hadd(x);
}

/// The sums of as many registers as there are lanes: lane i is the sum of x[i]'s. A transposition that adds; xsimd 8's
/// puts lanes 2, 3, 10 and 11 in the place of 4, 5, 12 and 13 on AVX-512.
template <class Arch>
[[nodiscard]] floats<Arch> sum_each(std::array<floats<Arch>, floats<Arch>::size> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {
        auto const pairs = [&](std::size_t i) noexcept {
            return _mm512_add_ps(_mm512_maskz_unpacklo_ps(every_lane, x[i], x[i + 1]),
                                 _mm512_maskz_unpackhi_ps(every_lane, x[i], x[i + 1]));
        };
        auto const quads = [&](std::size_t i) noexcept {
            auto const a = pairs(i), b = pairs(i + 2);
            return _mm512_add_ps(_mm512_maskz_shuffle_ps(every_lane, a, b, 0x44),
                                 _mm512_maskz_shuffle_ps(every_lane, a, b, 0xEE));
        };
        auto const halves = [](__m512 a, __m512 b) noexcept {
            return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(every_lane, a, b, 0x88),
                                 _mm512_maskz_shuffle_f32x4(every_lane, a, b, 0xDD));
        };
        return floats<Arch>(halves(halves(quads(0), quads(4)), halves(quads(8), quads(12))));
    }
#endif
    return xsimd::haddp(x.data());
}

/// The lanes as an array, in order.
template <class Arch>
[[nodiscard]] auto to_array(floats<Arch> const& x) noexcept {
    std::array<float, floats<Arch>::size> values;
    x.store_unaligned(values.data());
    return values;
}

/// Each lane gets what lies in the lane whose number differs by the bit Distance.
template <int Distance, class Arch>
[[nodiscard]] floats<Arch> exchange(floats<Arch> const& x) noexcept {
    [[maybe_unused]] constexpr int in_block = Distance == 2 ? 0x4E : 0xB1;
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16 && Distance >= 4)
        return floats<Arch>(_mm512_maskz_shuffle_f32x4(every_lane, x, x, Distance == 8 ? 0x4E : 0xB1));
    if constexpr (lanes<Arch> == 16) return floats<Arch>(_mm512_maskz_shuffle_ps(every_lane, x, x, in_block));
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8 && Distance == 4) return floats<Arch>(_mm256_permute2f128_ps(x, x, 1));
    if constexpr (lanes<Arch> == 8) return floats<Arch>(_mm256_shuffle_ps(x, x, in_block));
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) return floats<Arch>(_mm_shuffle_ps(x, x, in_block));
#endif
    auto const from = to_array<Arch>(x);
    auto to = from;
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[i ^ std::size_t{Distance}];
    return floats<Arch>::load_unaligned(to.data());
}

/// All lanes reduced by `op`, in every lane.
template <class Arch, class Op>
[[nodiscard]] floats<Arch> reduce_lanes(floats<Arch> x, Op const& op) noexcept {
    if constexpr (lanes<Arch> >= 16) x = op(x, exchange<8, Arch>(x));
    if constexpr (lanes<Arch> >= 8) x = op(x, exchange<4, Arch>(x));
    x = op(x, exchange<2, Arch>(x));
    return op(x, exchange<1, Arch>(x));
}

template <class Arch>
[[nodiscard]] float first_lane(floats<Arch> const& x) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) return _mm512_cvtss_f32(x);
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8) return _mm_cvtss_f32(_mm256_castps256_ps128(x));
#endif
#ifdef __SSE2__
    if constexpr (lanes<Arch> == 4) return _mm_cvtss_f32(x);
#endif
    return to_array<Arch>(x)[0];
}

/// The largest lane; NaN loses to every number, in builds that assume there is none too.
template <class Arch>
[[nodiscard]] float max_lane(floats<Arch> const& x) noexcept {
    auto const bits = std::bit_cast<ints<Arch>>(x);
    ints<Arch> const infinity(0x7F80'0000), lowest(std::bit_cast<std::int32_t>(0xFF80'0000U));
    auto const numbers = blend<Arch>((bits & ints<Arch>(0x7FFF'FFFF)) > infinity, lowest, bits);
    auto const larger = [](auto const& a, auto const& b) noexcept { return max_number<Arch>(a, b); };
    return first_lane<Arch>(reduce_lanes<Arch>(std::bit_cast<floats<Arch>>(numbers), larger));
}

/// 0, 1, 2, ...
template <class Arch>
[[nodiscard]] floats<Arch> lane_numbers() noexcept {
    std::array<float, floats<Arch>::size> numbers;
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
    return floats<Arch>::load_unaligned(numbers.data());
}

/// Whether x is NaN; unlike std::isnan, also in builds that assume there is none.
[[nodiscard]] constexpr bool is_nan(float x) noexcept {
    return (std::bit_cast<std::uint32_t>(x) & 0x7FFF'FFFFU) > 0x7F80'0000U;
}

/// Whether x is neither NaN nor infinite, in every build.
[[nodiscard]] constexpr bool is_finite(float x) noexcept {
    return (std::bit_cast<std::uint32_t>(x) & 0x7FFF'FFFFU) < 0x7F80'0000U;
}

/// The low (High: the high) halves of each 128-bit block of x and y, in turns: x0 y0 x1 y1. xsimd's zip has meant that
/// or the halves of whole registers, by its release.
template <bool High, class Arch>
[[nodiscard]] floats<Arch> interleave(floats<Arch> const& x, floats<Arch> const& y) noexcept {
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16)
        return floats<Arch>(High ? _mm512_maskz_unpackhi_ps(every_lane, x, y)
                                 : _mm512_maskz_unpacklo_ps(every_lane, x, y));
#endif
#ifdef __AVX__
    if constexpr (lanes<Arch> == 8) return floats<Arch>(High ? _mm256_unpackhi_ps(x, y) : _mm256_unpacklo_ps(x, y));
#endif
    if constexpr (lanes<Arch> == 4) return High ? xsimd::zip_hi(x, y) : xsimd::zip_lo(x, y);
}

/// A register of doubles.
template <class Arch>
using doubles = xsimd::batch<double, Arch>;

/// Whether there is one.
template <class Arch>
inline constexpr bool has_doubles = xsimd::types::has_simd_register<double, Arch>::value;

/// How many doubles a register holds.
template <class Arch>
inline constexpr index double_lanes = static_cast<index>(doubles<Arch>::size);

}  // namespace terse::simd
