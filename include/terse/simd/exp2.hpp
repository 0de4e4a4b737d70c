// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/simd/batch.hpp>

// Limited by arithmetic: a dozen operations a register, half of them a chain of multiply-adds.

namespace terse::simd {

/// 2^x for x <= 0, within 2e-7 of it; exactly 1 at 0, and exactly 0 at -127 and below and where x is NaN.
/// A minimax polynomial of degree 5 on [-0.5, 0.5] whose constant is held at 1: sums that are rescaled by 2^0
/// thousands of times do not drift.
template <class Arch>
[[nodiscard]] floats<Arch> exp2(floats<Arch> const& x) noexcept {
    using batch = floats<Arch>;
    auto const clamped = max_number<Arch>(x, batch(-127.0F));
    auto const whole = round<Arch>(clamped);
    auto const f = clamped - whole;
    auto p = fma<Arch>(batch(0.0013264727F), f, batch(0.0096715130F));
    p = fma<Arch>(p, f, batch(0.055507336F));
    p = fma<Arch>(p, f, batch(0.24022242F));
    p = fma<Arch>(p, f, batch(0.69314700F));
    p = fma<Arch>(p, f, batch(1.0F));
    return p * power_of_two<Arch>(whole);
}

}  // namespace terse::simd
