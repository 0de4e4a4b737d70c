// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/columns.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/gram.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::score {

/// How unlike a block of cache slots is to the blocks that it competes with: zero or less, the higher the more.
///
/// Of each slot, the cosines of its key to those of all slots in the range; those below their mean count as 0, and so
/// does the slot itself. A block's score is minus their sum over its slots, the mean over the competing slots (its own
/// included) and over kv heads. That is adaptive R-KV's diversity [blocks, slots], negated sums over a block's rows, at
/// the columns that are used of it; the matrix of cosines is never built.
struct block_diversity {
    index block = 32;                    ///< slots of a block
    range slots{};                       ///< whole blocks: all that may go, what the means are over
    std::span<token const> competing{};  ///< blocks of the range, counted from its first; empty: all

    /// @param l     only its keys are read
    /// @return      [1, competing blocks]; errc::bad_setting for a block below one; errc::bad_shape when the slots are
    ///              not whole blocks within the layer or a block is not among them; errc::out_of_memory
    /// @complexity  O(kv_heads * competing slots^2 * dim / 2); scratch: a few floats a slot and head
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (block < 1) return errc::bad_setting;
        index const n = slots.size(), blocks = n / block, dim = l.keys.dim, heads = l.kv_heads();
        if (heads < 1 || slots.begin < 0 || n < 0 || slots.end > l.tokens() || n % block != 0) return errc::bad_shape;
        if (!std::all_of(competing.begin(), competing.end(), [=](token b) { return 0 <= b && b < blocks; }))
            return errc::bad_shape;
        index const rows = competing.empty() ? blocks : std::ssize(competing), columns = rows * block;

        rollback undo{memory};
        auto const values = memory.take<float>(rows);
        auto const top = memory.here();
        auto const totals = memory.take<float>(heads * columns);
        index const each = n + 2 * columns + dim + simd::gram_scratch(dim);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, totals, scratch)) return errc::out_of_memory;

        index const cost = product_cost(columns, columns / 2, dim);
        share_out(run, heads, cost, [&](index begin, index end, index worker) noexcept {
            auto left = scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
            auto const cut = [&left](index count) noexcept {
                auto const part = left.first(static_cast<std::size_t>(count));
                left = left.subspan(part.size());
                return part;
            };
            auto const all = cut(n), inverse = cut(columns), least = cut(columns), sum = cut(dim);
            for (index h = begin; h < end; ++h) {
                index const held = std::clamp<index>(l.length(h) - slots.begin, 0, n);
                auto const mine =
                    totals.subspan(static_cast<std::size_t>(h * columns), static_cast<std::size_t>(columns));
                std::fill(mine.begin(), mine.end(), 0.0F);
                if (held == 0) continue;
                // A slot that the head does not hold is like nothing.
                auto const key = [&](index t) noexcept { return l.keys.row(h, slots.begin + std::min(t, held - 1)); };
                auto const slot = [&](index row) noexcept {
                    index const b = competing.empty() ? row / block : competing.data()[row / block];
                    return b * block + row % block;
                };
                simd::inverse_norms(held, key, dim, all);
                std::fill(all.begin() + held, all.end(), 0.0F);
                std::replace_if(
                    all.begin(), all.end(), [](float x) noexcept { return !simd::is_finite(x); }, 0.0F);
                std::fill(sum.begin(), sum.end(), 0.0F);
                simd::add_weighted(n, key, all.data(), sum);
                // The mean of a key's cosines is its product with the sum of all unit keys, less itself.
                for (index row = 0; row < columns; ++row) {
                    auto const at = static_cast<std::size_t>(row);
                    index const t = slot(row);
                    inverse[at] = all[static_cast<std::size_t>(t)];
                    float const own = inverse[at] != 0 ? 1.0F : 0.0F;
                    least[at] = (simd::dot(key(t), sum.data(), dim) * inverse[at] - own) / static_cast<float>(n);
                }
                simd::gram_reaching(
                    columns, [&](index row) noexcept { return key(slot(row)); }, dim, inverse, least, mine, left);
            }
        });
        for (index row = 0; row < rows; ++row) {
            double sum = 0;
            for (index h = 0; h < heads; ++h)
                for (index i = row * block; i < (row + 1) * block; ++i)
                    sum += static_cast<double>(totals[static_cast<std::size_t>(h * columns + i)]);
            values[static_cast<std::size_t>(row)] = static_cast<float>(-sum / static_cast<double>(heads * columns));
        }
        memory.rewind(top);
        undo.keep();
        return scores{values, 1, rows, rows};
    }
};

}  // namespace terse::score
