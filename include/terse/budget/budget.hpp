// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>

#include <terse/core/result.hpp>
#include <terse/core/types.hpp>

namespace terse::budget {

/// How a fraction of a token becomes a token; published codes differ.
enum class rounding {
    floor,
    truncate,      ///< Python's int: as floor, but a product that falls short of a whole number by an ulp counts less
    nearest_even,  ///< Python's round
    nearest,       ///< halves away from zero, C's round
    ceil,
};

/// @pre exact is of [0, 2^53)
[[nodiscard]] inline index rounded(double exact, rounding how) noexcept {
    switch (how) {
        // The products of ratios that users write, 0.3 * 10, may fall short of the count that they mean.
        case rounding::floor:
            return static_cast<index>(std::floor(exact + 1e-6));
        case rounding::truncate:
            return static_cast<index>(exact);
        case rounding::nearest_even: {
            double const below = std::floor(exact), rest = exact - below;
            auto const low = static_cast<index>(below);
            return rest > 0.5 || (rest == 0.5 && low % 2 != 0) ? low + 1 : low;
        }
        case rounding::nearest:
            return static_cast<index>(std::round(exact));
        case rounding::ceil:
            return static_cast<index>(std::ceil(exact - 1e-6));
    }
    return 0;
}

/// A budget: how many of `tokens` to keep, or errc::bad_budget. Known from shapes alone.
template <class B>
concept rule = requires(B const& b, index tokens) {
    { b.count(tokens) }
    noexcept->std::same_as<result<index>>;
};

/// The same count for every length.
struct fixed {
    index keep = 0;  ///< at least 1

    [[nodiscard]] constexpr result<index> count(index) const noexcept {
        if (keep < 1) return errc::bad_budget;
        return keep;
    }
};

/// A share of the tokens, at least one of them.
struct ratio {
    double keep = 1;  ///< in (0, 1]
    rounding round = rounding::floor;

    [[nodiscard]] result<index> count(index tokens) const noexcept {
        if (!(keep > 0 && keep <= 1)) return errc::bad_budget;
        return std::clamp<index>(rounded(keep * static_cast<double>(tokens), round), 1, std::max<index>(tokens, 1));
    }
};

/// What a budget keeps of `tokens` that are cut into chunks of `size`, the last of which may have fewer.
template <rule Budget>
[[nodiscard]] result<index> count_chunks(Budget const& budget, index tokens, index size) noexcept {
    index total = 0;
    for (index begin = 0; size > 0 && begin < tokens; begin += size) {
        index const length = std::min(size, tokens - begin);
        result<index> const keep = budget.count(length);
        if (!keep) return keep;
        total += std::min(*keep, length);
    }
    return total;
}

}  // namespace terse::budget
