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
    std::span<range const> guarded{};  ///< kept as well; ascending and apart; parts past the last token are ignored

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

/// Selections of rows that may differ in how many tokens they have and keep: the choice of `highest`, for callers that
/// set a row's count by its scores.
///
/// @param s       [rows, scored]; with `tokens` tokens in the longest row, the last tokens - scored of every row have
///                no score and are kept
/// @param length  callable row -> its tokens, at most `tokens`
/// @param keep    callable row -> how many to keep; all, where a row has no more
/// @param q       what is protected in every row; its `keep` is not read
/// @param items   [rows]: receives the plans
/// @param kept    what they refer to: at least as many as all rows keep
/// @param memory  scratch, given back
/// @return        errc::bad_budget when a row protects more than it keeps or `kept` is too small; errc::out_of_memory
/// @complexity    O(rows * tokens)
template <class Length, class Keep, executor Run = serial>
errc highest_of_rows(scores const& s, index tokens, Length const& length, Keep const& keep, quota q,
                     std::span<plan> items, std::span<token> kept, arena& memory, Run const& run = {}) noexcept {
    q.trailing = std::max(q.trailing, tokens - s.tokens);
    auto const quota_of = [&](index h) noexcept {
        quota own = q;
        own.keep = std::min<index>(keep(h), length(h));
        return own;
    };
    index total = 0;
    for (index h = 0; h < s.heads; ++h) {
        quota const own = quota_of(h);
        if (own.keep < own.fixed(length(h)) || own.keep > std::ssize(kept) - total) return errc::bad_budget;
        total += own.keep;
    }

    rollback const scratch_only{memory};
    index const each = simd::top_k_scratch(tokens), each_apart = q.guarded.empty() ? 0 : tokens;
    auto const ranks = memory.take<std::int32_t>(each * run.workers());
    auto const apart = memory.take<float>(each_apart * run.workers());
    if (!taken(ranks, apart)) return errc::out_of_memory;
    auto const part = [](auto all, index at, index count) noexcept {
        return all.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count));
    };
    total = 0;
    for (index h = 0; h < s.heads; ++h) {
        index const count = quota_of(h).keep;
        std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(part(kept, total, count), length(h)));
        total += count;
    }
    share_out(run, s.heads, s.tokens * static_cast<index>(sizeof(float)) * 4,
              [&](index begin, index end, index worker) noexcept {
                  for (index h = begin; h < end; ++h) {
                      auto const sources = items[static_cast<std::size_t>(h)].sources;
                      choose(s.row(h), length(h), quota_of(h),
                             part(kept, sources.data() - kept.data(), std::ssize(sources)),
                             part(ranks, worker * each, each), part(apart, worker * each_apart, each_apart));
                  }
              });
    return errc::ok;
}

/// Scores an input and keeps the highest: what every scoring policy does. One plan a row of scores. Slots that the
/// input guards are kept, and heads may have different lengths, where the input says so (`layer`).
///
/// @param score    called as score(input, memory, run), only if something must go
/// @param rows     the most rows that `score` returns
/// @param tokens   how many tokens the input has, in its longest head
/// @return         selections, positions ascending; one shared plan that keeps all where q.keep >= tokens and heads
///                 are equally long; errc::bad_budget by `quota::check` or when more is protected than kept;
///                 errc::bad_shape, also where one row of scores stands for heads of different lengths; the scorer's
///                 errors; errc::out_of_memory
template <class Score, class Input, executor Run = serial>
[[nodiscard]] result<plans> highest(Score const& score, Input const& input, index rows, index tokens, quota q,
                                    arena& memory, Run const& run = {}) noexcept {
    if constexpr (requires { input.guarded; }) q.guarded = input.guarded;
    if (errc const error = q.check(); error != errc::ok) return error;
    if (tokens < 0 || tokens > max_tokens || rows < 1) return errc::bad_shape;
    auto const length = [&](index h) noexcept {
        if constexpr (requires { input.length(h); }) return rows == 1 ? tokens : input.length(h);
        return tokens;
    };
    index total = 0;
    bool even = true;
    for (index h = 0; h < rows; ++h) {
        total += std::min(q.keep, length(h));
        even = even && length(h) == tokens;
    }

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

    auto const kept = memory.take<token>(total);
    if (!taken(kept)) return errc::out_of_memory;
    auto const top = memory.here();
    result<scores> const s = score(input, memory, run);
    if (!s) return s.error();
    if (s->heads < 1 || s->heads > rows || s->tokens > tokens) return errc::bad_shape;
    if (s->heads < rows && !even) return errc::bad_shape;
    auto const keep = [&](index) noexcept { return q.keep; };
    if (errc const error = highest_of_rows(*s, tokens, length, keep, q, items, kept, memory, run); error != errc::ok)
        return error;
    memory.rewind(top);
    undo.keep();
    return plans{items.first(static_cast<std::size_t>(s->heads))};
}

}  // namespace terse::select
