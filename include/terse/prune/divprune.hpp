// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/view.hpp>
#include <terse/select/farthest_point.hpp>

namespace terse::prune {

/// Keeps the tokens that are most unlike each other: starts with the one farthest from its nearest other token, then
/// takes the farthest from those kept, by 1 - cosine. Needs no attention and no text.
///
/// Source: Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
/// arXiv:2503.02175, algorithm 1. Differs: the published code keeps a token twice where tokens are equal and rounding
/// hides it, and divides by the norm of a zero token; here no token is kept twice and a zero token is similar to none.
/// Distances to the kept tokens are carried along, so that a step costs tokens * dim at most; few tokens or many kept
/// ones have all cosines stored (select::stores_cosines).
struct divprune {
    index keep = 0;  ///< tokens to keep: the paper's default is round(0.098 * tokens); all, where there are no more
    bool pick_order = false;  ///< rows in the order picked, most diverse first, instead of ascending

    [[nodiscard]] constexpr index count(index tokens) const noexcept { return std::min(keep, tokens); }

    /// @param x   [tokens, dim]; tokens that are not finite are kept last
    /// @return    a selection, with owner; errc::bad_budget unless keep >= 1, errc::bad_shape when tokens exceed
    ///            `token`, errc::out_of_memory
    /// @complexity O(tokens^2 * dim / 2 + keep * tokens * dim); scratch: 12 bytes a token, 4 for each worker's, and 4
    ///             for each pair of tokens where cosines are stored
    template <class T, executor Run = serial>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& x, arena& memory, Run const& run = {}) const noexcept {
        if (keep < 1) return errc::bad_budget;
        if (x.tokens < 0 || x.tokens > max_tokens) return errc::bad_shape;
        if (keep >= x.tokens && !pick_order) return keep_all(x.tokens, memory);

        rollback undo{memory};
        auto const kept = memory.take<token>(count(x.tokens));
        if (!taken(kept)) return errc::out_of_memory;
        tokens_view<std::remove_const_t<T>> const in = x;
        if (errc const error = select::farthest_point(in, kept, -1, memory, run); error != errc::ok) return error;
        if (!pick_order) std::sort(kept.begin(), kept.end());
        auto const p = with_owner(select_rows(kept, x.tokens), memory);
        if (p) undo.keep();
        return p;
    }
};

}  // namespace terse::prune
