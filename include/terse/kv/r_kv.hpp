// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>
#include <terse/score/redundancy.hpp>
#include <terse/score/weighted_sum.hpp>

namespace terse::kv {

/// Keeps what the last queries attend to and other keys do not repeat, and those last tokens: called every so many
/// steps of a long generation, in the authors' code whenever 128 tokens were added.
///
/// Source: Cai et al., "R-KV: Redundancy-aware KV Cache Compression for Training-Free Reasoning Models Acceleration",
/// arXiv:2505.24133. Which of the keys that are like it does not count against a key: the last (the code's "last"), the
/// first (`forgive_oldest`, its "first"), or the paper's several (`forgive`), which may be a share of the slots
/// (`forgive_share`, its `retain_ratio` of "last_percent" and "first_percent"). Differs: that code leaves out one key
/// in each of these modes, and where it finds none, and nearly always when it begins with the first, the first slot,
/// which it so protects (`published`); it compares the keys of the first sequence of a batch only; slots stand in their
/// order.
struct r_kv {
    index keep = 128;             ///< slots to keep for each kv head, window included
    index window = 8;             ///< last queries that vote; their own slots are always kept
    index sinks = 0;              ///< first slots, always kept
    index kernel = 7;             ///< width of the maximum pooling, odd
    float importance = 0.07F;     ///< what attention counts against redundancy, in [0, 1] (the README of the code: 0.1)
    float threshold = 0.5F;       ///< a cosine above which two keys are alike
    index forgive = 1;            ///< keys like it that do not count against a key: the last ones
    double forgive_share = 0;     ///< as many as this share of the slots instead (the code: 0.2); 0: `forgive`
    bool forgive_oldest = false;  ///< the first ones instead of the last
    bool published = false;       ///< leave out what the authors' code does, see `score::redundancy`

    [[nodiscard]] constexpr score::weighted_sum<score::attention, score::redundancy> scorer() const noexcept {
        return {.first = {.queries = window,
                          .past_softmax = true,
                          .mean_queries = true,
                          .highest_logits = true,
                          .pool = score::pooling::max,
                          .kernel = kernel},
                .second = {.threshold = threshold,
                           .forgive = forgive,
                           .forgive_share = forgive_share,
                           .forgive_oldest = forgive_oldest,
                           .published = published},
                .weight = importance,
                .second_weight = 1 - importance};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    a selection for each kv head; errc::bad_setting for a window below one, an even kernel, an importance
    ///            outside [0, 1], or what `score::redundancy` refuses; errc::bad_shape for a layer without queries;
    ///            errors as `evict`'s and `score::attention`'s
    /// @complexity O(heads * window * tokens * dim + kv_heads * tokens^2 * dim / 2)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1 || !(importance >= 0 && importance <= 1)) return errc::bad_setting;
        return evict<decltype(scorer())>{scorer(), {keep}, sinks, window}(l, memory, run);
    }
};

}  // namespace terse::kv
