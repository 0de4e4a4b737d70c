// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/budget/budget.hpp>
#include <terse/core/layer.hpp>
#include <terse/score/lag.hpp>
#include <terse/select/per_chunk.hpp>

namespace terse::kv {

/// LagKV of a cache that grows: as soon as a partition of the tokens is complete, keeps a share of the one before it,
/// the slots that stand out in its scale. What was thinned stays as it is; sinks, the last whole partition and what
/// follows it are kept. A prompt is thinned in one go, or chunk by chunk.
///
/// What was thinned is read off the slots' positions, so the policy holds no state and can be asked after every token:
///
///     kv::recursive_lagkv const policy{.ratio = 0.25, .lag = 128};
///     books.append(1);
///     auto const e = books.evict_if_needed(policy, {.keys = keys, .values = values}, {.in_prompt = true}, memory);
///     if (e && e->evicts()) { compact(keys, e->kept); compact(values, e->kept); books.commit(*e); }
///
/// Positions must stay, as `numbering::keep` leaves them. The cache still grows, by `ratio` of the tokens.
///
/// Source: Liang et al., "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important",
/// arXiv:2504.04704, whose code's defaults these are. Differs: channels that are constant over a partition are left
/// out, where the published code divides by zero; it keeps int(ratio * lag) slots, which may be none; slots stand in
/// their order. What is guarded in a partition counts among those it keeps, and is kept where it is more.
struct recursive_lagkv {
    double ratio = 0.5;  ///< share of a partition to keep, in (0, 1], at least one slot
    index sinks = 16;    ///< first tokens, always kept
    index lag = 1024;    ///< tokens of a partition

    [[nodiscard]] constexpr score::lag scorer() const noexcept { return {sinks, lag, false, true}; }

    /// Slots to keep of a prompt of `tokens` of which none are guarded, for each kv head; errc::bad_budget
    [[nodiscard]] result<index> count(index tokens) const noexcept {
        result<index> const share = of_partition();
        if (!share) return share.error();
        index const partitions = std::max<index>(tokens - sinks, 0) / std::max<index>(lag, 1);
        return tokens - std::max<index>(partitions - 1, 0) * (lag - *share);
    }

    /// @param l   reads keys [kv_heads, tokens, dim], values [kv_heads, tokens, any] and the slots' positions; without
    ///            positions, a prompt of which nothing was evicted
    /// @return    a selection for each kv head, or one that keeps all; errc::bad_setting for negative sinks or a lag
    ///            below one; errc::bad_budget for a ratio outside (0, 1]; errors as `score::lag`'s
    /// @complexity O(kv_heads * (new partitions * lag * dim + tokens))
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (sinks < 0 || lag < 1) return errc::bad_setting;
        result<index> const share = of_partition();
        if (!share) return share.error();
        if (!has_positions_of_all(l)) return errc::bad_shape;

        index const tokens = l.tokens(), heads = l.kv_heads();
        index fewest = tokens, room = 0;  // one head that has something to thin is enough
        for (index h = 0; h < heads; ++h) {
            index const least = l.length(h) - scorer().scored(l, h).size() / lag * (lag - *share);
            fewest = std::min(fewest, least);
            room += l.guarded.empty() ? least : l.length(h);
        }
        auto const stay = [&](index, index fixed) noexcept { return std::max(*share, fixed); };
        auto const partitions = [&](index h, index) noexcept { return scorer().scored(l, h); };
        auto const choice = [&](scores const& s, std::span<select::row const> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            errc const error = select::per_chunk(s, tokens, rows, std::min(lag, std::max<index>(tokens, 1)), stay,
                                                 items, kept, scratch, run, partitions);
            if (error != errc::ok) return error;
            return heads;
        };
        return select::choose_by_score(scorer(), l, heads, tokens, {.keep = std::max<index>(fewest, 1)}, room, choice,
                                       memory, run);
    }

  private:
    /// Slots to keep of a partition.
    [[nodiscard]] result<index> of_partition() const noexcept {
        return budget::ratio{ratio}.count(std::min(lag, max_tokens));
    }
};

}  // namespace terse::kv
