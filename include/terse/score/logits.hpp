// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/dots.hpp>

namespace terse::score {

/// The logits that slots have with the last queries of a layer: the mean over query heads of scale * <q, k>, summed
/// over the queries, without softmax or mask. The score of PromptDistill and, across heads, of Deep Forcing.
///
/// A sum of products with one key is the product with the summed query, so that each key is read once for all heads
/// that share it; with a soft cap, which is not linear, once for each query and head.
struct logits {
    index queries = 1;          ///< how many of the last queries count; 0: all that the layer has
    index recent = 0;           ///< last slots, left without a score
    bool across_heads = false;  ///< one row over all query heads, instead of one for each kv head
    pooling pool = pooling::none;
    index kernel = 1;  ///< width of the pooling, odd; it ends at the last slot with a score

    /// @param l     reads keys and queries
    /// @return      [kv_heads, scored], or [1, scored] with `across_heads`; scored = tokens - recent; NaN in slots that
    ///              a head does not hold. errc::bad_setting for a negative count or an even kernel; errc::bad_shape
    ///              when the layer has fewer queries, and by `check_attention`; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim), with a soft cap O(heads * queries * tokens * dim); scratch: a row of
    ///              scores a worker for the pooling, and the summed queries
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> l, arena& memory, Run const& run = {}) const noexcept {
        if (queries < 0 || recent < 0 || kernel < 1 || kernel % 2 == 0) return errc::bad_setting;
        l.attention = {};
        if (errc const error = check_attention(l); error != errc::ok) return error;
        index const voters = queries == 0 ? l.window() : queries;
        if (voters > l.window()) return errc::bad_shape;

        index const scored = std::max<index>(l.tokens() - recent, 0), dim = l.keys.dim;
        index const rows = across_heads ? 1 : l.kv_heads(), merged = l.kv_heads() / rows;
        index const sums = l.soft_cap > 0 ? l.group() * voters : 1;  // for each kv head
        bool const pools = pool != pooling::none && kernel > 1;
        rollback undo{memory};
        auto const values = memory.take<float>(rows * scored);
        auto const top = memory.here();
        auto const summed = memory.take<float>(l.kv_heads() * sums * dim);
        auto const pooled = memory.take<float>(pools ? run.workers() * scored : 0);
        if (!taken(values, summed, pooled)) return errc::out_of_memory;

        sum_queries(l, voters, sums, summed);
        float const heads = static_cast<float>(merged * l.group());
        index const blocks = (scored + block - 1) / block;
        index const cost = merged * product_cost(block, sums, dim);
        share_out(run, rows * blocks, cost, [&](index begin, index end, index) noexcept {
            for (; begin < end; ++begin) {
                index const r = begin / blocks, first = begin % blocks * block, count = std::min(block, scored - first);
                std::span const out{values.data() + r * scored + first, static_cast<std::size_t>(count)};
                std::fill(out.begin(), out.end(), 0.0F);
                for (index kv = r * merged; kv < (r + 1) * merged; ++kv)
                    add(l, kv, first, summed.data() + kv * sums * dim, sums, heads, out);
            }
        });
        if (pools) {
            share_out(run, rows, scored * kernel, [&](index begin, index end, index worker) noexcept {
                for (; begin < end; ++begin) {
                    index const held = across_heads ? shortest(l) : l.length(begin);
                    auto const count = static_cast<std::size_t>(std::min(held, scored));
                    std::span const row{values.data() + begin * scored, count};
                    std::span const copy{pooled.data() + worker * scored, count};
                    std::copy(row.begin(), row.end(), copy.begin());
                    pool_row(copy, row, pool, kernel);
                }
            });
        }
        memory.rewind(top);
        undo.keep();
        return scores{values, rows, scored, scored};
    }

  private:
    static constexpr index block = 256;  // slots: their sums stay in the first cache while head after head is added

    template <class T, class Cache>
    static void sum_queries(layer<T, Cache> const& l, index voters, index sums, std::span<float> out) noexcept {
        std::fill(out.begin(), out.end(), 0.0F);
        for (index h = 0; h < l.heads(); ++h)
            for (index i = 0; i < voters; ++i) {
                index const each = sums == 1 ? 0 : h % l.group() * voters + i;
                simd::add_scaled(l.queries.row(h, l.window() - voters + i), 1.0F,
                                 out.data() + (h / l.group() * sums + each) * l.keys.dim, l.keys.dim);
            }
    }

    /// Adds the logits of slots first, first + 1, ... of one kv head, divided by `heads`.
    template <class T, class Cache>
    static void add(layer<T, Cache> const& l, index kv, index first, float const* query, index sums, float heads,
                    std::span<float> out) noexcept {
        std::array<float, block> products;
        index const held = std::clamp<index>(l.length(kv) - first, 0, std::ssize(out));
        float const scale = l.logit_scale();
        auto const key = rows_of_head(l.keys, kv);
        for (index s = 0; s < sums; ++s) {
            simd::dots(first, first + held, l.length(kv), key, query + s * l.keys.dim, l.keys.dim, products.data());
            if (l.soft_cap > 0) {
                float const cap = l.soft_cap;
                for (float& x : std::span{products}.first(static_cast<std::size_t>(held)))
                    x = cap * std::tanh(x * scale / cap);
                simd::add_scaled(products.data(), 1.0F / heads, out.data(), held);
            } else {
                simd::add_scaled(products.data(), scale / heads, out.data(), held);
            }
        }
        std::fill(out.begin() + held, out.end(), no_score);
    }

    template <class T, class Cache>
    [[nodiscard]] static index shortest(layer<T, Cache> const& l) noexcept {
        index least = l.tokens();
        for (index h = 0; h < l.kv_heads(); ++h) least = std::min(least, l.length(h));
        return least;
    }
};

}  // namespace terse::score
