// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/global_local.hpp>

namespace terse::kv {

/// Keeps what has received most attention from the whole prompt or from its last queries, and those last tokens.
///
/// Source: the eviction half of Li et al., "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression
/// Based on Global-Local Importance", arXiv:2412.08521. Reconstructed from the paper: no code of the authors was found,
/// and how the two scores are combined is a reading of it. Slots that the paper merges are evicted here.
struct ems {
    index keep = 1024;  ///< slots to keep for each kv head, window included
    index window = 32;  ///< last queries that make the local score; their own slots are always kept
    index sinks = 0;    ///< first slots, always kept
    bool sum = false;   ///< the sum of both scores instead of the higher one
    score::reduction group = score::reduction::mean;

    [[nodiscard]] constexpr score::global_local scorer() const noexcept { return {window, sum, group}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys and all queries [heads, tokens, dim], or their attention. With fewer queries only those
    ///            make the global score: cheaper, and with `window` queries the local score alone decides.
    /// @return    a selection for each kv head; errc::bad_setting for a window below one; errors as `evict`'s and
    ///            `score::attention`'s
    /// @complexity O(heads * queries * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1) return errc::bad_setting;
        return evict<score::global_local>{scorer(), {keep}, sinks, window}(l, memory, run);
    }
};

}  // namespace terse::kv
