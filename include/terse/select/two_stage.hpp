// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/select/top_k.hpp>

namespace terse::select {

/// Of each row, what is protected, the highest by a first score, and of what is left the highest by a second.
///
/// @param first       [rows, scored]; with `tokens` tokens in the longest row, the last tokens - scored of every row
///                    have no score and are kept
/// @param second      [rows or more, scored or more]
/// @param rows        [rows]
/// @param first_keep  callable (row, free) -> how many of the `free` tokens that a row keeps besides the protected ones
///                    are chosen by the first score, 0 to free
/// @param items       [rows]: receives the plans
/// @param kept        what they refer to: at least as many as all rows keep
/// @param memory      scratch, given back
/// @return            errc::bad_shape when `second` has fewer rows or scores; errc::bad_budget when a row keeps more
///                    than it has or less than it protects, or `kept` is too small; errc::out_of_memory
/// @complexity        O(rows * tokens)
template <class Count, executor Run = serial>
errc two_stage(scores const& first, scores const& second, index tokens, std::span<row const> rows,
               Count const& first_keep, std::span<plan> items, std::span<token> kept, arena& memory,
               Run const& run = {}) noexcept {
    if (second.heads < first.heads || second.tokens < first.tokens) return errc::bad_shape;
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    rollback const scratch_only{memory};
    // The first stage is a selection too: what it takes, the second no longer sees.
    auto const stage = memory.take<row>(first.heads);
    auto const chosen = memory.take<plan>(first.heads);
    auto const taken_first = memory.take<token>(std::ssize(kept));
    index const each = simd::top_k_scratch(tokens);
    auto const ranks = memory.take<std::int32_t>(each * run.workers());
    auto const left = memory.take<float>(tokens * run.workers());
    if (!taken(stage, chosen, taken_first, ranks, left)) return errc::out_of_memory;
    index total = 0;
    for (index h = 0; h < first.heads; ++h) {
        row own = rows[at(h)];
        own.q.trailing = std::max(own.q.trailing, tokens - first.tokens);
        index const fixed = own.q.fixed(own.tokens), free = own.q.keep - fixed;
        if (free < 0 || own.q.keep > std::min(own.tokens, std::ssize(kept) - total)) return errc::bad_budget;
        own.q.keep = fixed + first_keep(h, free);
        stage[at(h)] = own;
        std::construct_at(&items[at(h)], select_rows(kept.subspan(at(total), at(rows[at(h)].q.keep)), own.tokens));
        total += rows[at(h)].q.keep;
    }
    errc const error = highest_of_rows(first, tokens, stage, chosen, taken_first, memory, run);
    if (error != errc::ok) return error;

    share_out(run, first.heads, tokens * size_of<float> * 4, [&](index begin, index end, index worker) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const have = chosen[at(h)].sources, all = items[at(h)].sources;
            auto const out = kept.subspan(at(all.data() - kept.data()), all.size());
            auto to = left.begin() + worker * tokens;
            auto const from = second.row(h).begin();
            index next = 0;
            for (token const t : have) {
                to = std::copy(from + next, from + t, to);
                next = t + 1;
            }
            to = std::copy(from + next, from + items[at(h)].tokens, to);
            // Their numbers among what is left stand behind, and are read before they are overwritten: one is
            // a token's number, but for those of the first stage that come before.
            auto const more = out.subspan(have.size());
            simd::top_k(std::span<float const>{left.begin() + worker * tokens, to}, more, 0,
                        ranks.subspan(at(worker * each), at(each)));
            std::size_t before = 0, written = 0;
            for (token const p : more) {
                for (; before < have.size() && have[before] <= p + static_cast<token>(before); ++before)
                    out[written++] = have[before];
                out[written++] = p + static_cast<token>(before);
            }
            std::copy(have.begin() + static_cast<index>(before), have.end(), out.begin() + static_cast<index>(written));
        }
    });
    return errc::ok;
}

}  // namespace terse::select
