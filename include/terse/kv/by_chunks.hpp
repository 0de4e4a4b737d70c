// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/picked.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// Scores each chunk of a prompt by itself and keeps the best of each: the prompt is thinned evenly, and a chunk can be
/// compressed as soon as it is there.
///
/// Source: kvpress's ChunkPress, over any scorer. Scorers that want queries get those of the chunk, where the layer has
/// the queries of all its tokens. A short last chunk keeps what is protected in it, even where that is more than its
/// share.
template <class Score, budget::rule Budget = budget::ratio>
struct by_chunks {
    Score score{};
    Budget budget{};     ///< slots to keep of a chunk of so many, for each kv head
    index chunk = 1024;  ///< tokens; the last chunk may have fewer
    index sinks = 0;     ///< first slots, always kept
    index recent = 0;    ///< last slots, always kept; those that the scorer leaves out of a chunk as well

    /// Slots to keep of `tokens`, for each kv head, where a short last chunk protects no more than its share; errors as
    /// the budget's.
    [[nodiscard]] result<index> count(index tokens) const noexcept {
        return budget::count_chunks(budget, tokens, chunk);
    }

    /// @param l   what `score` reads
    /// @return    a selection for each kv head, slots ascending; errc::bad_setting for a chunk below one; errors as
    ///            `evict`'s: what is protected in a whole chunk must fit into what it keeps
    /// @complexity the scorer's
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (chunk < 1) return errc::bad_setting;
        if (sinks < 0 || recent < 0) return errc::bad_budget;
        index const tokens = l.tokens(), heads = l.kv_heads();
        if (tokens < 0 || tokens > max_tokens || heads < 1 || !has_positions_of_all(l)) return errc::bad_shape;
        index const most = std::min(chunk, tokens);
        result<index> const whole = count(tokens - tokens % chunk);
        if (!whole) return whole.error();
        if (result<index> const least = budget.count(1); !least) return least.error();
        index const room = *whole + most;  // a head's last chunk may keep all

        rollback undo{memory};
        auto const items = memory.take<plan>(heads);
        auto const kept = memory.take<token>(heads * room);
        if (!taken(items, kept)) return errc::out_of_memory;
        auto const top = memory.here();
        auto const slots = memory.take<token>(heads * most);
        bool const has_positions = l.positions.data != nullptr;
        auto const positions = memory.take<token>(has_positions ? heads * most : 0);
        auto const lengths = memory.take<index>(heads);
        auto const done = memory.take<index>(heads);
        if (!taken(slots, positions, lengths, done)) return errc::out_of_memory;
        std::fill(done.begin(), done.end(), index{0});

        for (index begin = 0; begin < tokens; begin += chunk) {
            index const length = std::min(chunk, tokens - begin);
            index longest = 0;
            for (index h = 0; h < heads; ++h) {
                index const own = std::clamp<index>(l.length(h) - begin, 0, length);
                lengths[static_cast<std::size_t>(h)] = own;
                longest = std::max(longest, own);
                auto const first = slots.begin() + h * most;
                std::iota(first, first + own, static_cast<token>(begin));
                if (has_positions) std::copy_n(l.positions_of(h).begin() + begin, own, positions.begin() + h * most);
            }
            if (longest == 0) break;
            tokens_view<token> const picked{slots.data(), heads, longest, most};
            tokens_view<token> const at{has_positions ? positions.data() : slots.data(), heads, longest, most};
            auto const part = pick_slots(l, picked, at, lengths, longest, {begin, begin + length});
            index const share = std::min(*budget.count(longest), *budget.count(length));
            index const leading = std::clamp<index>(sinks - begin, 0, longest);
            select::quota const q{length < chunk ? std::max(share, leading) : share, leading};
            auto const choice = [&](scores const& s, std::span<select::row> rows, std::span<plan> parts,
                                    std::span<token> chosen, arena& scratch) noexcept -> result<index> {
                for (index h = 0; h < s.heads; ++h) {  // each head ends somewhere else
                    select::row& own = rows[static_cast<std::size_t>(h)];
                    index const after = l.length(h) - begin - own.tokens;
                    own.q.trailing = std::max(std::clamp<index>(recent - after, 0, own.tokens), longest - s.tokens);
                    if (own.tokens < chunk) own.q.keep = std::max(own.q.keep, own.q.fixed(own.tokens));
                }
                errc const error = select::highest_of_rows(s, longest, rows, parts, chosen, scratch, run);
                if (error != errc::ok) return error;
                return s.heads;
            };
            auto const before = memory.here();
            result<plans> const best =
                select::choose_by_score(score, part, heads, longest, q, heads * longest, choice, memory, run);
            if (!best) return best.error();
            for (index h = 0; h < heads; ++h)
                for (token const t : (*best)[h].sources)
                    kept[static_cast<std::size_t>(h * room + done[static_cast<std::size_t>(h)]++)] =
                        t + static_cast<token>(begin);
            memory.rewind(before);
        }
        for (index h = 0; h < heads; ++h) {
            auto const own = kept.subspan(static_cast<std::size_t>(h * room),
                                          static_cast<std::size_t>(done[static_cast<std::size_t>(h)]));
            std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(own, l.length(h)));
        }
        memory.rewind(top);
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv
