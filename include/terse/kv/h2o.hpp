// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <utility>

#include <terse/kv/column_sums.hpp>
#include <terse/kv/evict.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// Keeps the heavy hitters, the slots that have received most attention so far, and the most recent slots.
///
/// Source: Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
/// arXiv:2306.14048; the eviction of its real-drop code. Differs: sums are reduced over the query heads of a kv head,
/// and kept in float. Sums favour old slots, which more queries saw; `per_visible` divides by those queries
/// (ObservedAttention of kvpress, which keeps no recent slots).
struct h2o {
    index keep = 512;    ///< slots to keep for each kv head: heavy hitters and recent ones (the paper: half each)
    index recent = 256;  ///< last slots, always kept
    score::reduction group = score::reduction::mean;
    bool per_visible = false;  ///< at prefill: the mean over the queries that saw a slot instead of their sum

    [[nodiscard]] constexpr score::attention scorer() const noexcept {
        return {.per_visible = per_visible, .group = group};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// After the prefill, without state.
    /// @param l   reads keys and all queries [heads, tokens, dim], or all attention [heads, tokens, tokens]. With fewer
    ///            queries, only those vote: cheaper, and usually near.
    /// @return    a selection for each kv head; errors as `evict`'s and `score::attention`'s
    /// @complexity O(heads * queries * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::attention>{scorer(), {keep}, 0, recent}(l, memory, run);
    }

    /// At any step, from the sums so far.
    /// @return    a selection for each kv head; errors as `evict`'s
    /// @complexity O(kv_heads * tokens)
    template <executor Run = serial>
    [[nodiscard]] result<plans> operator()(column_sums const& sums, arena& memory, Run const& run = {}) const noexcept {
        auto const scorer = [](column_sums const& s, arena&, Run const&) noexcept -> result<scores> {
            return scores{s.values, s.heads, s.used, s.capacity};
        };
        return evict<decltype(scorer)>{scorer, {keep}, 0, recent}(sums, memory, run);
    }

    /// A step of decoding in a full cache, where rows stay in place: of each kv head one slot goes, and nothing else
    /// is moved than the token that is no longer recent.
    ///
    /// The cache has keep + 1 slots: first the heavy hitters, in any order, then a ring of the `recent` last tokens,
    /// and the engine has attended to all of them with a new token, in the ring already. For the next one it moves row
    /// `oldest` of head h to row slots[h] and writes the next token to row `oldest`, as the sums do here; `oldest` goes
    /// on to the next slot of the ring. Without a ring (recent = 0) the next token is written to row slots[h].
    /// Keeps what the call above would, whatever the order of the slots; but of equal sums the first slot goes.
    ///
    /// @param sums       keep + 1 slots in use
    /// @param attention  [heads, 1, keep + 1], of the new token
    /// @param oldest     the slot of the ring that the next token takes; ignored without a ring
    /// @param slots      [kv_heads]: receives the slots that go, all among the first keep + 1 - recent
    /// @return           errc::bad_budget unless keep >= 1 and 0 <= recent <= keep; errc::bad_shape when there are not
    ///                   keep + 1 slots or `oldest` is not in the ring; errors of `add_and_find_lowest`
    /// @complexity       O(heads * keep); no scratch
    template <executor Run = serial>
    errc step(column_sums& sums, attention_view attention, index oldest, std::span<token> slots,
              Run const& run = {}) const noexcept {
        if (keep < 1 || recent < 0 || recent > keep) return errc::bad_budget;
        index const ring = sums.used - recent;
        if (sums.used != keep + 1 || (recent > 0 && (oldest < ring || oldest >= sums.used))) return errc::bad_shape;
        errc const error = sums.add_and_find_lowest(attention, 0, ring, slots, run, group);
        if (error != errc::ok) return error;
        for (index h = 0; h < sums.heads; ++h) {
            float& goes = sums.row(h)[static_cast<std::size_t>(slots[static_cast<std::size_t>(h)])];
            goes = 0;
            if (recent > 0) std::swap(goes, sums.row(h)[static_cast<std::size_t>(oldest)]);
        }
        return errc::ok;
    }
};

}  // namespace terse::kv
