// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/share.hpp>

namespace terse::kv {

/// Keeps the slots with the highest scores of all kv heads of a layer together, so that heads keep different numbers.
/// Any scorer: `adakv<score::attention>{.score = snapkv{...}.scorer(), ...}` is the authors' Ada-SnapKV.
///
/// Source: Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM
/// Inference", arXiv:2407.11550; the shares as kvpress's or, by `share.form`, as the authors' code. Heads of a scorer
/// that returns one row for all of them keep the same. kvpress masks what it evicts; this frees it: the cache needs
/// a length for each head.
template <class Score>
struct adakv {
    Score score{};
    index keep = 1024;             ///< slots to keep for each kv head on average, protected ones included
    budget::across_heads share{};  ///< how heads share them
    index sinks = 0;               ///< first slots, always kept
    index recent = 0;              ///< last slots, always kept; those that the scorer leaves out are kept as well

    /// The slots that all `kv_heads` heads keep together, if all of them have `tokens`; with the share's `exact` form.
    [[nodiscard]] constexpr index count(index tokens, index kv_heads) const noexcept {
        return kv_heads * std::min(keep, tokens);
    }

    /// @param l   what `score` reads
    /// @return    a selection for each row of scores, of kv_heads * keep slots together (all, where there are no
    ///            more), slots ascending; errc::bad_budget unless keep >= 1, what is protected fits into it, and by
    ///            `share`; the scorer's errors; errc::out_of_memory
    /// @complexity the scorer's, and O(kv_heads * tokens)
    template <class Input, executor Run = serial>
    [[nodiscard]] result<plans> operator()(Input const& l, arena& memory, Run const& run = {}) const noexcept {
        if (errc const error = share.check(); error != errc::ok) return error;
        auto const choice = [&](scores const& s, std::span<select::row> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            errc error = select::share_rows(s, l.tokens(), keep, share, rows, scratch);
            if (error == errc::ok) error = select::highest_of_rows(s, l.tokens(), rows, items, kept, scratch, run);
            if (error != errc::ok) return error;
            return s.heads;
        };
        index const room = select::shared_room(l.kv_heads(), l.tokens(), keep);
        return select::choose_by_score(score, l, l.kv_heads(), l.tokens(), {keep, sinks, recent}, room, choice, memory,
                                       run);
    }
};

}  // namespace terse::kv
