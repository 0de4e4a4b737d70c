// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/attention_shape.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// The attention that tokens receive from the last queries of a layer: the score of SnapKV, TOVA, H2O and FastV.
///
/// Probabilities are the softmax over all keys that a query may see, summed over the queries in `layer::attention`
/// where the engine has them, else recomputed in tiles from `layer::queries` and `layer::keys`; no attention matrix is
/// ever built. A query sees what `layer::visible` says: the slots up to its own, wherever it stands. With
/// `layer::log_sum_exp` the logits of slots that are not scored are spared, and what is kept for each slot.
struct attention {
    index queries = 0;               ///< how many of the last queries vote; 0: all that the layer has
    bool past_only = false;          ///< score only the slots before the first voter
    bool past_softmax = false;       ///< the softmax is over those slots alone (R-KV); implies past_only
    bool mean_queries = false;       ///< the mean over the voters instead of the sum
    bool per_visible = false;        ///< divide a slot's sum by the number of voters that see it
    bool times_visible = false;      ///< a voter's row counts as often as there are slots before its own: FINCH, by
                                     ///< kvpress's count, one less than what it sees
    std::span<index const> heads{};  ///< the query heads that vote, ascending; empty: all
    bool highest_logits = false;     ///< a kv head's logit is the highest of its query heads' (R-KV); no `group` then
    bool across_heads = false;       ///< one row over all query heads, instead of one for each kv head
    reduction group = reduction::mean;  ///< from query heads to the row they share
    pooling pool = pooling::none;
    index kernel = 1;         ///< width of the pooling, odd
    bool pool_first = false;  ///< pool each query head before they are reduced; differs for maxima only

    /// @param l     keys and queries, or attention; see `check_attention`
    /// @return      [kv_heads, scored], or [1, scored] with `across_heads`; scored = tokens, or with `past_only` the
    ///              slots before the first voter in the head that holds most of them. NaN where a head has no slot to
    ///              score. errc::bad_setting for a negative count, an even kernel, heads that do not ascend or leave a
    ///              row without a voter, or highest logits across heads; errc::bad_shape when the layer has fewer
    ///              queries than vote (not more than `tokens` trailing ones, and of queries with positions those that
    ///              there are), when a row across heads is for heads of different lengths, when highest logits are
    ///              asked of attention, and by `check_attention`; errc::out_of_memory
    /// @complexity  O(heads * queries * tokens * dim); scratch: heads * tokens floats, and a tile row of exponentials
    ///              for each key and worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (queries < 0 || kernel < 1 || kernel % 2 == 0 || (highest_logits && across_heads)) return errc::bad_setting;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        if (errc const error = check_heads(l); error != errc::ok) return error;
        index const voters = voters_of(l);
        if (voters > l.window() || (highest_logits && l.has_attention())) return errc::bad_shape;

        index scored = 0;
        for (index kv = 0; kv < l.kv_heads(); ++kv) scored = std::max(scored, count(l, kv, voters));
        if (!only_past()) scored = l.tokens();
        index const rows = across_heads ? 1 : l.kv_heads(), found = columns_before(l, l.kv_heads());
        // Query heads of a kv head go together, where a worker takes several at once: they read the same keys.
        bool const alone = highest_logits || l.has_attention();
        index const at_once = alone ? 1 : std::min(l.group(), simd::softmax_heads(voters));
        index const each = scratch_for(l, at_once, voters);
        index const bundles = highest_logits ? 1 : (l.group() + at_once - 1) / at_once;

        rollback undo{memory};
        auto const values = memory.take<float>(rows * scored);
        auto const top = memory.here();
        auto const columns = memory.take<float>(found * scored);
        auto const pooled = memory.take<float>(run.workers() * scored);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, columns, pooled, scratch)) return errc::out_of_memory;
        auto const row = [scored](std::span<float> all, index i, index count = 1) noexcept {
            return all.subspan(static_cast<std::size_t>(i * scored), static_cast<std::size_t>(count * scored));
        };

        index const seeing = l.group() / bundles * voters;
        index const cost =
            l.has_attention() ? l.tokens() * seeing * size_of<float> : product_cost(l.tokens(), seeing, l.keys.dim);
        share_out(run, l.kv_heads() * bundles, cost, [&](index begin, index end, index worker) noexcept {
            auto const mine = scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
            for (index bundle = begin; bundle < end; ++bundle) {
                index const kv = bundle / bundles, first = columns_before(l, kv) + bundle % bundles * at_once;
                index const here = std::min(columns_before(l, kv + 1) - first, at_once);
                if (here <= 0) continue;
                find_columns(l, kv, first, here, voters, row(columns, first, here), scored, mine);
                for (index c = first; pool_first && c < first + here; ++c)
                    pool_in_place(row(columns, c), count(l, kv, voters), row(pooled, worker));
            }
        });
        share_out(run, rows, found / rows * scored * size_of<float>,
                  [&](index begin, index end, index worker) noexcept {
                      for (index r = begin; r < end; ++r) {
                          index const first = across_heads ? 0 : columns_before(l, r);
                          index const last = across_heads ? found : columns_before(l, r + 1);
                          index const own = count(l, r, voters);
                          auto const out = row(values, r);
                          reduce_rows(row(columns, first, last - first), out, group);
                          if (!pool_first) pool_in_place(out, own, row(pooled, worker));
                          std::fill(out.begin() + own, out.end(), no_score);
                      }
                  });
        memory.rewind(top);
        undo.keep();
        return scores{values, rows, scored, scored};
    }

  private:
    [[nodiscard]] constexpr bool only_past() const noexcept { return past_only || past_softmax; }

    template <class T, class Cache>
    [[nodiscard]] index voters_of(layer<T, Cache> const& l) const noexcept {
        if (queries == 0) return l.window();
        return std::min(queries, l.query_positions.empty() ? l.tokens() : l.window());
    }

    template <class T, class Cache>
    [[nodiscard]] errc check_heads(layer<T, Cache> const& l) const noexcept {
        for (std::size_t v = 0; v < heads.size(); ++v) {
            index const least = v == 0 ? 0 : heads[v - 1] + 1;
            if (heads[v] < least || heads[v] >= l.heads()) return errc::bad_setting;
        }
        for (index kv = 0; kv < l.kv_heads(); ++kv) {
            if (across_heads && l.length(kv) != l.length(0)) return errc::bad_shape;
            index const first = kv * l.group();
            if (!across_heads && voting_before(first) == voting_before(first + l.group())) return errc::bad_setting;
        }
        return errc::ok;
    }

    /// How many of the voting heads come before query head h.
    [[nodiscard]] index voting_before(index h) const noexcept {
        return heads.empty() ? h : std::lower_bound(heads.begin(), heads.end(), h) - heads.begin();
    }

    /// The number of the v-th query head that votes.
    [[nodiscard]] index voting_head(index v) const noexcept {
        return heads.empty() ? v : heads[static_cast<std::size_t>(v)];
    }

    /// How many rows of columns are found for the kv heads before this one: one for each voting head, or for each kv
    /// head.
    template <class T, class Cache>
    [[nodiscard]] index columns_before(layer<T, Cache> const& l, index kv) const noexcept {
        return highest_logits ? kv : voting_before(kv * l.group());
    }

    /// Whether the engine's log of a query's sum is that of the softmax here.
    template <class T, class Cache>
    [[nodiscard]] bool known(layer<T, Cache> const& l) const noexcept {
        return l.has_log_sum_exp() && !past_softmax && !highest_logits;
    }

    template <class T, class Cache>
    [[nodiscard]] simd::attention_shape shape_of(layer<T, Cache> const& l, index here, index voters,
                                                 index keys) const noexcept {
        auto shape = attention_shape(l, here, voters, keys, known(l));
        if (highest_logits) shape.shared = simd::shared_heads::highest;
        return shape;
    }

    template <class T, class Cache>
    [[nodiscard]] index scratch_for(layer<T, Cache> const& l, index at_once, index voters) const noexcept {
        if (l.has_attention()) return 0;
        if (!highest_logits) return simd::softmax_columns_scratch(shape_of(l, at_once, voters, l.tokens()));
        index most = 0;  // fewer heads may take more of it
        for (index kv = 0; kv < l.kv_heads(); ++kv) {
            index const here = voting_before((kv + 1) * l.group()) - voting_before(kv * l.group());
            most = std::max(most, simd::softmax_columns_scratch(shape_of(l, here, voters, l.tokens())));
        }
        return most;
    }

    /// How many slots of a kv head are scored.
    template <class T, class Cache>
    [[nodiscard]] index count(layer<T, Cache> const& l, index kv, index voters) const noexcept {
        return only_past() ? slots_before(l, kv, l.window() - voters) : l.length(kv);
    }

    /// How many slots of kv head `kv` stand before query i: those that it sees, but for its own where that is cached.
    template <class T, class Cache>
    [[nodiscard]] static index slots_before(layer<T, Cache> const& l, index kv, index i) noexcept {
        index const seen = l.visible(kv, i);
        if (l.query_positions.empty()) return std::max<index>(seen - 1, 0);
        index const at = l.query_positions[static_cast<std::size_t>(i)];
        if (l.positions.data == nullptr) return std::clamp<index>(at, 0, seen);
        return seen > 0 && l.positions_of(kv)[static_cast<std::size_t>(seen - 1)] == at ? seen - 1 : seen;
    }

    /// `here` rows of columns of one kv head, from the `first` on: sums, or means, over the voters.
    template <class T, class Cache>
    void find_columns(layer<T, Cache> const& l, index kv, index first, index here, index voters, std::span<float> out,
                      index scored, std::span<float> scratch) const noexcept {
        std::fill(out.begin(), out.end(), 0.0F);
        index const skipped = l.window() - voters, own = count(l, kv, voters);
        auto const weight = [&](index i) noexcept {
            return times_visible ? static_cast<float>(slots_before(l, kv, skipped + i)) : 1.0F;
        };
        if (l.has_attention()) {
            for (index i = 0; i < voters; ++i) {
                float const* const row = l.attention.row(voting_head(first), skipped + i);
                float const total = past_softmax ? simd::sum(row, own) : 1.0F;
                if (total > 0) simd::add_scaled(row, weight(i) / total, out.data(), own);
            }
        } else {
            index const first_head = highest_logits ? voting_before(kv * l.group()) : first;
            auto const query = [&](index h, index i) noexcept {
                return l.queries.row(voting_head(first_head + h), skipped + i);
            };
            auto const key = rows_of_head(l.keys, kv);
            auto const visible = [&](index i) noexcept { return past_softmax ? own : l.visible(kv, skipped + i); };
            auto const log_sum = [&](index h, index i) noexcept {
                return l.log_sum_exp.row(voting_head(first_head + h))[skipped + i];
            };
            index const read = highest_logits ? voting_before((kv + 1) * l.group()) - first_head : here;
            simd::softmax_columns(shape_of(l, read, voters, l.length(kv)), query, key, visible, {out, scored, own},
                                  scratch, weight, log_sum);
        }
        if (per_visible) {
            for (index t = 0, unseeing = 0; t < own; ++t) {
                while (unseeing < voters && l.visible(kv, skipped + unseeing) <= t) ++unseeing;
                float const seeing = static_cast<float>(std::max<index>(voters - unseeing, 1));
                for (index h = 0; h < here; ++h) out[static_cast<std::size_t>(h * scored + t)] /= seeing;
            }
        } else if (mean_queries) {
            for (float& x : out) x /= static_cast<float>(voters);
        }
    }

    /// Pools the first `used` values.
    void pool_in_place(std::span<float> values, index used, std::span<float> scratch) const noexcept {
        if (pool == pooling::none || kernel == 1) return;
        auto const own = values.first(static_cast<std::size_t>(used));
        std::copy(own.begin(), own.end(), scratch.begin());
        pool_row(scratch.first(own.size()), own, pool, kernel);
    }
};

}  // namespace terse::score
