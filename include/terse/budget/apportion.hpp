// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <terse/core/types.hpp>

namespace terse::budget {

/// Whole shares of a total that are nearest to ideal ones: within bounds and summing to the total to the last unit.
///
/// Ideal shares that do not fit, for their sum or for a bound, are all raised or lowered by the same amount (the
/// nearest ones that do, in squares); then fractions are dropped, and the largest of them get the units that are left,
/// of equal ones the first.
struct apportion {
    index parts = 1;
    index total = 0;
    index low = 0;
    index high = 0;

    /// Whether there are such shares.
    [[nodiscard]] constexpr bool possible() const noexcept {
        return parts >= 1 && 0 <= low && low <= high && high <= max_tokens && parts <= max_tokens &&
               low * parts <= total && total <= high * parts;
    }

    /// @param part   of [0, parts)
    /// @param ideal  callable part -> its ideal share, a finite double
    /// @pre          possible()
    /// @complexity   O(parts)
    template <class Ideal>
    [[nodiscard]] index operator()(index part, Ideal const& ideal) const noexcept {
        double const lift = lift_of(ideal);
        auto const fixed_point = [&](index i) { return std::llround(clamped(ideal(i), lift) * unit); };
        index left = total;
        for (index i = 0; i < parts; ++i) left -= fixed_point(i) / unit;
        index const own = fixed_point(part), fraction = own % unit;
        for (index i = 0; i < parts; ++i) {
            index const other = fixed_point(i) % unit;
            left -= other > fraction || (other == fraction && i < part);
        }
        return own / unit + (left > 0 ? 1 : 0);
    }

  private:
    /// Fractions are compared to some 1e-6, so that what differs by rounding alone is equal.
    static constexpr std::int64_t unit = std::int64_t{1} << 20;

    [[nodiscard]] double clamped(double ideal, double lift) const noexcept {
        return std::clamp(ideal + lift, static_cast<double>(low), static_cast<double>(high));
    }

    /// What all ideal shares are raised by.
    template <class Ideal>
    [[nodiscard]] double lift_of(Ideal const& ideal) const noexcept {
        auto const sum = [&](double lift) {
            double all = 0;
            for (index i = 0; i < parts; ++i) all += clamped(ideal(i), lift);
            return all;
        };
        auto const wanted = static_cast<double>(total);
        if (std::abs(sum(0) - wanted) < 1e-6) return 0;
        double least = ideal(0), most = least;
        for (index i = 1; i < parts; ++i) least = std::min(least, ideal(i)), most = std::max(most, ideal(i));
        double below = static_cast<double>(low) - most, above = static_cast<double>(high) - least;
        for (int halving = 0; halving < 100; ++halving) {
            double const middle = (below + above) / 2;
            (sum(middle) < wanted ? below : above) = middle;
        }
        return above;
    }
};

}  // namespace terse::budget
