// SPDX-License-Identifier: Apache-2.0
#pragma once

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
        select::quota const asked{*keep, sinks, recent};
        return select::highest(score, input, input.kv_heads(), input.tokens(), fit ? asked.fitted() : asked, memory,
                               run);
    }
};

}  // namespace terse::kv
