// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace terse {

/// A score's place among scores, as an integer that compares like it: NaN is below -infinity, -0 equals +0.
/// By bits, so that it holds under -ffast-math too, where std::isnan is always false.
/// Of equal scores the lower position wins: this is the one order that every selection follows.
[[nodiscard]] constexpr std::int32_t rank(float score) noexcept {
    auto const bits = std::bit_cast<std::int32_t>(score);
    std::int32_t const magnitude = bits & 0x7FFF'FFFF;
    if (magnitude > 0x7F80'0000) return std::numeric_limits<std::int32_t>::min();
    return bits < 0 ? -magnitude : magnitude;
}

}  // namespace terse
