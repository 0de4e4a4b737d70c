// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/rank.hpp>
#include <terse/core/result.hpp>

namespace terse::budget {

/// As many tokens as carry a share of all that is there: a budget by data, not by shapes.
///
/// Source: the token ratio of He et al., "ZipVL: Efficient Large Vision-Language Models with Dynamic Token
/// Sparsification", arXiv:2410.08584.
struct mass {
    double share = 0.975;     ///< in (0, 1]; 1 keeps every token that has some
    index least = 1;          ///< at least so many
    index most = max_tokens;  ///< and at most

    /// The fewest tokens whose highest scores add up to the share of the sum of all. Scores that are negative or NaN
    /// add nothing.
    ///
    /// @param memory  scratch, given back
    /// @return        at most scores.size(); errc::bad_budget for a share outside of (0, 1], or unless
    ///                1 <= least <= most; errc::out_of_memory
    /// @complexity    O(tokens)
    [[nodiscard]] result<index> count(std::span<float const> scores, arena& memory) const noexcept {
        if (!(share > 0 && share <= 1) || least < 1 || least > most) return errc::bad_budget;
        rollback const scratch_only{memory};
        auto const positive = memory.take<float>(std::ssize(scores));
        if (!taken(positive)) return errc::out_of_memory;
        auto const some = [](float x) { return rank(x) > 0; };
        auto const end = std::copy_if(scores.begin(), scores.end(), positive.begin(), some);
        auto const sum = [](auto from, auto to) { return std::accumulate(from, to, 0.0); };

        // The highest are [begin, first); what they lack of the share is in the highest of [first, last).
        auto const begin = positive.begin();
        auto first = begin, last = end;
        double missing = share < 1 ? share * sum(begin, end) : 0;
        if (share == 1) first = end;
        while (first != last) {
            auto const middle = first + (last - first) / 2;
            std::nth_element(first, middle, last, std::greater<>{});
            double const upper = sum(first, middle);
            if (upper >= missing) {
                last = middle;
            } else {
                missing -= upper + static_cast<double>(*middle);
                first = middle + 1;
                if (missing <= 0) break;
            }
        }
        return std::min(std::clamp<index>(first - begin, least, most), std::ssize(scores));
    }
};

}  // namespace terse::budget
