// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>
#include <type_traits>

#include <terse/simd/load_store.hpp>
#include <terse/simd/top_k.hpp>

// Reading limits this: each step multiplies what every earlier step left behind, one multiply-add for each float read,
// from the second-level cache at best. So a strip of rows goes through all of a step while its sums are in registers,
// and what the steps left of a strip stands together, to be read as one stream.

namespace terse::simd {

/// Rows that are taken through a step at once: eight registers.
template <class Arch>
inline constexpr index dpp_strip = 8 * lanes<Arch>;

/// Strips of `count` rows.
template <class Arch>
[[nodiscard]] constexpr index dpp_strips(index count) noexcept {
    return (count + dpp_strip<Arch> - 1) / dpp_strip<Arch>;
}

/// A row is used up when no more than this share of its kernel value is left of its gain: in float, that is noise.
inline constexpr float dpp_least_share = 1e-5F;

/// The gain of a row that cannot be picked any more.
inline constexpr float dpp_no_gain = -1;

/// Greedy choice of rows so that the determinant of their kernel grows the most: what is known between two picks.
/// Whole strips of rows; those beyond the kernel's have no gain.
struct dpp_state {
    index count = 0;             ///< rows of the kernel
    index steps = 0;             ///< how many steps there is room for
    std::span<float> gain{};     ///< [strips * strip]: by what factor a row would raise the determinant, or dpp_no_gain
    std::span<float> least{};    ///< [strips * strip]: the gain that a row is used up with
    std::span<float> highest{};  ///< [strips]: the highest gain of each
    std::span<float> left{};     ///< [strips, steps, strip]: rows of the kernel's Cholesky factor, as far as known
};

/// Gains before the first pick: the kernel's diagonal. A value that is not finite or not positive is no gain.
/// @param value  callable index -> float
template <class Arch = default_arch, class Value>
void dpp_start(dpp_state const& s, Value value) noexcept {
    for (index i = 0; i < s.count; ++i) s.gain[static_cast<std::size_t>(i)] = value(i);
    std::fill(s.gain.begin() + s.count, s.gain.end(), 0.0F);
    using batch = floats<Arch>;
    batch const none(dpp_no_gain), zero(0.0F);
    float *gain = s.gain.data(), *least = s.least.data();
    for (float& highest_of_strip : s.highest) {
        batch highest = none;
        for (index i = 0; i < dpp_strip<Arch>; i += lanes<Arch>, gain += lanes<Arch>, least += lanes<Arch>) {
            auto const x = batch::load_aligned(gain);
            auto const bits = std::bit_cast<ints<Arch>>(x);  // of what is finite and positive, in every build
            auto const usable = xsimd::bool_cast((bits > ints<Arch>(0)) & (bits < ints<Arch>(0x7F80'0000)));
            auto const kept = xsimd::select(usable, x, none);
            kept.store_aligned(gain);
            xsimd::select(usable, x * batch(dpp_least_share), zero).store_aligned(least);
            highest = max_number<Arch>(kept, highest);
        }
        highest_of_strip = max_lane<Arch>(highest);
    }
}

/// The row of highest gain, the lowest of equals; -1 when no row has any.
template <class Arch = default_arch>
[[nodiscard]] index dpp_best(dpp_state const& s) noexcept {
    index const strip = arg_highest<Arch>(s.highest);
    if (strip < 0 || s.highest[static_cast<std::size_t>(strip)] < 0) return -1;
    constexpr index width = dpp_strip<Arch>;
    return strip * width + arg_highest<Arch>(s.gain.subspan(static_cast<std::size_t>(strip * width), width));
}

/// What the steps so far left of a row, negated: by this a step multiplies what they left of the others.
template <class Arch = default_arch>
void dpp_factors(dpp_state const& s, index row, std::span<float> factors) noexcept {
    constexpr index width = dpp_strip<Arch>;
    float const* from = s.left.data() + row / width * width * s.steps + row % width;
    for (float& f : factors) f = -*from, from += width;
}

/// Takes strips [begin, end) past a pick: gain[i] -= e^2 where e = (kernel[i] + the sum over earlier steps of
/// factors[step] * left[i][step]) / sqrt(the pick's gain). A row that is used up, or whose e is NaN, has no gain from
/// then on. Strips do not depend on each other.
///
/// @param kernel   [count]: the pick's row of the kernel; any alignment
/// @param gain     the pick's, > 0; in `s` it must be dpp_no_gain by now
/// @param factors  [step]: of dpp_factors; step < s.steps
/// @complexity     O(rows * step), one pass; no allocation
template <class Arch = default_arch>
[[gnu::flatten]] void dpp_step(index begin, index end, float const* kernel, float gain, std::span<float const> factors,
                               dpp_state const& s) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>, strip = dpp_strip<Arch>;
    index const step = std::ssize(factors);
    batch const inverse_root(1 / std::sqrt(gain)), none(dpp_no_gain);
    auto const take = [&]<int Registers>(std::integral_constant<int, Registers>, index at, auto const& read) noexcept {
        index const first = at * strip;
        std::array<batch, Registers> e;
        unroll<Registers>([&](auto v) { e[v] = read(first + v * width); });
        float* left = s.left.data() + first * s.steps;
        for (float const factor : factors) {
            batch const f(factor);
            unroll<Registers>([&](auto v) { e[v] = fma<Arch>(f, batch::load_aligned(left + v * width), e[v]); });
            left += strip;
        }
        batch highest = none;
        unroll<Registers>([&](auto v) {
            e[v] *= inverse_root;
            if (step < s.steps) e[v].store_aligned(left + v * width);
            float* const gains = s.gain.data() + first + v * width;
            auto const now = fnma<Arch>(e[v], e[v], batch::load_aligned(gains));
            auto const kept = xsimd::select(now > batch::load_aligned(s.least.data() + first + v * width), now, none);
            kept.store_aligned(gains);
            highest = max_number<Arch>(kept, highest);
        });
        s.highest[static_cast<std::size_t>(at)] = max_lane<Arch>(highest);
    };
    index const whole = std::min(end, s.count / strip);
    for (index at = begin; at < whole; ++at) {
        take(std::integral_constant<int, 8>{}, at, [kernel](index i) noexcept { return load<Arch>(kernel + i); });
    }
    if (end <= whole) return;
    auto const careful = [&](index i) noexcept {
        index const rest = s.count - i;
        return rest >= width ? load<Arch>(kernel + i) : load_partial<Arch>(kernel + i, std::max<index>(rest, 0));
    };
    if (s.count - whole * strip <= strip / 2)
        take(std::integral_constant<int, 4>{}, whole, careful);
    else
        take(std::integral_constant<int, 8>{}, whole, careful);
}

}  // namespace terse::simd
