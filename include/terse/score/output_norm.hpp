// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/absolute_products.hpp>

namespace terse::score {

/// How far a slot's value reaches into the layer's output: the L1 norm of the value after the output projection, as the
/// mean over the query heads that share it. The perturbation that CriticalKV bounds is at most attention times this.
///
/// It depends on the slot alone: an engine may compute it when slots are appended, and keep it.
template <class Weight = float>
struct output_norm {
    tokens_view<Weight>
        projection{};  ///< [hidden, heads * dim]: the output projection's weight, as its layer stores it

    /// @param l     its values are read; the heads follow from the projection
    /// @return      [kv_heads, tokens], NaN past a head's length; errc::bad_shape when the projection's columns are
    ///              not whole heads of the values' dim, in groups; errc::out_of_memory
    /// @complexity  O(heads * tokens * dim * hidden); scratch: some hundred rows of values for each worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const dim = l.values.dim, tokens = l.values.tokens, kv_heads = l.values.heads;
        index const width = kv_heads * dim, hidden = projection.tokens;
        if (width <= 0 || tokens != l.tokens() || kv_heads != l.kv_heads()) return errc::bad_shape;
        if (projection.data == nullptr || projection.dim < width || projection.dim % width != 0) return errc::bad_shape;
        index const group = projection.dim / width;

        rollback undo{memory};
        auto const values = memory.take<float>(kv_heads * tokens);
        auto const top = memory.here();
        index const each = simd::absolute_products_scratch(dim);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, scratch)) return errc::out_of_memory;
        auto const part = [](std::span<float> all, index first, index count) noexcept {
            return all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
        };

        // The weights pass by once for a block of slots, whatever the cut: so blocks are as large as the kernel's.
        index const blocks = (tokens + simd::absolute_rows - 1) / simd::absolute_rows;
        share_out(run, kv_heads * blocks, product_cost(simd::absolute_rows, group * hidden, dim),
                  [&](index begin, index end, index worker) noexcept {
                      for (index block = begin; block < end; ++block) {
                          index const kv = block / blocks, first = block % blocks * simd::absolute_rows;
                          index const room = std::min(simd::absolute_rows, tokens - first);
                          index const count = std::clamp<index>(length_of(l.values, kv) - first, 0, room);
                          auto const out = part(values, kv * tokens + first, room);
                          std::fill_n(out.begin(), count, 0.0F);
                          std::fill(out.begin() + count, out.end(), no_score);
                          auto const value = [&](index t) noexcept { return l.values.row(kv, first + t); };
                          auto const weight = [&](index i) noexcept {
                              return projection.row(i % hidden) + (kv * group + i / hidden) * dim;
                          };
                          simd::add_absolute_products(count, value, group * hidden, weight, dim, out,
                                                      part(scratch, worker * each, each));
                          for (float& x : out) x /= static_cast<float>(group);
                      }
                  });
        memory.rewind(top);
        undo.keep();
        return scores{values, kv_heads, tokens, tokens};
    }
};

/// Scores weighed by other ones: (s + epsilon) * weight.
///
/// @param weights  [rows, s.tokens], or more tokens
/// @return         [rows, s.tokens]; errc::bad_shape, errc::out_of_memory
[[nodiscard]] inline result<scores> weigh(scores const& s, scores const& weights, float epsilon,
                                          arena& memory) noexcept {
    if (weights.heads != s.heads || weights.tokens < s.tokens) return errc::bad_shape;
    auto const weighed = memory.take<float>(s.heads * s.tokens);
    if (!taken(weighed)) return errc::out_of_memory;
    for (index h = 0; h < s.heads; ++h) {
        float const *const x = s.row(h).data(), *const weight = weights.row(h).data();
        float* const out = weighed.data() + h * s.tokens;
        for (index t = 0; t < s.tokens; ++t) out[t] = (x[t] + epsilon) * weight[t];
    }
    return scores{weighed, s.heads, s.tokens, s.tokens};
}

}  // namespace terse::score
