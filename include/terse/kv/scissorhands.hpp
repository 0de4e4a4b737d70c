// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>

#include <terse/kv/evict.hpp>
#include <terse/kv/hit_counts.hpp>
#include <terse/score/hits.hpp>

namespace terse::kv {

/// Keeps the slots that were pivotal for most of the last queries, which gave them more than an equal share of their
/// attention: what mattered so far goes on to matter.
///
/// Source: Liu et al., "Scissorhands: Exploiting the Persistence of Importance Hypothesis for LLM KV Cache Compression
/// at Test Time", arXiv:2305.17118, whose lines on what is counted and kept contradict each other: here hits are
/// counted and the fewest dropped. `hit::attention` with `decay` is KVCache-Factory's variant. `hit::above_quantile` is
/// the indicator of the authors' code, over what a query sees, where that counts masked zeros too; that code masks
/// slots by it, and has no fixed budget. Counts are added up over the query heads of a kv head. Of equal counts the
/// older slot stays.
struct scissorhands {
    index keep = 1024;    ///< slots to keep at most for each kv head, protected ones included
    index drop = 1;       ///< slots to drop at least once there are more (the paper: half of `keep`, in as many steps)
    index history = 400;  ///< last queries of a call that count; 0: all
    index recent = 10;    ///< last slots, always kept
    index sinks = 0;      ///< first slots, always kept; where `recent` leaves less room, the last of them
    score::hit counted = score::hit::above_uniform;
    double quantile = 0.9;     ///< for `hit::above_quantile`
    float decay = 1;           ///< what `observe` leaves of the counts so far
    bool per_visible = false;  ///< divide by the number of queries that saw a slot

    /// @param queries  that the layer has: no more than those count
    [[nodiscard]] constexpr score::hits scorer(index queries) const noexcept {
        return {history > queries ? queries : history, counted, quantile, per_visible};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        if (keep >= tokens) return tokens;
        return std::min(keep, std::max(tokens - std::max<index>(drop, 1), fixed(tokens)));
    }

    /// From the last queries alone, after a prompt or where the engine keeps them.
    /// @param l   reads keys and the last `history` queries [heads, window, dim], or their attention
    /// @return    a selection for each kv head; errc::bad_budget unless keep >= 1 and no count is negative, and where
    ///            more is protected than kept, errc::bad_budget if the layer guards slots; errors as `evict`'s and
    ///            `score::hits`'s
    /// @complexity O(heads * history * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return shorten(scorer(l.window()), l, memory, run);
    }

    /// At any step, from the counts so far.
    /// @return    a selection for each kv head; errc::bad_shape where `per_visible` finds nothing counted; errors as
    ///            `evict`'s
    /// @complexity O(kv_heads * tokens)
    template <executor Run = serial>
    [[nodiscard]] result<plans> operator()(hit_counts const& counts, arena& memory,
                                           Run const& run = {}) const noexcept {
        auto const scorer = [divide = per_visible](hit_counts const& c, arena& m,
                                                   Run const&) noexcept -> result<scores> {
            if (!divide) return scores{c.values, c.heads, c.used, c.capacity};
            if (c.visible.empty()) return errc::bad_shape;
            auto const means = m.take<float>(c.heads * c.used);
            if (!taken(means)) return errc::out_of_memory;
            for (index h = 0; h < c.heads; ++h)
                std::transform(c.row(h).begin(), c.row(h).end(), c.visible_row(h).begin(), means.begin() + h * c.used,
                               [](float hits, float seen) { return seen > 0 ? hits / seen : 0.0F; });
            return scores{means, c.heads, c.used, c.used};
        };
        return shorten(scorer, counts, memory, run);
    }

    /// Adds a step of decoding, or a prompt, to the counts.
    /// @return  the errors of `hit_counts::add`
    template <class T, class Cache, executor Run = serial>
    errc observe(hit_counts& counts, layer<T, Cache> const& l, arena& memory, Run const& run = {}) const noexcept {
        return counts.add(l, memory, run, scorer(l.window()), decay);
    }

  private:
    /// Slots that stay whatever their count, unless there is no room.
    [[nodiscard]] constexpr index fixed(index tokens) const noexcept {
        index const last = std::min(recent, tokens);
        return last + std::min(sinks, tokens - last);
    }

    template <class Score, class Input, executor Run>
    [[nodiscard]] result<plans> shorten(Score const& score, Input const& input, arena& memory,
                                        Run const& run) const noexcept {
        index const tokens = input.tokens();
        if (keep < 1 || drop < 0 || recent < 0 || sinks < 0) return errc::bad_budget;
        if (keep < tokens && fixed(tokens) > keep) return keep_last_fixed(input, memory);
        select::quota const asked = keep < tokens ? select::quota{count(tokens), sinks, recent} : select::quota{keep};
        return select::highest(score, input, input.kv_heads(), tokens, asked, memory, run);
    }

    /// The last `keep` of the slots that are protected.
    template <class Input>
    [[nodiscard]] result<plans> keep_last_fixed(Input const& input, arena& memory) const noexcept {
        index const tokens = input.tokens(), last = std::min(recent, keep), end = std::min(sinks, tokens - last);
        if constexpr (requires { input.guarded; }) {
            if (!input.guarded.empty()) return errc::bad_budget;
            for (index h = 0; h < input.kv_heads(); ++h)
                if (input.length(h) != tokens) return errc::bad_budget;
        }
        if (tokens > max_tokens) return errc::bad_shape;
        rollback undo{memory};
        auto const items = memory.take<plan>(1);
        auto const kept = memory.take<token>(keep);
        if (!taken(items) || !taken(kept)) return errc::out_of_memory;
        range const sinks_left{end - (keep - last), end};
        select::choose_fixed({keep, 0, last, {&sinks_left, 1}}, tokens, kept);
        std::construct_at(items.data(), select_rows(kept, tokens));
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv
