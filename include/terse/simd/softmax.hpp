// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iterator>
#include <limits>
#include <numbers>
#include <span>

#include <terse/simd/dot.hpp>
#include <terse/simd/exp2.hpp>

// Limited by arithmetic: the exponential. For a row that fits the first-level cache the other two passes are nothing.

namespace terse::simd {

/// x[i] = b^x[i] / the sum of all, in place: softmax. NaN counts for nothing and becomes 0; so does everything where no
/// entry is finite or one is +infinity.
/// @param log2_base  log2(b): 1 for logits that were multiplied by log2(e)
/// @complexity       O(n)
template <class Arch = default_arch>
[[gnu::flatten]] void softmax(std::span<float> x, float log2_base = std::numbers::log2e_v<float>) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    float* const p = x.data();
    index const n = std::ssize(x), whole = n - n % width;
    batch top(-std::numeric_limits<float>::infinity());
    for (index i = 0; i < whole; i += width) top = max_number<Arch>(load<Arch>(p + i), top);
    float highest = max_lane<Arch>(top);
    for (index i = whole; i < n; ++i) highest = p[i] > highest ? p[i] : highest;

    batch const shift(highest), scale(log2_base);
    auto const power = [&](batch const& value) noexcept { return exp2<Arch>((value - shift) * scale); };
    for (index i = 0; i < whole; i += width) store<Arch>(power(load<Arch>(p + i)), p + i);
    if (whole < n) store_partial<Arch>(power(load_partial<Arch>(p + whole, n - whole)), p + whole, n - whole);

    float const total = sum<Arch>(p, n);
    batch const factor(total > 0 ? 1 / total : 0.0F);
    for (index i = 0; i < whole; i += width) store<Arch>(load<Arch>(p + i) * factor, p + i);
    if (whole < n) store_partial<Arch>(load_partial<Arch>(p + whole, n - whole) * factor, p + whole, n - whole);
}

}  // namespace terse::simd
