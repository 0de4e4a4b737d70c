// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// The heads of the highest scores, ascending: the `heads` of `compresskv`, from sums of `score::answer_mass`.
///
/// @param scores  a value for each query head of a layer; NaN comes last, of equals the lower head first
/// @param best    receives as many heads as it has room for (the authors: 4)
/// @return        the part of `best` that is filled: all, or as many as there are heads
/// @complexity    O(heads * log(heads)); heads * best.size() comparisons at most
[[nodiscard]] inline std::span<index const> best_heads(std::span<float const> scores, std::span<index> best) noexcept {
    auto const before = [scores](index a, index b) {
        auto const x = rank(scores[static_cast<std::size_t>(a)]), y = rank(scores[static_cast<std::size_t>(b)]);
        return x != y ? x > y : a < b;
    };
    auto const used = best.first(std::min(best.size(), scores.size()));
    index filled = 0;
    for (index h = 0; h < std::ssize(scores); ++h) {
        auto const place = std::upper_bound(used.begin(), used.begin() + filled, h, before);
        if (place == used.end()) continue;
        filled = std::min(filled + 1, std::ssize(used));
        std::move_backward(place, used.begin() + filled - 1, used.begin() + filled);
        *place = h;
    }
    std::sort(used.begin(), used.end());
    return used;
}

/// Keeps what the last queries of the prompt attend to in a few heads of a layer, those that fetch answers from the
/// text, with its neighbours, and those last tokens: the same slots for all heads.
///
/// Source: Lin et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation",
/// arXiv:2508.02401. As the authors' code, but that slots stand in their order. `score::answer_mass` and `best_heads`
/// find the heads on a calibration prompt; `budget::proportional` shares slots among layers.
struct compresskv {
    std::span<index const> heads{};  ///< the query heads that vote, ascending
    index keep = 1024;               ///< slots to keep, window included
    index window = 8;                ///< last queries that vote; their own slots are always kept
    index sinks = 0;                 ///< first slots, always kept
    score::pooling pool = score::pooling::average;
    index kernel = 5;  ///< width of the pooling, odd

    [[nodiscard]] constexpr score::attention scorer() const noexcept {
        return {.queries = window,
                .past_only = true,
                .heads = heads,
                .across_heads = true,
                .pool = pool,
                .kernel = kernel,
                .pool_first = true};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    one selection that all heads share; errc::bad_setting when no head votes, for a window below one or
    ///            an even kernel; errc::bad_shape where heads hold different numbers of slots; errors as `evict`'s and
    ///            `score::attention`'s
    /// @complexity O(voting heads * window * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1 || heads.empty()) return errc::bad_setting;
        return evict<score::attention>{scorer(), {keep}, sinks, window}(l, memory, run);
    }
};

}  // namespace terse::kv
