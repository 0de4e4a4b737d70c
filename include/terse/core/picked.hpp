// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/view.hpp>

namespace terse {

/// Some slots of each head of a cache, as a cache of their own: nothing is copied. Owns nothing.
template <cache_rows Cache>
struct picked_rows {
    Cache from{};
    tokens_view<token> slots{};        ///< [heads, tokens]: those picked, of `from`
    std::span<index const> lengths{};  ///< [heads]: how many of them each head has
    index heads = 0;
    index tokens = 0;  ///< the most of a head
    index dim = 0;

    [[nodiscard]] constexpr bool has_data() const noexcept { return terse::has_data(from); }
    [[nodiscard]] constexpr auto row(index h, index t) const noexcept { return from.row(h, slots.row(h)[t]); }
    [[nodiscard]] constexpr index length(index h) const noexcept { return lengths[static_cast<std::size_t>(h)]; }
};

/// Slots [begin, end) of each head as a layer, besides which the first slots[h][0 .. lengths[h]) may stand: what a
/// prompt looks like while it is compressed piece by piece.
///
/// @param slots      [kv_heads, tokens]: the picked slots, ascending
/// @param positions  [kv_heads, tokens], theirs, where the layer has positions; else the slots are the positions
/// @param queries    tokens [begin, end) of a layer that has the queries of all its tokens become the queries
template <class T, class Cache>
[[nodiscard]] layer<T, picked_rows<Cache>> pick_slots(layer<T, Cache> const& l, tokens_view<token> slots,
                                                      tokens_view<token> positions, std::span<index const> lengths,
                                                      index tokens, range queries) noexcept {
    auto const rows = [&](Cache const& cache) {
        return picked_rows<Cache>{cache, slots, lengths, cache.heads, tokens, cache.dim};
    };
    layer<T, picked_rows<Cache>> some{.keys = rows(l.keys),
                                      .values = rows(l.values),
                                      .scale = l.scale,
                                      .soft_cap = l.soft_cap,
                                      .positions = positions,
                                      .guarded = l.guarded};
    if (l.queries.data != nullptr && l.queries.tokens == l.tokens() && l.query_positions.empty()) {
        some.queries = l.queries;
        some.queries.data = l.queries.row(0, queries.begin);
        some.queries.tokens = queries.size();
    }
    return some;
}

}  // namespace terse
