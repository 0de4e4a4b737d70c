// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/slots.hpp>
#include <terse/simd/columns.hpp>
#include <terse/simd/dot.hpp>

namespace terse::score {

/// What each channel of a kv head adds to the logits: the mean square of the keys times that of the last queries of its
/// query heads. The score of ThinK, of channels where others score tokens.
struct channel_energy {
    index queries = 0;  ///< how many of the last queries count; 0: all that the layer has

    /// @param l     its keys and queries are read
    /// @return      [kv_heads, dim]; errc::bad_setting for a negative count; errc::bad_shape when the query heads are
    ///              no multiple of the kv heads, dims differ, or the layer has fewer queries than count or none;
    ///              errc::out_of_memory
    /// @complexity  O((kv_heads * tokens + heads * queries) * dim); scratch: dim floats for every 1,024 slots of a head
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (queries < 0) return errc::bad_setting;
        auto const& q = l.queries;
        index const heads = l.kv_heads(), dim = l.keys.dim, voters = queries == 0 ? q.tokens : queries;
        if (heads < 1 || q.data == nullptr || q.heads < 1 || q.heads % heads != 0 || q.dim != dim)
            return errc::bad_shape;
        if (voters < 1 || voters > q.tokens) return errc::bad_shape;

        index const blocks = slot_blocks(l.tokens()), group = q.heads / heads;
        rollback undo{memory};
        auto const values = memory.take<float>(heads * dim);
        auto const top = memory.here();
        auto const sums = memory.take<float>((heads * blocks + 2) * dim);
        if (!taken(values, sums)) return errc::out_of_memory;
        auto const row = [dim](std::span<float> all, index i) noexcept {
            return all.subspan(static_cast<std::size_t>(i * dim), static_cast<std::size_t>(dim));
        };

        for_blocks(
            heads, l.tokens(), dim, [&](index h) noexcept { return l.length(h); }, run,
            [&](index job, index h, index begin, index end) noexcept {
                simd::column_squares(
                    end - begin, [&](index t) noexcept { return l.keys.row(h, begin + t); }, row(sums, job));
            });
        auto const total = row(sums, heads * blocks), one = row(sums, heads * blocks + 1);
        for (index h = 0; h < heads; ++h) {
            auto const energy = row(values, h);
            std::fill(energy.begin(), energy.end(), 0.0F);
            for (index block = h * blocks; block < (h + 1) * blocks; ++block)
                simd::add_scaled(row(sums, block).data(), 1.0F, energy.data(), dim);
            std::fill(total.begin(), total.end(), 0.0F);
            for (index head = h * group; head < (h + 1) * group; ++head) {
                simd::column_squares(
                    voters, [&](index i) noexcept { return q.row(head, q.tokens - voters + i); }, one);
                simd::add_scaled(one.data(), 1.0F, total.data(), dim);
            }
            float const slots = static_cast<float>(std::max<index>(l.length(h), 1)),
                        votes = static_cast<float>(group * voters);
            for (std::size_t c = 0; c < energy.size(); ++c) energy[c] = energy[c] / slots * (total[c] / votes);
        }
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, dim, dim};
    }
};

}  // namespace terse::score
