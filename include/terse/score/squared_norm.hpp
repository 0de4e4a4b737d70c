// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/slots.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/dots.hpp>

namespace terse::score {

/// Which of a slot's squared norms count.
enum class norm_of : unsigned char { keys, values, mean, product };

/// The squared norms of a slot's key and value, each as a share of its block's: what a slot adds to its neighbourhood.
/// A slot's score is its share of the head's sum; blocks and heads of nothing but zeros have shares of 0. A norm that
/// is not finite makes the slot's score NaN and has no part in any sum.
struct squared_norm {
    norm_of what = norm_of::product;
    index block = 16;  ///< slots that are compared with each other first; 0: none, the norms are taken as they are

    /// @param l     its keys and values are read as far as they count
    /// @return      [kv_heads, tokens], sums of 1; errc::bad_setting for a negative block; errc::bad_shape when keys
    ///              and values differ in heads or tokens; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim); scratch: tokens floats for each kv head
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const heads = l.kv_heads(), n = l.tokens();
        if (block < 0) return errc::bad_setting;
        bool const of_keys = what != norm_of::values, of_values = what != norm_of::keys;
        if (of_values && (l.values.heads != heads || l.values.tokens != n)) return errc::bad_shape;

        rollback undo{memory};
        auto const values = memory.take<float>(heads * n);
        auto const top = memory.here();
        auto const others = memory.take<float>(of_keys && of_values ? heads * n : 0);
        if (!taken(values, others)) return errc::out_of_memory;
        if (of_keys) squares(l, l.keys, values, run);
        if (of_values) squares(l, l.values, of_keys ? others : values, run);

        share_out(run, heads, n * size_of<float> * 4, [&](index begin, index end, index) noexcept {
            for (index h = begin; h < end; ++h) {
                auto const held = static_cast<std::size_t>(l.length(h)), at = static_cast<std::size_t>(h * n);
                auto const row = values.subspan(at, held);
                divide_blocks(row);
                if (of_keys && of_values) {
                    auto const other = others.subspan(at, held);
                    divide_blocks(other);
                    if (what == norm_of::product) {
                        for (std::size_t t = 0; t < held; ++t) row[t] *= other[t];
                    } else {
                        for (std::size_t t = 0; t < held; ++t) row[t] = (row[t] + other[t]) / 2;
                    }
                }
                divide_by_sum(row);
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, n, n};
    }

  private:
    template <class Layer, class Cache, executor Run>
    static void squares(Layer const& l, Cache const& rows, std::span<float> out, Run const& run) noexcept {
        for_slots(
            rows.heads, rows.tokens, rows.dim, [&](index h) noexcept { return l.length(h); }, out, run,
            [&](index h, index begin, index end, float* to) noexcept {
                simd::squared_norms(
                    begin, end - begin, [&](index t) noexcept { return rows.row(h, t); }, rows.dim, to);
            });
    }

    void divide_blocks(std::span<float> row) const noexcept {
        if (block == 0) return;
        for (std::size_t at = 0; at < row.size(); at += static_cast<std::size_t>(block))
            divide_by_sum(row.subspan(at, std::min(static_cast<std::size_t>(block), row.size() - at)));
    }

    static void divide_by_sum(std::span<float> row) noexcept {
        auto const count = std::ssize(row);
        float sum = simd::sum(row.data(), count);
        if (!simd::is_finite(sum)) {
            for (float& x : row) x = simd::is_finite(x) ? x : no_score;
            sum = 0;
            for (float const x : row) sum += simd::is_nan(x) ? 0.0F : x;
        }
        if (sum == 0) return;
        for (float& x : row) x /= sum;
    }
};

}  // namespace terse::score
