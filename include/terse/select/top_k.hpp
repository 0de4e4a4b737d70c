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
    index keep = 0;                    ///< tokens to keep, protected ones included; all, where there are no more
    index leading = 0;                 ///< first tokens, always kept
    index trailing = 0;                ///< last tokens, always kept
    std::span<range const> guarded{};  ///< tokens kept as well; ascending and apart; parts past the last are ignored

    /// errc::bad_budget unless keep >= 1 and 0 <= leading + trailing <= keep; errc::bad_shape unless the guarded ranges
    /// ascend and are apart.
    [[nodiscard]] constexpr errc check() const noexcept {
        bool const fits = keep >= 1 && leading >= 0 && trailing >= 0 && leading <= keep && trailing <= keep - leading;
        if (!ranges_ascend()) return errc::bad_shape;
        return fits ? errc::ok : errc::bad_budget;
    }

    [[nodiscard]] constexpr bool ranges_ascend() const noexcept {
        index end = 0;
        for (range const r : guarded) {
            if (r.begin < end || r.end < r.begin) return false;
            end = r.end;
        }
        return true;
    }

    /// The same with no more protected than `keep`: first tokens, but for one place at least, and last tokens.
    [[nodiscard]] constexpr quota fitted() const noexcept {
        quota q = *this;
        q.leading = std::clamp<index>(leading, 0, std::max<index>(keep - 1, 0));
        q.trailing = std::clamp<index>(trailing, 0, std::max<index>(keep - q.leading, 0));
        return q;
    }

    /// Calls use(begin, end) for the runs of `tokens` tokens that may go, ascending.
    /// @pre leading + trailing <= tokens
    template <class Use>
    constexpr void for_each_free(index tokens, Use&& use) const noexcept {
        index begin = leading;
        index const last = tokens - trailing;
        for (range const r : guarded) {
            if (index const end = std::min(r.begin, last); end > begin) use(begin, end);
            begin = std::max(begin, r.end);
        }
        if (begin < last) use(begin, last);
    }

    /// How many of `tokens` tokens stay whatever their score.
    [[nodiscard]] constexpr index fixed(index tokens) const noexcept {
        if (leading >= tokens || trailing >= tokens - leading) return tokens;
        index free = 0;
        for_each_free(tokens, [&](index begin, index end) { free += end - begin; });
        return tokens - free;
    }
};

/// What a row keeps that reads by position alone: errc::bad_budget for a negative count, or where both are zero.
[[nodiscard]] constexpr errc check_ends(index leading, index trailing) noexcept {
    return leading >= 0 && trailing >= 0 && (leading > 0 || trailing > 0) ? errc::ok : errc::bad_budget;
}

/// The protected tokens of a row alone, ascending.
///
/// @param kept  [q.fixed(tokens)]
/// @complexity  O(kept)
constexpr void choose_fixed(quota const& q, index tokens, std::span<token> kept) noexcept {
    auto to = kept.begin();
    token at = 0;
    if (std::ssize(kept) < tokens) {
        q.for_each_free(tokens, [&](index begin, index end) {
            while (at < begin) *to++ = at++;
            at = static_cast<token>(end);
        });
    }
    std::iota(to, kept.end(), at);
}

/// The protected tokens of a row and its highest others: q.keep ascending positions.
/// Equal scores: the earlier token stays; NaN goes first.
///
/// @param row      at least tokens - q.trailing scores
/// @param kept     [q.keep]
/// @param ranks    [simd::top_k_scratch(tokens)]: scratch
/// @param apart    [tokens]: scratch, where q guards ranges
/// @pre            q.fixed(tokens) <= q.keep <= tokens
/// @complexity     O(tokens)
inline void choose(std::span<float const> row, index tokens, quota const& q, std::span<token> kept,
                   std::span<std::int32_t> ranks, std::span<float> apart) noexcept {
    if (q.keep == tokens) {
        std::iota(kept.begin(), kept.end(), token{0});
        return;
    }
    auto const size = [](index n) { return static_cast<std::size_t>(n); };
    if (q.guarded.empty()) {
        auto const first = kept.begin() + q.leading, last = kept.end() - q.trailing;
        std::iota(kept.begin(), first, token{0});
        simd::top_k(row.subspan(size(q.leading), size(tokens - q.leading - q.trailing)), std::span{first, last},
                    static_cast<token>(q.leading), ranks);
        std::iota(last, kept.end(), static_cast<token>(tokens - q.trailing));
        return;
    }

    // The others side by side; the chosen among them; then these back at their places, between what is protected.
    index const others = tokens - q.fixed(tokens), chosen = q.keep - (tokens - others);
    auto end_of_others = apart.begin();
    q.for_each_free(tokens, [&](index begin, index end) {
        end_of_others = std::copy(row.begin() + begin, row.begin() + end, end_of_others);
    });
    simd::top_k(std::span<float const>{apart.begin(), end_of_others}, kept.last(size(chosen)), 0, ranks);
    std::copy_n(kept.end() - chosen, chosen, ranks.begin());
    index passed = 0, next = 0;
    auto to = kept.begin();
    token at = 0;
    q.for_each_free(tokens, [&](index begin, index end) {
        for (; at < begin; ++at) *to++ = at;
        for (; next < chosen && ranks[size(next)] < passed + end - begin; ++next)
            *to++ = static_cast<token>(ranks[size(next)] - passed + begin);
        passed += end - begin;
        at = static_cast<token>(end);
    });
    std::iota(to, kept.end(), at);
}

/// A row of an input: how many tokens it has, and its quota.
struct row {
    index tokens = 0;
    quota q{};
};

/// Tokens of row h of an input with `rows` rows: a layer's heads may hold different numbers of slots.
template <class Input>
[[nodiscard]] constexpr index row_tokens(Input const& input, index rows, index h, index tokens) noexcept {
    if constexpr (requires { input.length(h); }) {
        if (rows > 1) return input.length(h);
    }
    return tokens;
}

/// The rows of an input under one quota. What a layer guards are positions: in each row they are tokens.
/// @param rows  kv heads, or 1 for all of them
/// @return      [rows], in the arena; errc::bad_shape by `quota::check`; errc::out_of_memory
template <class Input>
[[nodiscard]] result<std::span<row>> rows_of(Input const& input, index rows, index tokens, quota q,
                                             arena& memory) noexcept {
    if constexpr (requires { input.guarded; }) q.guarded = input.guarded;
    if (!q.ranges_ascend()) return errc::bad_shape;
    if constexpr (requires { has_positions_of_all(input); }) {
        if (!has_positions_of_all(input)) return errc::bad_shape;
    }
    auto const all = memory.take<row>(rows);
    auto const ranges = memory.take<range>(rows * std::ssize(q.guarded));
    if (!taken(all, ranges)) return errc::out_of_memory;
    for (index h = 0; h < rows; ++h) {
        row& own = *std::construct_at(&all[static_cast<std::size_t>(h)], row{row_tokens(input, rows, h, tokens), q});
        own.q.keep = std::min(q.keep, own.tokens);
        if constexpr (requires { input.positions_of(h); }) {
            auto const positions = input.positions_of(h);
            if (positions.empty()) continue;
            auto const mine = ranges.subspan(static_cast<std::size_t>(h) * q.guarded.size(), q.guarded.size());
            auto const slot = [&](index position) {
                return std::lower_bound(positions.begin(), positions.end(), position) - positions.begin();
            };
            std::transform(q.guarded.begin(), q.guarded.end(), mine.begin(), [&](range r) {
                return range{slot(r.begin), slot(r.end)};
            });
            own.q.guarded = mine;
        }
    }
    return all;
}

/// Selections of rows that may differ in how many tokens they have and keep: the choice of `highest`, for callers that
/// set a row's count by its scores.
///
/// @param s       [rows, scored]; with `tokens` tokens in the longest row, the last tokens - scored of every row have
///                no score and are kept
/// @param rows    [rows]
/// @param items   [rows]: receives the plans
/// @param kept    what they refer to: at least as many as all rows keep
/// @param memory  scratch, given back
/// @return        errc::bad_budget when a row keeps more than it has or less than it protects, or `kept` is too small;
///                errc::out_of_memory
/// @complexity    O(rows * tokens)
template <executor Run = serial>
errc highest_of_rows(scores const& s, index tokens, std::span<row const> rows, std::span<plan> items,
                     std::span<token> kept, arena& memory, Run const& run = {}) noexcept {
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    auto const quota_of = [&](index h) noexcept {
        quota q = rows[at(h)].q;
        q.trailing = std::max(q.trailing, tokens - s.tokens);
        return q;
    };
    index total = 0, guarded = 0;
    for (index h = 0; h < s.heads; ++h) {
        quota const q = quota_of(h);
        index const length = rows[at(h)].tokens;
        if (q.keep < q.fixed(length) || q.keep > std::min(length, std::ssize(kept) - total)) return errc::bad_budget;
        total += q.keep;
        guarded += std::ssize(q.guarded);
    }

    rollback const scratch_only{memory};
    index const each = simd::top_k_scratch(tokens), each_apart = guarded == 0 ? 0 : tokens;
    auto const ranks = memory.take<std::int32_t>(each * run.workers());
    auto const apart = memory.take<float>(each_apart * run.workers());
    if (!taken(ranks, apart)) return errc::out_of_memory;
    total = 0;
    for (index h = 0; h < s.heads; ++h) {
        index const count = rows[at(h)].q.keep;
        std::construct_at(&items[at(h)], select_rows(kept.subspan(at(total), at(count)), rows[at(h)].tokens));
        total += count;
    }
    share_out(run, s.heads, s.tokens * size_of<float> * 4, [&](index begin, index end, index worker) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = items[at(h)].sources;
            choose(s.row(h), rows[at(h)].tokens, quota_of(h),
                   kept.subspan(at(sources.data() - kept.data()), sources.size()),
                   ranks.subspan(at(worker * each), at(each)), apart.subspan(at(worker * each_apart), at(each_apart)));
        }
    });
    return errc::ok;
}

/// Scores an input and lets `choice` make plans of the scores: the frame of `highest`, for other ways to choose.
///
/// @param score    called as score(input, memory, run), only if something must go
/// @param rows     the most rows that `score` returns
/// @param tokens   how many tokens the input has, in its longest head
/// @param room     the most tokens that all plans keep together
/// @param choice   called as choice(scores, quotas, items, kept, scratch): of each row its tokens and quota, [rows], to
///                 change as it likes; room for the plans, [rows], and for what they keep, [room]; an arena that is
///                 given back. Returns how many plans it made, as result<index>
/// @return         the plans; one shared plan that keeps all where q.keep >= tokens and heads are equally long;
///                 errc::bad_budget by `quota::check`; errc::bad_shape, also where one row of scores stands for heads
///                 of different lengths; the scorer's and the choice's errors; errc::out_of_memory
template <class Score, class Input, class Choice, executor Run = serial>
[[nodiscard]] result<plans> choose_by_score(Score const& score, Input const& input, index rows, index tokens, quota q,
                                            index room, Choice const& choice, arena& memory,
                                            Run const& run = {}) noexcept {
    if (errc const error = q.check(); error != errc::ok) return error;
    if (tokens < 0 || tokens > max_tokens || rows < 1) return errc::bad_shape;
    bool even = true;
    for (index h = 0; h < rows; ++h) even = even && row_tokens(input, rows, h, tokens) == tokens;

    rollback undo{memory};
    auto const items = memory.take<plan>(rows);
    if (!taken(items)) return errc::out_of_memory;
    if (even && q.keep >= tokens) {
        result<plan> const all = keep_all(tokens, memory);
        if (!all) return all.error();
        std::construct_at(items.data(), *all);
        undo.keep();
        return plans{items.first(1)};
    }

    auto const kept = memory.take<token>(room);
    if (!taken(kept)) return errc::out_of_memory;
    auto const top = memory.here();
    auto const quotas = rows_of(input, rows, tokens, q, memory);
    if (!quotas) return quotas.error();
    result<scores> const s = score(input, memory, run);
    if (!s) return s.error();
    if (s->heads < 1 || s->heads > rows || s->tokens > tokens || (s->heads < rows && !even)) return errc::bad_shape;
    result<index> const made = choice(*s, *quotas, items, kept, memory);
    if (!made) return made.error();
    memory.rewind(top);
    undo.keep();
    return plans{items.first(static_cast<std::size_t>(*made))};
}

/// Scores an input and keeps the highest: what every scoring policy does. One plan a row of scores. What the input
/// guards is kept, and heads may have different lengths, where the input says so (`layer`).
///
/// @return  selections, positions ascending, by `choose_by_score`; errc::bad_budget also when more is protected than
///          kept
template <class Score, class Input, executor Run = serial>
[[nodiscard]] result<plans> highest(Score const& score, Input const& input, index rows, index tokens, quota q,
                                    arena& memory, Run const& run = {}) noexcept {
    index room = 0;
    for (index h = 0; h < rows; ++h)
        room += std::clamp<index>(row_tokens(input, rows, h, tokens), 0, std::max<index>(q.keep, 0));
    auto const choice = [&](scores const& s, std::span<row const> quotas, std::span<plan> items, std::span<token> kept,
                            arena& scratch) noexcept -> result<index> {
        errc const error = highest_of_rows(s, tokens, quotas, items, kept, scratch, run);
        if (error != errc::ok) return error;
        return s.heads;
    };
    return choose_by_score(score, input, rows, tokens, q, room, choice, memory, run);
}

}  // namespace terse::select
