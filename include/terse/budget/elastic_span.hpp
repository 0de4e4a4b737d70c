// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include <terse/core/types.hpp>

namespace terse::budget {

/// A head's span of attention as a line over the length: spans of some heads grow with it, those of others do not.
struct elastic_span {
    double base = 0;   ///< tokens at length 0; below zero where only long inputs get a span
    double slope = 0;  ///< tokens more for each token of length

    [[nodiscard]] constexpr double at(index tokens) const noexcept {
        return base + slope * static_cast<double>(tokens);
    }
    /// The share of `tokens` that the span covers, in [0, 1].
    [[nodiscard]] constexpr double density(index tokens) const noexcept {
        auto const n = static_cast<double>(std::max<index>(tokens, 1));
        return std::clamp(at(tokens), 0.0, n) / n;
    }
    [[nodiscard]] bool is_finite() const noexcept { return std::isfinite(base) && std::isfinite(slope); }
};

}  // namespace terse::budget
