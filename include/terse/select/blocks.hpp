// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/rank.hpp>
#include <terse/core/result.hpp>
#include <terse/core/types.hpp>
#include <terse/simd/batch.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::select {

/// The kept.size() highest of scores in double, as ascending positions; NaN goes first.
///
/// @param last_wins  of equal scores the last stays, not the first
/// @param memory     scratch, given back
/// @pre              kept.size() <= scores.size()
/// @return           errc::out_of_memory
/// @complexity       O(n), and O(t log t) for t scores that float rounds to the same as the least that is kept
inline errc top_k(std::span<double const> scores, bool last_wins, std::span<token> kept, arena& memory) noexcept {
    index const n = std::ssize(scores);
    rollback const scratch_only{memory};
    auto const rounded = memory.take<float>(n);
    auto const scratch = memory.take<std::int32_t>(simd::top_k_scratch(n));
    auto const equal = memory.take<token>(n);
    if (!taken(rounded, scratch, equal)) return errc::out_of_memory;
    if (kept.empty()) return errc::ok;
    auto const score = [&](token at) { return scores[static_cast<std::size_t>(last_wins ? n - 1 - at : at)]; };
    auto const place = [&](token at) { return rank(rounded[static_cast<std::size_t>(at)]); };
    for (token at = 0; at < n; ++at) rounded[static_cast<std::size_t>(at)] = static_cast<float>(score(at));
    simd::top_k(rounded, kept, 0, scratch);

    // Rounding keeps the order of what stays apart; what it makes equal to the least is put in order by the doubles.
    std::int32_t least = std::numeric_limits<std::int32_t>::max();
    for (token const at : kept) least = std::min(least, place(at));
    auto last = equal.begin();
    for (token at = 0; at < n; ++at)
        if (place(at) == least) *last++ = at;
    auto const above = std::count_if(kept.begin(), kept.end(), [&](token at) { return place(at) > least; });
    auto const wanted = std::ssize(kept) - above;
    if (last - equal.begin() > wanted && least != rank(std::numeric_limits<float>::quiet_NaN())) {
        auto const higher = [&](token a, token b) { return score(a) > score(b) || (score(a) == score(b) && a < b); };
        std::nth_element(equal.begin(), equal.begin() + wanted, last, higher);
        std::sort(equal.begin(), equal.begin() + wanted);
        std::remove_if(kept.begin(), kept.end(), [&](token at) { return place(at) == least; });
        std::merge(kept.begin(), kept.begin() + above, equal.begin(), equal.begin() + wanted, scratch.begin());
        std::copy_n(scratch.begin(), kept.size(), kept.begin());
    }
    if (last_wins) {
        std::reverse(kept.begin(), kept.end());
        for (token& at : kept) at = static_cast<token>(n - 1 - at);
    }
    return errc::ok;
}

/// The positions of [0, count) that are not among `some`.
/// @param some  ascending
/// @param rest  [count - some.size()]: receives them, ascending
inline void complement(std::span<token const> some, index count, std::span<token> rest) noexcept {
    auto next = some.begin();
    auto to = rest.begin();
    for (token at = 0; at < count; ++at) {
        if (next != some.end() && *next == at)
            ++next;
        else
            *to++ = at;
    }
}

/// How many of the highest scores together reach a share of the sum of all: ascending positions.
///
/// @param share   of the sum; scores that are not finite do not count towards it
/// @param leading receives the positions; its size is the most that there may be
/// @param memory  scratch, given back
/// @pre           leading.size() <= scores.size()
/// @return        their number; errc::out_of_memory
/// @complexity    O(n + k log k) for at most k
[[nodiscard]] inline result<index> leaders(std::span<double const> scores, double share, bool last_wins,
                                           std::span<token> leading, arena& memory) noexcept {
    if (errc const error = top_k(scores, last_wins, leading, memory); error != errc::ok) return error;
    auto const score = [&](token at) { return scores[static_cast<std::size_t>(at)]; };
    auto const counts = [](double x) { return simd::is_finite(static_cast<float>(x)); };
    double total = 0, sum = 0;
    for (double const x : scores) total += counts(x) ? x : 0;
    std::sort(leading.begin(), leading.end(), [&](token a, token b) {
        std::int32_t const x = rank(static_cast<float>(score(a))), y = rank(static_cast<float>(score(b)));
        if (x != y) return x > y;
        bool const known = counts(score(a));
        if (known && score(a) != score(b)) return score(a) > score(b);
        return last_wins ? a > b : a < b;
    });
    index count = 0;
    for (; count < std::ssize(leading) && sum < share * total; ++count) {
        double const x = score(leading[static_cast<std::size_t>(count)]);
        sum += counts(x) ? x : 0;
    }
    std::sort(leading.begin(), leading.begin() + count);
    return count;
}

}  // namespace terse::select
