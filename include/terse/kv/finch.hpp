// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/layer.hpp>
#include <terse/score/attention.hpp>
#include <terse/select/per_chunk.hpp>

namespace terse::kv {

/// Keeps what the question at the end of the prompt attends to, of the whole context or of each chunk of it, and the
/// question.
///
/// Source: Corallo and Papotti, "FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models",
/// arXiv:2408.00167 (TACL 2024); as kvpress's FinchPress, after its delimiter was taken out. As there, the kept keys
/// then get the positions that they stand at: call `kv::renumber` after `kv::compact`, and go on at the kept count; and
/// as there, a query counts by the keys before its own, one fewer than it sees. Differs: of a short last chunk the
/// whole question stays, where kvpress keeps no more than the chunk's share.
template <budget::rule Budget = budget::fixed>
struct finch {
    Budget budget{};        ///< slots to keep of the prompt, or of a chunk of so many, question included
    index window = 32;      ///< tokens of the question, whose queries vote; their own slots are always kept
    index chunk = 0;        ///< slots of a chunk, of which the last may have fewer; 0: the prompt is one
    bool normalise = true;  ///< a query that sees more keys, and so gives less to each, counts for more

    [[nodiscard]] constexpr score::attention scorer() const noexcept {
        return {.queries = window, .past_only = true, .mean_queries = true, .times_visible = normalise};
    }

    /// Slots to keep of `tokens` of which none are guarded, for each kv head; errors as the budget's.
    [[nodiscard]] result<index> count(index tokens) const noexcept {
        index const last = tokens % chunk_of(tokens);
        result<index> const whole = budget::count_chunks(budget, tokens - last, chunk_of(tokens));
        if (!whole || last == 0) return whole;
        result<index> const share = budget.count(last);
        if (!share) return share;
        return *whole + std::min(std::max(*share, window), last);
    }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    a selection for each kv head, slots ascending; errc::bad_setting for a window below one or a negative
    ///            chunk; errc::bad_budget when a whole chunk has more of the question than it keeps; errors as the
    ///            budget's and `score::attention`'s
    /// @complexity O(heads * window * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1 || chunk < 0) return errc::bad_setting;
        index const tokens = l.tokens(), size = chunk_of(tokens);
        result<index> const keep = count(std::max<index>(tokens, 1));
        if (!keep) return keep.error();
        auto const choice = [&](scores const& s, std::span<select::row const> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            auto const of_chunk = [&](index length, index fixed) noexcept {
                index const share = *budget.count(length);
                return length < size ? std::max(share, fixed) : share;
            };
            errc const error = select::per_chunk(s, tokens, rows, size, of_chunk, items, kept, scratch, run);
            if (error != errc::ok) return error;
            return s.heads;
        };
        index const room = l.kv_heads() * (l.guarded.empty() ? *keep : tokens);
        select::quota const q{.keep = *keep, .trailing = std::min(window, tokens)};
        return select::choose_by_score(scorer(), l, l.kv_heads(), tokens, q, room, choice, memory, run);
    }

  private:
    [[nodiscard]] constexpr index chunk_of(index tokens) const noexcept {
        return chunk > 0 ? chunk : std::max<index>(tokens, 1);
    }
};

}  // namespace terse::kv
