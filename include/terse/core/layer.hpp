// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <span>

#include <terse/core/result.hpp>
#include <terse/core/view.hpp>

namespace terse {

/// One attention layer as an engine holds it: what every KV policy reads. Fill what the policy asks for.
///
/// Query head h reads key/value head h / group(), group() = query heads / key/value heads; nothing is expanded.
/// A policy that only counts tokens (`streaming_llm`) or only reads `attention` needs the shape of `keys`, not its
/// data.
template <class T, cache_rows Cache = heads_view<T>>
struct layer {
    Cache keys{};                ///< [kv_heads, tokens, dim], position-encoded, as cached
    Cache values{};              ///< [kv_heads, tokens, dim]
    heads_view<T> queries{};     ///< [heads, window, dim]: of the last `window` tokens, position-encoded
    attention_view attention{};  ///< [heads, window, tokens]: their probabilities, where the engine has them
    float scale = 0;             ///< of the logits; 0 means 1 / sqrt(dim)
    float soft_cap = 0;          ///< logits become cap * tanh(logit / cap); 0 means no cap

    [[nodiscard]] constexpr index kv_heads() const noexcept { return keys.heads; }
    [[nodiscard]] constexpr index tokens() const noexcept { return keys.tokens; }
    [[nodiscard]] bool has_attention() const noexcept { return attention.data != nullptr; }

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
};

/// Whether the layer has the attention of its last queries, or what it takes to compute it.
/// @return errc::bad_shape when heads do not divide, a dimension differs or there are more queries than tokens;
///         errc::bad_setting when the scale or the cap is not finite, or the cap is negative
template <class T, class Cache>
[[nodiscard]] errc check_attention(layer<T, Cache> const& l) noexcept {
    if (l.kv_heads() <= 0 || l.heads() <= 0 || l.heads() % l.kv_heads() != 0) return errc::bad_shape;
    if (l.window() < 1 || l.window() > l.tokens()) return errc::bad_shape;
    if (l.has_attention() ? l.attention.dim != l.tokens() : l.queries.dim != l.keys.dim) return errc::bad_shape;
    if (!l.has_attention() && (l.queries.data == nullptr || l.keys.data == nullptr)) return errc::bad_shape;
    if (!std::isfinite(l.scale) || !std::isfinite(l.soft_cap) || l.soft_cap < 0) return errc::bad_setting;
    return errc::ok;
}

}  // namespace terse
