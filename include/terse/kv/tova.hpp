// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// Keeps the slots that the last query attends to most, the same for all heads of a layer. Called after every step.
///
/// Source: Oren et al., "Transformers are Multi-State RNNs", arXiv:2401.06104. As published with `recent = 0`, where
/// even the newest slot may go; kvpress protects it with `recent = 1`, the default here.
struct tova {
    index keep = 512;  ///< slots to keep, protected ones included
    index sinks = 0;   ///< first slots, always kept
    index recent = 1;  ///< last slots, always kept

    [[nodiscard]] static constexpr score::attention scorer() noexcept { return {.queries = 1, .across_heads = true}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads the attention of the last query [heads, 1, tokens], or that query and the keys
    /// @return    one selection that all heads share; errc::bad_shape where heads hold different numbers of slots;
    ///            errors as `evict`'s and `score::attention`'s
    /// @complexity O(heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::attention>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
