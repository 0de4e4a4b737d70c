// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/non_causal_attention.hpp>

namespace terse::kv {

/// Keeps the slots that the queries of their own chunk attend to when nothing is masked, weighed by their values.
///
/// Source: Chari and Van Durme, "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage
/// Scores", arXiv:2507.08143: the part that looks at queries. As kvpress's code, padding of the last chunk included;
/// there padded keys have a logit of -1e-9, here of 0. Sinks and recent slots are an addition, off by default.
struct non_causal_attention {
    index keep = 1024;  ///< slots to keep for each kv head, protected ones included
    index sinks = 0;    ///< first slots, always kept; chunks start behind them
    index recent = 0;   ///< last slots, always kept; they take no part
    index chunk = 256;  ///< slots that attend to each other

    [[nodiscard]] constexpr score::non_causal_attention scorer() const noexcept {
        return {.chunk = chunk, .sinks = sinks, .recent = recent};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys and values [kv_heads, tokens, dim], and all queries [heads, tokens, dim]
    /// @return    a selection for each kv head; errors as `evict`'s and `score::non_causal_attention`'s
    /// @complexity O(heads * tokens * chunk * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::non_causal_attention>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
