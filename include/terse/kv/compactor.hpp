// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include <terse/kv/evict.hpp>
#include <terse/score/leverage.hpp>
#include <terse/score/non_causal_attention.hpp>
#include <terse/score/weighted_sum.hpp>

namespace terse::kv {

/// Keeps the slots whose keys stand out from the others or that their chunk attends to, besides sinks at both ends.
///
/// Source: Chari and Van Durme, "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage
/// Scores", arXiv:2507.08143. As kvpress's code, but for a sketch that is the same in every run where none is given.
struct compactor {
    using blend = score::weighted_sum<score::leverage, score::non_causal_attention>;

    index keep = 1024;                  ///< slots to keep for each kv head, sinks included
    index sinks = 8;                    ///< first slots, always kept; neither part of the score sees them
    index recent = 4;                   ///< last slots, likewise
    std::optional<float> blending{};    ///< weight of the leverage; none: the share of the slots that goes
    score::other_keys pre_rope_keys{};  ///< [kv_heads, tokens, dim] before position encoding; none: the layer's are
    heads_view<float> sketch{};         ///< [kv_heads or 1, dim, columns], normal; none: from `score::fill_sketch`
    index columns = 48;                 ///< of the sketch that is not given
    float ridge = 0.01F;
    index chunk = 256;  ///< slots that attend to each other

    /// @param tokens  slots of the layer, by which the weight follows where none is given
    [[nodiscard]] constexpr blend scorer(index tokens) const noexcept {
        auto const share = static_cast<double>(count(tokens)) / static_cast<double>(tokens > 0 ? tokens : 1);
        return {.first = {.pre_rope_keys = pre_rope_keys,
                          .sketch = sketch,
                          .columns = columns,
                          .ridge = ridge,
                          .sinks = sinks,
                          .recent = recent},
                .second = {.chunk = chunk, .sinks = sinks, .recent = recent},
                .weight = blending ? *blending : static_cast<float>(1 - share)};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys and values [kv_heads, tokens, dim], and all queries [heads, tokens, dim]
    /// @return    a selection for each kv head; errors as `evict`'s, `score::leverage`'s and
    ///            `score::non_causal_attention`'s; errc::bad_setting for a weight that is negative or not finite
    /// @complexity O(heads * tokens * chunk * dim + kv_heads * tokens * columns * (dim + columns))
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<blend>{scorer(l.tokens()), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
