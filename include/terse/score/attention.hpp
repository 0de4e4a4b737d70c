// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// The attention that tokens receive from the last queries of a layer: the score of SnapKV, TOVA, H2O and FastV.
///
/// Probabilities are the softmax over all keys that a query may see, summed over the queries in `layer::attention`
/// where the engine has them, else recomputed in tiles from `layer::queries` and `layer::keys`; no attention matrix is
/// ever built. Query i of w stands at position tokens - w + i and sees the keys up to its own.
struct attention {
    index queries = 0;                  ///< how many of the last queries vote; 0: all that the layer has
    bool past_only = false;             ///< score only the tokens before the first voter
    bool mean_queries = false;          ///< the mean over the voters instead of the sum
    bool per_visible = false;           ///< divide a token's sum by the number of voters that see it
    bool across_heads = false;          ///< one row over all query heads, instead of one for each kv head
    reduction group = reduction::mean;  ///< from query heads to the row they share
    pooling pool = pooling::none;
    index kernel = 1;         ///< width of the pooling, odd
    bool pool_first = false;  ///< pool each query head before they are reduced; differs for maxima only

    /// @param l     keys and queries, or attention; see `check_attention`
    /// @return      [kv_heads, scored], or [1, scored] with `across_heads`; scored = tokens, or tokens - queries with
    ///              `past_only`. errc::bad_setting for a negative count or an even kernel; errc::bad_shape when the
    ///              layer has fewer queries than vote (more than `tokens` voters count as `tokens`), and by
    ///              `check_attention`; errc::out_of_memory
    /// @complexity  O(heads * queries * tokens * dim); scratch: heads * tokens floats, and a tile row of exponentials
    ///              for each key and worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (queries < 0 || kernel < 1 || kernel % 2 == 0) return errc::bad_setting;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        index const voters = queries == 0 ? l.window() : std::min(queries, l.tokens());
        if (voters > l.window()) return errc::bad_shape;

        index const scored = past_only ? l.tokens() - voters : l.tokens();
        index const rows = across_heads ? 1 : l.kv_heads();
        // Query heads of a kv head go together, where a worker takes several at once: they read the same keys.
        index const at_once = l.has_attention() ? 1 : std::min(l.group(), simd::softmax_heads(voters));
        index const each =
            l.has_attention() ? 0 : simd::softmax_columns_scratch(at_once, voters, l.tokens(), l.keys.dim);
        index const bundles = (l.group() + at_once - 1) / at_once;

        rollback undo{memory};
        auto const values = memory.take<float>(rows * scored);
        auto const top = memory.here();
        auto const heads = memory.take<float>(l.heads() * scored);
        auto const pooled = memory.take<float>(run.workers() * scored);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, heads, pooled, scratch)) return errc::out_of_memory;
        auto const row = [scored](std::span<float> all, index i, index count = 1) noexcept {
            return all.subspan(static_cast<std::size_t>(i * scored), static_cast<std::size_t>(count * scored));
        };

        index const cost = at_once * voters * l.tokens() * (l.has_attention() ? index{1} : l.keys.dim);
        share_out(run, l.kv_heads() * bundles, cost, [&](index begin, index end, index worker) noexcept {
            auto const mine = scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
            for (index bundle = begin; bundle < end; ++bundle) {
                index const kv = bundle / bundles, skip = bundle % bundles * at_once;
                index const first = kv * l.group() + skip, count = std::min(at_once, l.group() - skip);
                columns(l, first, count, voters, row(heads, first, count), scored, mine);
                for (index h = first; pool_first && h < first + count; ++h)
                    pool_in_place(row(heads, h), row(pooled, worker));
            }
        });
        index const merged = l.heads() / rows;
        share_out(run, rows, merged * scored * static_cast<index>(sizeof(float)),
                  [&](index begin, index end, index worker) noexcept {
                      for (index r = begin; r < end; ++r) {
                          reduce_rows(row(heads, r * merged, merged), row(values, r), group);
                          if (!pool_first) pool_in_place(row(values, r), row(pooled, worker));
                      }
                  });
        memory.rewind(top);
        undo.keep();
        return scores{values, rows, scored, scored};
    }

  private:
    /// The columns of `count` query heads of one kv head, from `first` on: sums, or means, over the voters.
    template <class T, class Cache>
    void columns(layer<T, Cache> const& l, index first, index count, index voters, std::span<float> out, index scored,
                 std::span<float> scratch) const noexcept {
        std::fill(out.begin(), out.end(), 0.0F);
        index const before = l.tokens() - voters, skipped = l.window() - voters;
        if (l.has_attention()) {
            for (index i = skipped; i < l.window(); ++i)
                simd::add_scaled(l.attention.row(first, i), 1.0F, out.data(), scored);
        } else {
            simd::softmax_columns(
                count, voters, [&](index h, index i) noexcept { return l.queries.row(first + h, skipped + i); },
                l.tokens(), [&, kv = first / l.group()](index t) noexcept { return l.keys.row(kv, t); }, l.keys.dim,
                l.logit_scale(), l.soft_cap, before + 1, out, scored, scored, scratch);
        }
        if (per_visible) {
            for (index h = 0; h < count; ++h)
                for (index t = 0; t < scored; ++t)
                    out[static_cast<std::size_t>(h * scored + t)] /=
                        static_cast<float>(std::min(voters, l.tokens() - t));
        } else if (mean_queries) {
            for (float& x : out) x /= static_cast<float>(voters);
        }
    }

    void pool_in_place(std::span<float> values, std::span<float> scratch) const noexcept {
        if (pool == pooling::none || kernel == 1) return;
        std::copy(values.begin(), values.end(), scratch.begin());
        pool_row(scratch, values, pool, kernel);
    }
};

}  // namespace terse::score
