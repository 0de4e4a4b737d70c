// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/simd/batch.hpp>

// Limited by arithmetic: a dozen operations a register, half of them a chain of multiply-adds.

namespace terse::simd {

/// 2^x for x <= 0, within 2e-7 of it down to -126; exactly 1 at 0; less than 2^-126 or 0 below, and exactly 0 from -150
/// on and where x is NaN.
/// A minimax polynomial of degree 5 on [-0.5, 0.5] whose constant is held at 1: sums that are rescaled by 2^0
/// thousands of times do not drift.
template <class Arch>
[[nodiscard]] floats<Arch> exp2(floats<Arch> const& x) noexcept {
    using batch = floats<Arch>;
    auto const polynomial = [](batch const& f) noexcept {
        auto p = fma<Arch>(batch(0.0013264727F), f, batch(0.0096715130F));
        p = fma<Arch>(p, f, batch(0.055507336F));
        p = fma<Arch>(p, f, batch(0.24022242F));
        p = fma<Arch>(p, f, batch(0.69314700F));
        return fma<Arch>(p, f, batch(1.0F));
    };
#ifdef __AVX512F__
    if constexpr (lanes<Arch> == 16) {  // one instruction for the power
        auto const clamped = max_number<Arch>(x, batch(-300.0F));
        auto const whole = round<Arch>(clamped);
        return batch(_mm512_maskz_scalef_ps(every_lane, polynomial(clamped - whole), whole));
    }
#endif
    auto const clamped = max_number<Arch>(x, batch(-127.0F));
    auto const whole = round<Arch>(clamped);
    return polynomial(clamped - whole) * power_of_two<Arch>(whole);
}

}  // namespace terse::simd
