// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/norm.hpp>

namespace terse::kv {

/// Keeps the slots whose keys are shortest: a low L2 norm goes with a high attention weight.
///
/// Source: Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", arXiv:2406.11430.
/// As published; the protection of sinks and recent slots is an addition, off by default. The authors skip the first
/// two layers: leave those uncompressed.
struct key_norm {
    index keep = 0;    ///< slots to keep for each kv head, protected ones included
    index sinks = 0;   ///< first slots, always kept
    index recent = 0;  ///< last slots, always kept

    [[nodiscard]] static constexpr score::norm scorer() noexcept { return {}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim]
    /// @return    a selection for each kv head; errors as `evict`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::norm>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
