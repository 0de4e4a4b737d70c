// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// Keeps what the last queries of the prompt attend to, with its neighbours, and those last tokens.
///
/// Source: Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv:2404.14469. Differs: scores
/// are reduced over the query heads of a kv head (as AdaKV's and KVCache-Factory's code), where the authors' code
/// caches a copy of the keys for each query head; slots stand in their order, where it gathers them by score.
struct snapkv {
    index keep = 1024;  ///< slots to keep for each kv head, window included (the authors' run-time default: 2048)
    index window = 32;  ///< last queries that vote; their own slots are always kept
    index sinks = 0;    ///< first slots, always kept
    score::pooling pool = score::pooling::average;
    index kernel = 5;           ///< width of the pooling, odd (KVCache-Factory: 7)
    bool mean_queries = false;  ///< the mean over the window instead of the sum: the same choice, other scores
    score::reduction group = score::reduction::mean;
    bool pool_first = false;  ///< pool each query head before they are reduced (kvpress); differs for maxima only

    [[nodiscard]] constexpr score::attention scorer() const noexcept {
        return {.queries = window,
                .past_only = true,
                .mean_queries = mean_queries,
                .group = group,
                .pool = pool,
                .kernel = kernel,
                .pool_first = pool_first};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    a selection for each kv head; errc::bad_setting for a window below one or an even kernel; errors as
    ///            `evict`'s and `score::attention`'s
    /// @complexity O(heads * window * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1) return errc::bad_setting;
        return evict<score::attention>{scorer(), {keep}, sinks, window}(l, memory, run);
    }
};

}  // namespace terse::kv
