// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>

#include <terse/core/result.hpp>
#include <terse/core/view.hpp>

namespace terse {

/// One attention layer as an engine holds it: what every KV policy reads. Fill what the policy asks for.
///
/// Query head h reads key/value head h / group(), group() = query heads / key/value heads; nothing is expanded.
/// A policy that only counts tokens (`streaming_llm`) or only reads `attention` needs the shape of `keys`, not its
/// data. Slots ascend in position. Heads may hold different numbers of slots, where the cache has length(head).
template <class T, cache_rows Cache = heads_view<T>>
struct layer {
    Cache keys{};                ///< [kv_heads, tokens, dim], position-encoded, as cached
    Cache values{};              ///< [kv_heads, tokens, dim]
    heads_view<T> queries{};     ///< [heads, window, dim]: of the last `window` tokens, position-encoded
    attention_view attention{};  ///< [heads, window, tokens]: their probabilities, where the engine has them
    float scale = 0;             ///< of the logits; 0 means 1 / sqrt(dim)
    float soft_cap = 0;          ///< logits become cap * tanh(logit / cap); 0 means no cap

    /// [heads, window]: log of the sum of the exponentials of each query's logits, where the engine has it
    tokens_view<float> log_sum_exp{};
    /// [kv_heads, tokens], or [1, tokens] for all heads: the slots' positions; empty: nothing was evicted so far
    tokens_view<token> positions{};
    /// [window], ascending: the queries' positions; empty: query i stands at slot tokens - window + i of its head
    std::span<token const> query_positions{};
    /// Positions that no policy may evict, ascending and apart: a prefix shared with other sequences, tokens that
    /// speculation may take back
    std::span<range const> guarded{};

    [[nodiscard]] constexpr index kv_heads() const noexcept { return keys.heads; }
    [[nodiscard]] constexpr index tokens() const noexcept { return keys.tokens; }
    [[nodiscard]] bool has_attention() const noexcept { return attention.data != nullptr; }
    [[nodiscard]] bool has_log_sum_exp() const noexcept { return log_sum_exp.data != nullptr; }

    /// Slots that kv head h holds, at most tokens().
    [[nodiscard]] constexpr index length(index h) const noexcept { return length_of(keys, h); }

    /// Query heads, from the queries or from the attention.
    [[nodiscard]] constexpr index heads() const noexcept { return has_attention() ? attention.heads : queries.heads; }
    /// Query positions at the end of the sequence, from the queries or from the attention.
    [[nodiscard]] constexpr index window() const noexcept {
        return has_attention() ? attention.tokens : queries.tokens;
    }
    [[nodiscard]] constexpr index group() const noexcept { return heads() / kv_heads(); }

    [[nodiscard]] float logit_scale() const noexcept {
        return scale != 0 ? scale : 1.0F / std::sqrt(static_cast<float>(keys.dim));
    }

    /// The positions of kv head h's slots; empty where none are given.
    [[nodiscard]] constexpr std::span<token const> positions_of(index h) const noexcept {
        if (positions.data == nullptr) return {};
        return {positions.row(positions.tokens == 1 ? 0 : h), static_cast<std::size_t>(length(h))};
    }

    /// How many slots of kv head h query i of the window sees: those up to its own position.
    /// @complexity O(log tokens) with positions, else constant
    [[nodiscard]] constexpr index visible(index h, index i) const noexcept {
        if (query_positions.empty()) return std::max<index>(length(h) - window() + i + 1, 0);
        auto const at = query_positions[static_cast<std::size_t>(i)];
        if (positions.data == nullptr) return std::clamp<index>(index{at} + 1, 0, length(h));
        auto const own = positions_of(h);
        return std::upper_bound(own.begin(), own.end(), at) - own.begin();
    }
};

/// Whether the layer's positions, where there are any, are those of all its slots.
template <class T, class Cache>
[[nodiscard]] constexpr bool has_positions_of_all(layer<T, Cache> const& l) noexcept {
    if (l.positions.data == nullptr) return true;
    return l.positions.dim >= l.tokens() && (l.positions.tokens == 1 || l.positions.tokens == l.kv_heads());
}

/// Whether all kv heads hold as many slots: what a policy needs that keeps one set of slots for all of them.
template <class T, class Cache>
[[nodiscard]] constexpr bool is_even(layer<T, Cache> const& l) noexcept {
    bool even = true;
    for (index h = 0; h < l.kv_heads(); ++h) even = even && l.length(h) == l.tokens();
    return even;
}

/// Whether the layer has the attention of its last queries, or what it takes to compute it.
/// @return errc::bad_shape when heads do not divide, a dimension differs, there are more queries than tokens (and no
///         `query_positions`), or positions or log_sum_exp have another shape; errc::bad_setting when the scale or the
///         cap is not finite, or the cap is negative
template <class T, class Cache>
[[nodiscard]] errc check_attention(layer<T, Cache> const& l) noexcept {
    if (l.kv_heads() <= 0 || l.heads() <= 0 || l.heads() % l.kv_heads() != 0) return errc::bad_shape;
    if (l.window() < 1 || (l.query_positions.empty() && l.window() > l.tokens())) return errc::bad_shape;
    if (l.has_attention() ? l.attention.dim != l.tokens() : l.queries.dim != l.keys.dim) return errc::bad_shape;
    if (!l.has_attention() && (l.queries.data == nullptr || !has_data(l.keys))) return errc::bad_shape;
    if (!l.query_positions.empty() && std::ssize(l.query_positions) != l.window()) return errc::bad_shape;
    if (!has_positions_of_all(l)) return errc::bad_shape;
    if (l.has_log_sum_exp() && (l.log_sum_exp.tokens != l.heads() || l.log_sum_exp.dim != l.window()))
        return errc::bad_shape;
    if (!std::isfinite(l.scale) || !std::isfinite(l.soft_cap) || l.soft_cap < 0) return errc::bad_setting;
    return errc::ok;
}

}  // namespace terse
