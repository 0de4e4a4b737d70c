// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/core/layer.hpp>
#include <terse/prune/top_k.hpp>
#include <terse/score/attention.hpp>

namespace terse::prune {

/// Keeps the image tokens that the last token of the prompt attends to most, and all tokens outside the image. Run once
/// in prefill, between two early layers, on the attention of the layer before.
///
/// Source: Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", arXiv:2403.06764. As the published code, which
/// averages the heads of the last query alone, where the paper speaks of the attention from all tokens. Differs:
/// without an attention matrix, the one row is recomputed from the last query and the keys; equal scores keep the
/// earlier token.
struct fastv {
    index image_start = 0;   ///< the first token of the image: 35 in LLaVA 1.5
    index image_tokens = 0;  ///< how many tokens the image has: 576 in LLaVA 1.5
    index keep = 0;          ///< how many of them to keep: 288 in the paper; all, where there are no more

    [[nodiscard]] static constexpr score::attention scorer() noexcept { return {.queries = 1, .across_heads = true}; }

    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return tokens - image_tokens + std::min(keep, image_tokens);
    }

    /// @param l   the attention of the last query [heads, 1, tokens], or that query and the keys
    /// @return    a selection, positions ascending, with owner; errc::bad_shape unless the image lies
    ///            within the tokens, errc::bad_budget unless keep >= 1; the errors of `score::attention`;
    ///            errc::out_of_memory
    /// @complexity O(heads * tokens * dim); O(heads * tokens) where attention is given
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plan> operator()(layer<T, Cache> const& l, arena& memory, Run const& run = {}) const noexcept {
        if (image_start < 0 || image_tokens < 0 || image_start > l.tokens()) return errc::bad_shape;
        if (image_tokens > l.tokens() - image_start) return errc::bad_shape;
        if (keep < 1) return errc::bad_budget;
        index const others = l.tokens() - image_tokens;
        return top_k<score::attention>{scorer(), others + std::min(keep, max_tokens), image_start,
                                       others - image_start}(l, memory, run);
    }
};

}  // namespace terse::prune
