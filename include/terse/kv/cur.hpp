// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/squared_norm.hpp>

namespace terse::kv {

/// Keeps the slots whose keys and values are longest beside their neighbours': approximate leverage scores, by which a
/// CUR decomposition picks rows.
///
/// Source: Sengupta et al., "Value-Guided KV Compression for LLMs via Approximated CUR Decomposition",
/// arXiv:2509.15038, in the form of NVIDIA's kvpress: squared norms for leverage scores, each over the sum of its
/// block. Its random projection ahead of the norms (off by default there) is left out; its sinks are given the score 1,
/// here they are kept whatever their score.
struct cur {
    index keep = 0;    ///< slots to keep for each kv head, protected ones included
    index sinks = 4;   ///< first slots, always kept
    index recent = 0;  ///< last slots, always kept
    score::norm_of what = score::norm_of::product;
    index block = 16;  ///< slots that are compared with each other first; 0: all

    [[nodiscard]] constexpr score::squared_norm scorer() const noexcept { return {what, block}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and values [kv_heads, tokens, any], as far as they count
    /// @return    a selection for each kv head; errors as `evict`'s and `score::squared_norm`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::squared_norm>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
