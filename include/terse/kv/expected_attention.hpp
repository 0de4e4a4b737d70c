// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/rope.hpp>
#include <terse/kv/evict.hpp>
#include <terse/kv/query_moments.hpp>
#include <terse/score/expected_attention.hpp>

namespace terse::kv {

/// Keeps what queries to come are expected to attend to, as normally distributed as those so far, and the sinks.
///
/// Source: Devoto et al., "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
/// Distribution", arXiv:2510.00636. As kvpress's code; but positions start at the token that comes next, where that
/// code takes the number of hidden states it is handed, which is less in a step of decoding.
struct expected_attention {
    index keep = 1024;        ///< slots to keep for each kv head, sinks included
    index sinks = 4;          ///< first slots, always kept; they take no part in the softmax
    index recent = 0;         ///< last slots, always kept
    query_moments moments{};  ///< of the queries so far, or of the model's; those of the sinks are better left out
    rope encoding{};          ///< the engine's
    index next = 0;           ///< position of the next token; 0: the one after the last slot
    index future = 512;       ///< positions from there on that count
    bool use_covariance = true;
    bool value_norm = true;  ///< weigh the probability by the length of the value
    float epsilon = 0;       ///< joins the probability before

    [[nodiscard]] score::expected_attention scorer() const noexcept {
        return {.mean = moments.means(),
                .covariance = use_covariance ? moments.covariances() : heads_view<float>{},
                .encoding = encoding,
                .next = next,
                .future = future,
                .sinks = sinks,
                .value_norm = value_norm,
                .epsilon = epsilon};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys and values [kv_heads, tokens, dim], and positions where slots were evicted before
    /// @return    a selection for each kv head; errors as `evict`'s and `score::expected_attention`'s
    /// @complexity O(heads * tokens * dim^2 / 2), or O(heads * tokens * dim) without covariance
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::expected_attention>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
