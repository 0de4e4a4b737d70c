// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// Keeps the cache slots with the highest scores, besides the first and the last: the open form of every eviction by
/// score. The named policies are instances of it; users compose their own from any scorer and any budget.
template <class Score, budget::rule Budget = budget::fixed>
struct evict {
    Score score{};
    Budget budget{};   ///< slots to keep for each kv head, sinks and recent ones included
    index sinks = 0;   ///< first slots, always kept
    index recent = 0;  ///< last slots, always kept; those that the scorer leaves out are kept as well
    bool fit = false;  ///< protect fewer sinks and recent slots than asked for where the budget is smaller than both

    /// @param input   a layer, or what else `score` reads, with tokens() and kv_heads()
    /// @return        a selection for each row of scores (one shared by all heads where the scorer gives one
    ///                row), slots ascending, those that the layer guards among them; keeps all where the budget
    ///                reaches the number of slots. errc::bad_budget unless keep >= 1 and what is protected fits into
    ///                keep; the scorer's errors; errc::out_of_memory
    /// @complexity    the scorer's, and O(kv_heads * tokens)
    template <class Input, executor Run = serial>
    [[nodiscard]] result<plans> operator()(Input const& input, arena& memory, Run const& run = {}) const noexcept {
        result<index> const keep = budget.count(input.tokens());
        if (!keep) return keep.error();
        index const heads = input.kv_heads(), tokens = input.tokens();
        select::quota const asked{*keep, sinks, recent};
        if (!fit) return select::highest(score, input, heads, tokens, asked, memory, run);
        auto const choice = [&](scores const& s, std::span<select::row const> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            index const last = std::max(recent, tokens - s.tokens);  // what has no score counts as recent
            if (sinks < *keep - last) {
                errc const error = select::highest_of_rows(s, tokens, rows, items, kept, scratch, run);
                if (error != errc::ok) return error;
                return s.heads;
            }
            for (index h = 0; h < s.heads; ++h) {
                auto const& [length, given] = rows[static_cast<std::size_t>(h)];
                select::quota const own = select::quota{given.keep, sinks, last, given.guarded}.fitted();
                index const count = own.fixed(length);
                if (count > own.keep) return errc::bad_budget;
                auto const sources = kept.first(static_cast<std::size_t>(count));
                select::choose_fixed(own, length, sources);
                std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(sources, length));
                kept = kept.subspan(sources.size());
            }
            return s.heads;
        };
        return select::choose_by_score(score, input, heads, tokens, asked.fitted(), heads * std::min(*keep, tokens),
                                       choice, memory, run);
    }
};

}  // namespace terse::kv
