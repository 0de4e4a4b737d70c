// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/slots.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::score {

/// How unlike a key is to its head's mean direction: the negated cosine between it and the mean of all keys at length
/// one. A zero key has the cosine 0. Keys whose square is not finite (NaN among them) have the score NaN and no part in
/// the mean.
struct key_difference {
    /// @param l     only its keys are read, twice
    /// @return      [kv_heads, tokens], on [-1, 1]; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim); scratch: dim floats for every 1,024 slots of a head
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const heads = l.kv_heads(), n = l.tokens(), dim = l.keys.dim, blocks = slot_blocks(n);
        rollback undo{memory};
        auto const values = memory.take<float>(heads * n);
        auto const top = memory.here();
        auto const sums = memory.take<float>(heads * blocks * dim);
        auto const anchors = memory.take<float>(heads * dim);
        if (!taken(values, sums, anchors)) return errc::out_of_memory;
        auto const length = [&](index h) noexcept { return l.length(h); };

        // What a key is divided by waits in the place of its score.
        for_blocks(heads, n, 2 * dim, length, run, [&](index job, index h, index begin, index end) noexcept {
            float* const sum = sums.data() + job * dim;
            std::fill_n(sum, dim, 0.0F);
            for_rows(
                begin, end, dim, [&](index t) noexcept { return l.keys.row(h, t); },
                [&](index t, auto key) noexcept {
                    float const square = simd::squared_norm(key, dim), inverse = simd::inverse_norm(square);
                    bool const counts = simd::is_finite(square);
                    values[static_cast<std::size_t>(h * n + t)] = counts ? inverse : no_score;
                    if (counts) simd::add_scaled(key, inverse, sum, dim);
                });
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
            for_rows(
                begin, end, dim, [&](index t) noexcept { return l.keys.row(h, t); },
                [&](index, auto key) noexcept { *out++ *= simd::dot(key, anchors.data() + h * dim, dim); });
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, n, n};
    }
};

}  // namespace terse::score
