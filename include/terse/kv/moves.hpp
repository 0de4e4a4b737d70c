// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iterator>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/kv/compact.hpp>

namespace terse::kv {

/// Rows [from, from + count) go to [to, to + count).
struct row_move {
    token from = 0;
    token to = 0;
    token count = 0;

    [[nodiscard]] friend constexpr bool operator==(row_move const&, row_move const&) = default;
};

/// What an engine that moves its own rows does instead of `compact`: the runs of rows that stand elsewhere afterwards,
/// ascending, to < from. Done in that order, none reads a row that another has written; within one the two may overlap:
/// move as memmove does.
///
/// @return     errc::bad_plan unless the plan is a selection with ascending sources; errc::out_of_memory
/// @complexity O(kept)
[[nodiscard]] inline result<std::span<row_move const>> moves(plan const& p, arena& memory) noexcept {
    if (errc const error = check_compaction(plans{{&p, 1}}, 1, p.tokens); error != errc::ok) return error;
    auto const for_runs = [&p](auto const& body) {
        index const kept = p.kept();
        token const* const source = p.sources.data();
        for (index i = 0, end = 0; i < kept; i = end) {
            for (end = i + 1; end < kept && source[end] - source[i] == end - i;) ++end;
            if (source[i] != i) body(row_move{source[i], static_cast<token>(i), static_cast<token>(end - i)});
        }
    };
    index count = 0;
    for_runs([&count](row_move const&) { ++count; });
    auto const list = memory.take<row_move>(count);
    if (!taken(list)) return errc::out_of_memory;
    auto next = list.begin();
    for_runs([&next](row_move const& move) { *next++ = move; });
    return std::span<row_move const>{list};
}

/// Rows that a plan frees: those from its count on.
[[nodiscard]] constexpr index freed(plan const& p) noexcept { return p.tokens - p.kept(); }

/// Rows that the plans free in a cache of `heads` heads.
[[nodiscard]] constexpr index freed(plans p, index heads) noexcept {
    index rows = 0;
    for (index h = 0; h < heads; ++h) rows += freed(p[h]);
    return rows;
}

}  // namespace terse::kv
