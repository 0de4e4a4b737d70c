// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/key_difference.hpp>

namespace terse::kv {

/// Keeps the slots whose keys are least like the mean direction of their head's keys.
///
/// Source: Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
/// Resource-Constrained Environments", arXiv:2504.15364. As published; the mean is over the keys that the cache holds
/// now, so an engine that processes a prompt in blocks as the paper does calls it after each block. The protection of
/// sinks and recent slots is an addition, off by default.
struct keydiff {
    index keep = 0;    ///< slots to keep for each kv head, protected ones included
    index sinks = 0;   ///< first slots, always kept
    index recent = 0;  ///< last slots, always kept

    [[nodiscard]] static constexpr score::key_difference scorer() noexcept { return {}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim], twice
    /// @return    a selection for each kv head; errors as `evict`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::key_difference>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
