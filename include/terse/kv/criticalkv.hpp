// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/output_norm.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/share.hpp>
#include <terse/select/two_stage.hpp>

namespace terse::kv {

/// Keeps some slots by their scores, and others by scores times the norms of their values behind the output projection:
/// what bounds the change of the layer's output.
///
/// Source: Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective",
/// arXiv:2502.03805; as kvpress's CriticalKVPress and, `adaptive`, CriticalAdaKVPress.
template <class Score, class Weight = float>
struct criticalkv {
    Score score{};                     ///< a row for each kv head
    tokens_view<Weight> projection{};  ///< [hidden, heads * dim]: the output projection's weight
    index keep = 1024;                 ///< slots to keep for each kv head, protected ones included
    double by_score = 0.5;             ///< share of `keep` chosen by scores alone, in [0, 1]
    float epsilon = 1e-4F;             ///< joins the scores, so that none is worth nothing
    bool adaptive = false;             ///< heads share the budget by their scores, as in `adakv`
    budget::across_heads share{};      ///< how they do
    index sinks = 0;                   ///< first slots, always kept
    index recent = 0;                  ///< last slots, always kept; those that the scorer leaves out as well

    /// For each kv head; of all together where it is adaptive.
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// The weights of the second stage.
    [[nodiscard]] constexpr score::output_norm<Weight> norms() const noexcept { return {projection}; }

    /// @param l   values [kv_heads, tokens, dim], and what `score` reads
    /// @return    a selection for each kv head; errc::bad_setting when by_score or epsilon is out of its range;
    ///            errc::bad_shape when the scorer gives one row for all heads; errors as `adakv`'s and
    ///            `score::output_norm`'s
    /// @complexity the scorer's, and O(heads * tokens * dim * hidden) for the norms
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (!(by_score >= 0 && by_score <= 1) || !(epsilon >= 0) || !std::isfinite(epsilon)) return errc::bad_setting;
        if (errc const error = share.check(); error != errc::ok) return error;
        auto const choice = [&](scores const& s, std::span<select::row> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            if (s.heads != l.kv_heads()) return errc::bad_shape;
            errc error = errc::ok;
            if (adaptive) error = select::share_rows(s, l.tokens(), keep, share, rows, scratch);
            if (error != errc::ok) return error;
            result<scores> const reach = norms()(l, scratch, run);
            if (!reach) return reach.error();
            result<scores> const weighed = score::weigh(s, *reach, epsilon, scratch);
            if (!weighed) return weighed.error();
            auto const first = [&](index h, index free) {
                index const own = rows[static_cast<std::size_t>(h)].q.keep, fixed = own - free;
                auto const by_share = static_cast<index>(static_cast<double>(own) * by_score) - fixed;
                return std::clamp<index>(std::max(by_share, adaptive ? share.safe(keep - fixed) : 0), 0, free);
            };
            error = select::two_stage(s, *weighed, l.tokens(), rows, first, items, kept, scratch, run);
            if (error != errc::ok) return error;
            return s.heads;
        };
        index const room = select::shared_room(l.kv_heads(), l.tokens(), keep);
        return select::choose_by_score(score, l, l.kv_heads(), l.tokens(), {keep, sinks, recent}, room, choice, memory,
                                       run);
    }
};

}  // namespace terse::kv
