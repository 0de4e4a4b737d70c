// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/attention_shape.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/softmax_columns.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::score {

/// What a query's attention to a slot counts for.
enum class hit : unsigned char {
    above_uniform,   ///< 1 where it is more than an equal share among the slots that the query sees
    above_quantile,  ///< 1 where it is above a quantile of the query's attention
    attention,       ///< itself
};

/// How often slots are hit by the last queries of a layer, added up over the query heads of a kv head: the score of
/// Scissorhands.
///
/// Attention is read from `layer::attention` where the engine has it, else recomputed in tiles; no attention matrix is
/// ever built. Counting by a quantile needs whole rows, and so takes a query at a time. With `layer::log_sum_exp`
/// nothing is kept for each slot; to be more than an equal share, attention must then be more by 2^-15 of it, so that
/// rounding of those logs hits nothing.
struct hits {
    index queries = 0;  ///< how many of the last queries count; 0: all that the layer has
    hit counted = hit::above_uniform;
    double quantile = 0.9;     ///< in [0, 1], of what a query sees
    bool per_visible = false;  ///< divide by the number of queries that see a slot: younger slots had fewer chances

    /// @param l     keys and queries, or attention; see `check_attention`
    /// @return      [kv_heads, tokens]; NaN in slots that a head does not hold. errc::bad_setting for a negative count
    ///              or a quantile that is none; errc::bad_shape when the layer has fewer queries, and by
    ///              `check_attention`; errc::out_of_memory
    /// @complexity  O(heads * queries * tokens * dim); scratch: a tile row of exponentials for each key and worker,
    ///              or a row for a quantile
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (errc const error = check(l); error != errc::ok) return error;
        rollback undo{memory};
        index const n = l.tokens();
        auto const values = memory.take<float>(l.kv_heads() * n);
        if (!taken(values)) return errc::out_of_memory;
        auto const row = [&](index kv) noexcept {
            return values.subspan(static_cast<std::size_t>(kv * n), static_cast<std::size_t>(n));
        };
        std::fill(values.begin(), values.end(), 0.0F);
        if (errc const error = add(l, row, memory, run); error != errc::ok) return error;
        for (index kv = 0; kv < l.kv_heads(); ++kv) {
            auto const own = row(kv);
            if (per_visible)
                for_each_visible(l, kv, [&](std::size_t t, float count) { own[t] /= std::max(count, 1.0F); });
            std::fill(own.begin() + l.length(kv), own.end(), no_score);
        }
        undo.keep();
        return scores{values, l.kv_heads(), n, n};
    }

    /// The errors of the call above, but for memory.
    template <class T, class Cache>
    [[nodiscard]] errc check(layer<T, Cache> const& l) const noexcept {
        if (queries < 0 || !(quantile >= 0 && quantile <= 1)) return errc::bad_setting;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        return queries > l.window() ? errc::bad_shape : errc::ok;
    }

    /// Adds the hits of each kv head to sums that the caller keeps, undivided.
    /// @param row     callable kv -> the sums of its slots, at least as many as the head holds; called once a head,
    ///                after all that may fail
    /// @param memory  scratch, given back
    /// @pre           check(l) == errc::ok
    /// @return        errc::out_of_memory, with the sums as they were
    template <class T, class Cache, class Row, executor Run = serial>
    errc add(layer<T, Cache> const& l, Row const& row, arena& memory, Run const& run = {}) const noexcept {
        bool const whole_rows = counted == hit::above_quantile, computed = !l.has_attention();
        index const n = l.tokens(), rank_count = whole_rows ? simd::top_k_scratch(n) : 0;
        index const heads = whole_rows ? 1 : l.group(), at_once = whole_rows ? 1 : voters(l);
        index const tiles =
            computed ? simd::softmax_columns_scratch(attention_shape(l, heads, at_once, n, l.has_log_sum_exp())) : 0;
        index const each = tiles + (computed && whole_rows ? n : 0);
        rollback const scratch_only{memory};
        auto const room = memory.take<float>(run.workers() * each);
        auto const ranks = memory.take<std::int32_t>(run.workers() * rank_count);
        if (!taken(room, ranks)) return errc::out_of_memory;
        index const seeing = l.group() * voters(l);
        index const cost = computed ? product_cost(n, seeing, l.keys.dim) : n * seeing * size_of<float>;
        share_out(run, l.kv_heads(), cost, [&](index begin, index end, index worker) noexcept {
            auto const own = [worker](auto all, index size) noexcept {
                return all.subspan(static_cast<std::size_t>(worker * size), static_cast<std::size_t>(size));
            };
            for (index kv = begin; kv < end; ++kv) {
                auto const out = row(kv);
                if (whole_rows)
                    add_above_quantile(l, kv, out, own(room, each), own(ranks, rank_count));
                else if (computed)
                    add_computed(l, kv, out, own(room, each));
                else
                    add_given(l, kv, out);
            }
        });
        return errc::ok;
    }

    /// Calls use(slot, count) with how many of the queries see each slot of a kv head.
    template <class T, class Cache, class Use>
    void for_each_visible(layer<T, Cache> const& l, index kv, Use&& use) const noexcept {
        index blind = l.window() - voters(l);  // queries up to the first that sees slot t
        for (index t = 0; t < l.length(kv); ++t) {
            while (blind < l.window() && l.visible(kv, blind) <= t) ++blind;
            use(static_cast<std::size_t>(t), static_cast<float>(l.window() - blind));
        }
    }

  private:
    template <class T, class Cache>
    [[nodiscard]] index voters(layer<T, Cache> const& l) const noexcept {
        return queries == 0 ? l.window() : queries;
    }

    template <class T, class Cache>
    void add_given(layer<T, Cache> const& l, index kv, std::span<float> out) const noexcept {
        index const stride = l.attention.head_stride;
        for (index i = l.window() - voters(l); i < l.window(); ++i) {
            float const* const rows = l.attention.row(kv * l.group(), i);
            index const seen = l.visible(kv, i);
            if (counted == hit::above_uniform)
                simd::add_hits(rows, stride, l.group(), 1 / static_cast<float>(seen), out.data(), seen);
            for (index h = 0; counted == hit::attention && h < l.group(); ++h)
                simd::add_scaled(rows + h * stride, 1.0F, out.data(), l.length(kv));
        }
    }

    template <class T, class Cache>
    void add_computed(layer<T, Cache> const& l, index kv, std::span<float> out, std::span<float> room) const noexcept {
        index const head = kv * l.group(), skipped = l.window() - voters(l);
        float const least = l.has_log_sum_exp() ? 1 - 0x1p-15F : 1.0F;
        auto const seen = [&](index i) noexcept { return least * static_cast<float>(l.visible(kv, skipped + i)); };
        if (counted == hit::above_uniform)
            collect<simd::collect::hits>(l, head, l.group(), skipped, voters(l), seen, out, room);
        else
            collect<simd::collect::sums>(l, head, l.group(), skipped, voters(l), simd::once{}, out, room);
    }

    template <class T, class Cache>
    void add_above_quantile(layer<T, Cache> const& l, index kv, std::span<float> out, std::span<float> room,
                            std::span<std::int32_t> ranks) const noexcept {
        for (index i = l.window() - voters(l); i < l.window(); ++i) {
            index const seen = l.visible(kv, i);
            if (seen < 1) continue;
            // What is above the quantile between two values is above the lower one.
            index const above = seen - static_cast<index>(quantile * static_cast<double>(seen - 1));
            for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h) {
                std::span<float const> row{l.has_attention() ? l.attention.row(h, i) : room.data(),
                                           static_cast<std::size_t>(seen)};
                if (!l.has_attention()) {
                    std::fill_n(room.begin(), seen, 0.0F);
                    collect<simd::collect::sums>(l, h, 1, i, 1, simd::once{}, room.first(row.size()),
                                                 room.subspan(static_cast<std::size_t>(l.tokens())));
                }
                auto const lower = simd::find_threshold<simd::default_arch>(row, above, ranks).rank;
                simd::add_hits(row.data(), 0, 1, std::bit_cast<float>(std::max(lower, 0)), out.data(), seen);
            }
        }
    }

    /// Adds what `count` queries of `heads` query heads of one kv head give to its slots, from the first of each on.
    template <simd::collect How, class T, class Cache, class Weight>
    static void collect(layer<T, Cache> const& l, index first_head, index heads, index first, index count,
                        Weight weight, std::span<float> out, std::span<float> room) noexcept {
        index const kv = first_head / l.group();
        simd::softmax_columns<simd::default_arch, simd::element::single, How>(
            attention_shape(l, heads, count, l.length(kv), l.has_log_sum_exp()),
            [&](index h, index i) noexcept { return l.queries.row(first_head + h, first + i); },
            rows_of_head(l.keys, kv), [&](index i) noexcept { return l.visible(kv, first + i); },
            {out, 0, std::min(l.length(kv), std::ssize(out))}, room, weight,
            [&](index h, index i) noexcept { return l.log_sum_exp.row(first_head + h)[first + i]; });
    }
};

}  // namespace terse::score
