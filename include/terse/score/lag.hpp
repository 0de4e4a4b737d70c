// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/rank.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/columns.hpp>
#include <terse/simd/softmax.hpp>

namespace terse::score {

/// How uneven a slot looks in the scale of the slots that come after it: the score of LagKV.
///
/// The slots after the sinks are cut into partitions. A key or value of a partition is brought to the scale of the next
/// one, whose least value of a channel becomes 0 and whose greatest 1; its deviation over the channels, by a softmax
/// over the partition, is half of the score. Sinks, the last whole partition and what follows it have the score 1;
/// where there are no two partitions, a slot's score grows with its place instead. Channels that are constant over the
/// next partition are left out. A slot whose deviation is not finite has the score NaN.
///
/// While decoding (`once`), a partition is as many consecutive positions from the sinks on. One that has lost slots was
/// scored before: it has the score 1 like the sinks, and partitions are counted from the next one on.
struct lag {
    index sinks = 4;        ///< first slots, which are in no partition
    index partition = 128;  ///< slots of a partition
    bool ranks = true;      ///< a slot's rank in its partition over `partition`, so that all partitions keep as many
    bool once = false;      ///< partitions that have lost slots are not scored again; sinks are positions

    /// Last slots of `tokens` that have no score of their own.
    [[nodiscard]] constexpr index unscored(index tokens) const noexcept {
        index const partitions = count(tokens);
        return partitions < 2 ? 0 : tokens - sinks - (partitions - 1) * partition;
    }

    /// The slots of kv head h that have a score of their own: partitions, all but the last.
    /// @complexity  O(log tokens) with `once`, else constant
    template <class T, class Cache>
    [[nodiscard]] constexpr range scored(layer<T, Cache> const& l, index h) const noexcept {
        index const begin = first(l, h), partitions = (l.length(h) - begin) / partition;
        return {begin, begin + std::max<index>(partitions - 1, 0) * partition};
    }

    /// @param l     its keys and values are read; with `once` also its positions
    /// @return      [kv_heads, tokens]; errc::bad_setting for negative sinks or a partition below one; errc::bad_shape
    ///              when keys and values differ in heads or tokens, or positions have another shape;
    ///              errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * (dim + log partition)), keys and values once from memory where two
    ///              partitions fit a cache; scratch a worker: 2 * dim floats and 2 * partition
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const heads = l.kv_heads(), n = l.tokens();
        if (sinks < 0 || partition < 1) return errc::bad_setting;
        if (l.values.heads != heads || l.values.tokens != n) return errc::bad_shape;
        if (once && !has_positions_of_all(l)) return errc::bad_shape;

        index most = 0;  // partitions to score of a head
        for (index h = 0; h < heads; ++h) most = std::max(most, scored(l, h).size() / partition);
        index const width = most == 0 ? 0 : partition, dim = std::max(l.keys.dim, l.values.dim);
        rollback undo{memory};
        auto const values = memory.take<float>(heads * n);
        auto const top = memory.here();
        auto const floats = memory.take<float>(run.workers() * 2 * (width + dim));
        auto const order = memory.take<std::int64_t>(run.workers() * width);
        if (!taken(values, floats, order)) return errc::out_of_memory;

        for (index h = 0; h < heads; ++h)
            fill_unscored(values.subspan(static_cast<std::size_t>(h * n), static_cast<std::size_t>(n)), l.length(h));
        share_out(run, heads * most, width * dim * size_of<float>, [&](index begin, index end, index worker) noexcept {
            auto const mine = [&](index each, auto all) noexcept {
                return all.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
            };
            auto const scratch = mine(2 * (width + dim), floats);
            for (index job = begin; job < end; ++job) {
                index const h = job / most;
                range const own = scored(l, h);
                index const begins = own.begin + job % most * partition;
                if (begins >= own.end) continue;
                auto const out =
                    values.subspan(static_cast<std::size_t>(h * n + begins), static_cast<std::size_t>(partition));
                auto const of_keys = scratch.first(out.size()), of_values = scratch.subspan(out.size(), out.size());
                deviations(l.keys, h, begins, of_keys, scratch.subspan(2 * out.size()));
                deviations(l.values, h, begins, of_values, scratch.subspan(2 * out.size()));
                combine(of_keys, of_values, out);
                if (ranks) replace_by_rank(out, mine(width, order));
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, n, n};
    }

  private:
    /// Whole partitions.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return std::max<index>(tokens - sinks, 0) / partition;
    }

    /// Where the partitions of kv head h begin.
    template <class T, class Cache>
    [[nodiscard]] constexpr index first(layer<T, Cache> const& l, index h) const noexcept {
        index const held = l.length(h);
        auto const own = once ? l.positions_of(h) : std::span<token const>{};
        if (own.empty()) return std::min(sinks, held);
        // Behind the last slot that was lost, from the next partition's first position on.
        index const lost = own.back() - (held - 1);
        auto const next =
            std::partition_point(own.begin(), own.end(), [&](token const& p) { return p - (&p - own.data()) < lost; });
        index const position = *next, rest = (position - sinks) % partition;
        index const skip = position < sinks ? sinks - position : rest == 0 ? 0 : partition - rest;
        return next - own.begin() + std::min(skip, own.end() - next);
    }

    void fill_unscored(std::span<float> row, index held) const noexcept {
        auto const end = row.begin() + held;
        std::fill(row.begin(), end, 1.0F);
        std::fill(end, row.end(), no_score);
        if (once || count(held) >= 2) return;
        for (index t = sinks; t < held; ++t)
            row[static_cast<std::size_t>(t)] = static_cast<float>(t - sinks) / static_cast<float>(held - sinks);
    }

    /// Of the rows of the partition that begins at `first`, in the scale of the one after it.
    template <class Cache>
    void deviations(Cache const& rows, index h, index first, std::span<float> out,
                    std::span<float> scratch) const noexcept {
        auto const dim = static_cast<std::size_t>(rows.dim);
        auto const least = scratch.first(dim), factor = scratch.subspan(dim, dim);
        simd::column_bounds(
            partition, [&](index t) noexcept { return rows.row(h, first + partition + t); }, least, factor);
        index varying = 0;
        for (std::size_t c = 0; c < dim; ++c) {
            float const range = factor[c] - least[c], inverse = 1 / range;
            bool const counts = range > 0 && simd::is_finite(range) && simd::is_finite(inverse);
            varying += counts ? 1 : 0;
            factor[c] = counts ? inverse : 0.0F;
            least[c] = counts ? least[c] : 0.0F;
        }
        std::fill(out.begin(), out.end(), 0.0F);
        if (varying < 2) return;
        simd::scaled_deviations(
            partition, [&](index t) noexcept { return rows.row(h, first + t); }, least, factor, varying, out.data());
    }

    static void combine(std::span<float> of_keys, std::span<float> of_values, std::span<float> out) noexcept {
        for (std::size_t j = 0; j < out.size(); ++j) {
            bool const counts = simd::is_finite(of_keys[j]) && simd::is_finite(of_values[j]);
            out[j] = counts ? 0.0F : no_score;
            if (!counts) of_keys[j] = of_values[j] = no_score;
        }
        simd::softmax(of_keys);
        simd::softmax(of_values);
        for (std::size_t j = 0; j < out.size(); ++j) out[j] += (of_keys[j] + of_values[j]) / 2;
    }

    /// Rank over size, 0 for the lowest; of equals the later is lower, as in every selection.
    static void replace_by_rank(std::span<float> row, std::span<std::int64_t> order) noexcept {
        auto const size = static_cast<std::int64_t>(row.size());
        for (std::int64_t j = 0; j < size; ++j)
            order[static_cast<std::size_t>(j)] =
                std::int64_t{rank(row[static_cast<std::size_t>(j)])} * (std::int64_t{1} << 32) + (size - 1 - j);
        std::sort(order.begin(), order.end());
        for (std::size_t place = 0; place < order.size(); ++place) {
            float& score = row[static_cast<std::size_t>(size - 1 - (order[place] & 0xFFFF'FFFF))];
            if (!simd::is_nan(score)) score = static_cast<float>(place) / static_cast<float>(size);
        }
    }
};

}  // namespace terse::score
