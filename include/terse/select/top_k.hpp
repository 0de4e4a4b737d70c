// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::select {

/// How many tokens a row of scores keeps, and which of them whatever their score.
struct quota {
    index keep = 0;      ///< tokens to keep, protected ones included; all, where there are no more
    index leading = 0;   ///< first tokens, always kept
    index trailing = 0;  ///< last tokens, always kept

    /// errc::bad_budget unless keep >= 1 and 0 <= leading + trailing <= keep.
    [[nodiscard]] constexpr errc check() const noexcept {
        bool const fits = keep >= 1 && leading >= 0 && trailing >= 0 && leading <= keep && trailing <= keep - leading;
        return fits ? errc::ok : errc::bad_budget;
    }
};

/// Of each row of scores, the protected tokens and the highest others: ascending positions, `q.keep` a row.
/// Equal scores: the earlier token stays; NaN goes first.
///
/// @param s        [rows, scored], scored <= tokens; tokens from `scored` on count as trailing
/// @param tokens   how many tokens there are
/// @param kept     [rows, q.keep]: receives the positions
/// @param memory   scratch, given back
/// @pre            q.keep < tokens
/// @return         errc::bad_budget when more is protected than kept; errc::out_of_memory
/// @complexity     O(rows * tokens)
template <executor Run = serial>
errc top_k(scores const& s, index tokens, quota q, std::span<token> kept, arena& memory, Run const& run = {}) noexcept {
    q.trailing = std::max(q.trailing, tokens - s.tokens);
    if (errc const error = q.check(); error != errc::ok) return error;
    index const candidates = tokens - q.leading - q.trailing;
    index const chosen = q.keep - q.leading - q.trailing;

    rollback const scratch_only{memory};
    index const each = simd::top_k_scratch(candidates);
    auto const scratch = memory.take<std::int32_t>(each * run.workers());
    if (!taken(scratch)) return errc::out_of_memory;

    share_out(
        run, s.heads, s.tokens * static_cast<index>(sizeof(float)) * 4,
        [&](index begin, index end, index worker) noexcept {
            auto const mine = scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
            for (index h = begin; h < end; ++h) {
                auto const row = kept.subspan(static_cast<std::size_t>(h * q.keep), static_cast<std::size_t>(q.keep));
                auto const first = row.begin() + q.leading, last = first + chosen;
                std::iota(row.begin(), first, token{0});
                simd::top_k(s.row(h).subspan(static_cast<std::size_t>(q.leading), static_cast<std::size_t>(candidates)),
                            std::span{first, last}, static_cast<token>(q.leading), mine);
                std::iota(last, row.end(), static_cast<token>(tokens - q.trailing));
            }
        });
    return errc::ok;
}

/// Scores an input and keeps the highest: what every scoring policy does. One plan a row of scores.
///
/// @param score    called as score(input, memory, run), only if something must go
/// @param rows     the most rows that `score` returns
/// @param tokens   how many tokens the input has
/// @return         selections, positions ascending; one shared plan that keeps all where q.keep >= tokens;
///                 errc::bad_budget by `quota::check` or when more is protected than kept, errc::bad_shape, the
///                 scorer's errors, errc::out_of_memory
template <class Score, class Input, executor Run = serial>
[[nodiscard]] result<plans> highest(Score const& score, Input const& input, index rows, index tokens, quota q,
                                    arena& memory, Run const& run = {}) noexcept {
    if (errc const error = q.check(); error != errc::ok) return error;
    if (tokens < 0 || tokens > max_tokens || rows < 1) return errc::bad_shape;

    rollback undo{memory};
    auto const items = memory.take<plan>(rows);
    if (!taken(items)) return errc::out_of_memory;
    if (q.keep >= tokens) {
        result<plan> const all = keep_all(tokens, memory);
        if (!all) return all.error();
        std::construct_at(items.data(), *all);
        undo.keep();
        return plans{items.first(1)};
    }

    auto const kept = memory.take<token>(rows * q.keep);
    if (!taken(kept)) return errc::out_of_memory;
    auto const top = memory.here();
    result<scores> const s = score(input, memory, run);
    if (!s) return s.error();
    if (s->heads < 1 || s->heads > rows || s->tokens > tokens) return errc::bad_shape;
    if (errc const error = top_k(*s, tokens, q, kept, memory, run); error != errc::ok) return error;
    memory.rewind(top);

    auto const width = static_cast<std::size_t>(q.keep);
    for (std::size_t h = 0; h < static_cast<std::size_t>(s->heads); ++h)
        std::construct_at(&items[h], select_rows(kept.subspan(h * width, width), tokens));
    undo.keep();
    return plans{items.first(static_cast<std::size_t>(s->heads))};
}

}  // namespace terse::select
