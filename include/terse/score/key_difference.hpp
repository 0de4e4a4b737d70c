// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/slots.hpp>
#include <terse/simd/columns.hpp>
#include <terse/simd/dots.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::score {

/// How unlike a key is to its head's mean direction: the negated cosine between it and the mean of all keys at length
/// one. A zero key has the cosine 0. Keys whose square is not finite (NaN among them) have the score NaN and no part in
/// the mean.
struct key_difference {
    /// @param l     only its keys are read, twice
    /// @return      [kv_heads, tokens], on [-1, 1]; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim); scratch: a float a slot, and dim for every 1,024 slots of a
    ///              head
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const heads = l.kv_heads(), n = l.tokens(), dim = l.keys.dim, blocks = slot_blocks(n);
        rollback undo{memory};
        auto const values = memory.take<float>(heads * n);
        auto const top = memory.here();
        auto const inverses = memory.take<float>(heads * n);
        auto const sums = memory.take<float>(heads * blocks * dim);
        auto const anchors = memory.take<float>(heads * dim);
        if (!taken(values, inverses, sums, anchors)) return errc::out_of_memory;
        auto const length = [&](index h) noexcept { return l.length(h); };

        for_blocks(heads, n, dim, length, run, [&](index job, index h, index begin, index end) noexcept {
            auto const sum = sums.subspan(static_cast<std::size_t>(job * dim), static_cast<std::size_t>(dim));
            std::fill(sum.begin(), sum.end(), 0.0F);
            for (; begin < end; begin += near_slots) {
                index const count = std::min(near_slots, end - begin);
                float* const norms = inverses.data() + h * n + begin;
                simd::squared_norms(begin, count, rows_of_head(l.keys, h), dim, norms);
                for (index i = 0; i < count; ++i)
                    norms[i] = simd::is_finite(norms[i]) ? simd::inverse_norm(norms[i]) : no_score;
                simd::add_weighted(
                    count, [&](index i) noexcept { return l.keys.row(h, begin + i); }, norms, sum);
            }
        });
        std::fill(anchors.begin(), anchors.end(), 0.0F);
        for (index h = 0; h < heads; ++h) {
            float* const anchor = anchors.data() + h * dim;
            for (index block = h * blocks; block < (h + 1) * blocks; ++block)
                simd::add_scaled(sums.data() + block * dim, 1.0F, anchor, dim);
            float const inverse = simd::inverse_norm(simd::squared_norm(anchor, dim));
            for (index c = 0; c < dim; ++c) anchor[c] *= -inverse;
        }
        for_slots(heads, n, dim, length, values, run, [&](index h, index begin, index end, float* out) noexcept {
            simd::dots(begin, end, length(h), rows_of_head(l.keys, h), anchors.data() + h * dim, dim, out);
            float const* const norms = inverses.data() + h * n + begin;
            for (index i = 0; i < end - begin; ++i) out[i] *= norms[i];
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, n, n};
    }

  private:
    static constexpr index near_slots = 64;  // whose keys are in the first cache when they are met again
};

}  // namespace terse::score
