// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/column_sums.hpp>
#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// Keeps the heavy hitters, the slots that have received most attention so far, and the most recent slots.
///
/// Source: Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
/// arXiv:2306.14048; the eviction of its real-drop code. Differs: sums are reduced over the query heads of a kv head,
/// and kept in float. Sums favour old slots, which more queries saw; `per_visible` divides by those queries
/// (ObservedAttention of kvpress, which keeps no recent slots).
struct h2o {
    index keep = 512;    ///< slots to keep for each kv head: heavy hitters and recent ones (the paper: half each)
    index recent = 256;  ///< last slots, always kept
    score::reduction group = score::reduction::mean;
    bool per_visible = false;  ///< at prefill: the mean over the queries that saw a slot instead of their sum

    [[nodiscard]] constexpr score::attention scorer() const noexcept {
        return {.per_visible = per_visible, .group = group};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// After the prefill, without state.
    /// @param l   reads keys and all queries [heads, tokens, dim], or all attention [heads, tokens, tokens]. With fewer
    ///            queries, only those vote: cheaper, and usually near.
    /// @return    a selection for each kv head; errors as `evict`'s and `score::attention`'s
    /// @complexity O(heads * queries * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::attention>{scorer(), {keep}, 0, recent}(l, memory, run);
    }

    /// At any step, from the sums so far.
    /// @return    a selection for each kv head; errors as `evict`'s
    /// @complexity O(kv_heads * tokens)
    template <executor Run = serial>
    [[nodiscard]] result<plans> operator()(column_sums const& sums, arena& memory, Run const& run = {}) const noexcept {
        auto const scorer = [](column_sums const& s, arena&, Run const&) noexcept -> result<scores> {
            return scores{s.values, s.heads, s.used, s.capacity};
        };
        return evict<decltype(scorer)>{scorer, {keep}, 0, recent}(sums, memory, run);
    }
};

}  // namespace terse::kv
