// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/leverage.hpp>

namespace terse::kv {

/// Keeps the slots whose keys stand out from what the others span, by their statistical leverage in a random sketch.
///
/// Source: Chari and Van Durme, "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage
/// Scores", arXiv:2507.08143: the part that looks at no query. As kvpress's code, in which the ridge is always added;
/// but where no sketch is given, all heads share one that is the same in every run. Sinks and recent slots are an
/// addition, off by default.
struct leverage {
    index keep = 1024;                  ///< slots to keep for each kv head, protected ones included
    index sinks = 0;                    ///< first slots, always kept; they take no part
    index recent = 0;                   ///< last slots, likewise
    score::other_keys pre_rope_keys{};  ///< [kv_heads, tokens, dim] before position encoding; none: the layer's are
    heads_view<float> sketch{};         ///< [kv_heads or 1, dim, columns], normal; none: from `score::fill_sketch`
    index columns = 48;                 ///< of the sketch that is not given
    float ridge = 0.01F;

    [[nodiscard]] constexpr score::leverage scorer() const noexcept {
        return {.pre_rope_keys = pre_rope_keys,
                .sketch = sketch,
                .columns = columns,
                .ridge = ridge,
                .sinks = sinks,
                .recent = recent};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim], if not given apart
    /// @return    a selection for each kv head; errors as `evict`'s and `score::leverage`'s
    /// @complexity O(kv_heads * tokens * columns * (dim + columns))
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::leverage>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
