// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/select/top_k.hpp>

namespace terse::select {

/// The protected tokens of a row and every other whose score is not below `least`: ascending positions. NaN is below
/// everything.
///
/// @param row   at least tokens - q.trailing scores
/// @param q     q.keep is not read
/// @param kept  [tokens]: receives the positions
/// @return      how many there are
/// @complexity  O(tokens)
[[nodiscard]] inline index choose_at_least(std::span<float const> row, index tokens, quota const& q, float least,
                                           std::span<token> kept) noexcept {
    token* to = kept.data();
    token at = 0;
    if (q.fixed(tokens) < tokens) {
        auto const lowest = rank(least);
        q.for_each_free(tokens, [&](index begin, index end) {
            while (at < begin) *to++ = at++;
            for (; at < end; ++at) {
                *to = at;  // taken back where the next is written over it
                to += rank(row[static_cast<std::size_t>(at)]) >= lowest ? 1 : 0;
            }
        });
    }
    while (at < tokens) *to++ = at++;
    return to - kept.data();
}

/// Scores an input and keeps what is not below a threshold: how many a row keeps depends on what it holds. One plan a
/// row of scores. What the input guards is kept, and heads may have different lengths, where the input says so
/// (`layer`).
///
/// @param least   the lowest score that is kept; not NaN
/// @param score   called as score(input, memory, run)
/// @param rows    the most rows that `score` returns
/// @param tokens  how many tokens the input has, in its longest head
/// @param q       what is kept whatever its score; q.keep is not read
/// @return        selections, positions ascending, which may be empty; errc::bad_setting for a NaN threshold;
///                errc::bad_budget for a negative count of protected tokens; errc::bad_shape, also where one row of
///                scores stands for heads of different lengths; the scorer's errors; errc::out_of_memory
/// @complexity    the scorer's, and O(rows * tokens); in the arena stay rows * tokens positions
template <class Score, class Input, executor Run = serial>
[[nodiscard]] result<plans> at_least(float least, Score const& score, Input const& input, index rows, index tokens,
                                     quota q, arena& memory, Run const& run = {}) noexcept {
    if (simd::is_nan(least)) return errc::bad_setting;
    if (q.leading < 0 || q.trailing < 0) return errc::bad_budget;
    if (tokens < 0 || tokens > max_tokens || rows < 1) return errc::bad_shape;
    auto const at = [](index i) { return static_cast<std::size_t>(i); };

    rollback undo{memory};
    auto const items = memory.take<plan>(rows);
    auto const kept = memory.take<token>(rows * tokens);
    if (!taken(items, kept)) return errc::out_of_memory;
    auto const top = memory.here();
    auto const quotas = rows_of(input, rows, tokens, q, memory);
    if (!quotas) return quotas.error();
    result<scores> const s = score(input, memory, run);
    if (!s) return s.error();
    bool const even =
        std::all_of(quotas->begin(), quotas->end(), [tokens](row const& r) { return r.tokens == tokens; });
    if (s->heads < 1 || s->heads > rows || s->tokens > tokens || (s->heads < rows && !even)) return errc::bad_shape;

    share_out(run, s->heads, tokens * size_of<float>, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            row own = (*quotas)[at(h)];
            own.q.trailing = std::max(own.q.trailing, tokens - s->tokens);
            auto const mine = kept.subspan(at(h * tokens), at(own.tokens));
            index const count = choose_at_least(s->row(h), own.tokens, own.q, least, mine);
            std::construct_at(&items[at(h)], select_rows(mine.first(at(count)), own.tokens));
        }
    });
    memory.rewind(top);
    undo.keep();
    return plans{items.first(at(s->heads))};
}

}  // namespace terse::select
