// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/budget/heads.hpp>
#include <terse/select/top_k.hpp>

namespace terse::select {

/// How many tokens each row of scores keeps, where rows share a budget by their scores.
///
/// @param s       [rows, scored]; the last tokens - scored of every row have no score and are kept
/// @param tokens  tokens of the longest row
/// @param keep    what a row keeps on average, protected tokens included
/// @param rows    [rows]: their q.keep are set
/// @param memory  scratch, given back
/// @return        errc::bad_budget when all rows together protect more than they keep; the rule's errors;
///                errc::out_of_memory
/// @complexity    O(rows * tokens)
[[nodiscard]] inline errc share_rows(scores const& s, index tokens, index keep, budget::across_heads const& rule,
                                     std::span<row> rows, arena& memory) noexcept {
    rollback const scratch_only{memory};
    auto const sizes = memory.take<index>(s.heads);
    auto const counts = memory.take<index>(s.heads);
    auto const free = memory.take<float>(s.heads * s.tokens);
    if (!taken(sizes, counts, free)) return errc::out_of_memory;
    rows = rows.first(static_cast<std::size_t>(s.heads));
    index total = s.heads * std::min(keep, tokens);
    auto to = free.begin();
    for (index h = 0; h < s.heads; ++h) {
        auto& [length, q] = rows[static_cast<std::size_t>(h)];
        q.trailing = std::max(q.trailing, tokens - s.tokens);
        auto const begin = to;
        if (q.fixed(length) < length) {
            q.for_each_free(length, [&, from = s.row(h).begin()](index first, index last) {
                to = std::copy(from + first, from + last, to);
            });
        }
        sizes[static_cast<std::size_t>(h)] = to - begin;
        total -= q.fixed(length);
    }
    if (errc const error = rule({free.begin(), to}, sizes, total, counts, memory); error != errc::ok) return error;
    for (std::size_t h = 0; h < rows.size(); ++h) rows[h].q.keep = rows[h].q.fixed(rows[h].tokens) + counts[h];
    return errc::ok;
}

/// The room that plans of a shared budget take at most.
[[nodiscard]] constexpr index shared_room(index rows, index tokens, index keep) noexcept {
    // The published form of the rule may round up in every row.
    return rows * (std::clamp<index>(keep, 0, std::max<index>(tokens, 0)) + 1);
}

}  // namespace terse::select
