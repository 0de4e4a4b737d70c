// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/budget/pyramid.hpp>
#include <terse/kv/snapkv.hpp>

namespace terse::kv {

/// Keeps in each layer what SnapKV would, many slots in the lower layers and few in the upper ones.
///
/// Source: Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling",
/// arXiv:2406.02069. The counts are those of `budget::pyramid`, also as the published codes have them; the scores are
/// those of `kv::snapkv`, which says how they differ.
struct pyramidkv {
    index keep = 1024;      ///< slots to keep for each kv head and layer on average, window included
    index layer_index = 0;  ///< this layer's place among those that are compressed
    index layers = 1;       ///< how many are
    index window = 32;      ///< last queries that vote; their own slots are always kept (the authors: 8)
    index beta = 20;        ///< the last layer has about 1 / beta of the average, before the window
    budget::pyramid_form form = budget::pyramid_form::exact;
    score::pooling pool = score::pooling::average;
    index kernel = 5;  ///< width of the pooling, odd (the authors: 7)
    score::reduction group = score::reduction::mean;

    /// SnapKV for a layer that keeps so many slots.
    [[nodiscard]] constexpr snapkv of_layer(index slots) const noexcept {
        return {.keep = slots, .window = window, .pool = pool, .kernel = kernel, .group = group};
    }

    /// Slots that this layer keeps of `tokens`, for each kv head; errors as `budget::pyramid`'s.
    [[nodiscard]] result<index> count(index tokens) const noexcept {
        budget::pyramid const over{.keep = keep, .window = window, .beta = beta, .form = form};
        return over.count(layer_index, layers, tokens);
    }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    a selection for each kv head; errors as `budget::pyramid`'s and `snapkv`'s
    /// @complexity O(heads * window * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        result<index> const slots = count(l.tokens());
        if (!slots) return slots.error();
        return of_layer(*slots < l.tokens() ? *slots : std::max(keep, *slots))(l, memory, run);
    }
};

}  // namespace terse::kv
