// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/last_similar.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::score {

/// How much other keys of a head are like a key, negated: the softmax over the keys of the mean cosine with all others,
/// where every key leaves the last one that is like it out of its count. R-KV's redundancy.
///
/// The mean over all keys is one product with the sum of their directions; only the one left out is searched for, and no
/// matrix of cosines is ever built.
struct redundancy {
    float threshold = 0.5F;      ///< a cosine above which two keys are alike
    bool forgive_first = false;  ///< a key that no other is like leaves the first slot out, as the published code does

    /// @param l     only its keys are read
    /// @return      [kv_heads, tokens], of each head the negated values of a distribution over its slots; NaN past them,
    ///              and where a key's norm is not finite. errc::bad_setting for a threshold that is NaN;
    ///              errc::out_of_memory
    /// @complexity  O(kv_heads * tokens^2 * dim / 2) at most, see `simd::last_similar`; scratch: some floats for each
    ///              token and worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (simd::is_nan(threshold)) return errc::bad_setting;
        if (l.kv_heads() < 1 || l.tokens() < 0 || (l.keys.data == nullptr && l.tokens() > 0)) return errc::bad_shape;
        index const n = l.tokens(), dim = l.keys.dim, each = simd::last_similar_scratch(n, dim);

        rollback undo{memory};
        auto const values = memory.take<float>(l.kv_heads() * n);
        auto const top = memory.here();
        auto const inverses = memory.take<float>(run.workers() * n);
        auto const sums = memory.take<float>(run.workers() * dim);
        auto const lasts = memory.take<token>(run.workers() * n);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, inverses, sums, lasts, scratch)) return errc::out_of_memory;
        auto const part = [](auto all, index i, index size, index used) noexcept {
            return all.subspan(static_cast<std::size_t>(i * size), static_cast<std::size_t>(used));
        };
        share_out(run, l.kv_heads(), n * n * dim / 2, [&](index begin, index end, index worker) noexcept {
            for (index h = begin; h < end; ++h) {
                index const used = l.length(h);
                auto const row = part(values, h, n, n);
                std::fill(row.begin() + used, row.end(), std::numeric_limits<float>::quiet_NaN());
                of_head(l, h, row.first(static_cast<std::size_t>(used)), part(inverses, worker, n, used),
                        part(sums, worker, dim, dim), part(lasts, worker, n, used), part(scratch, worker, each, each));
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, l.kv_heads(), n, n};
    }

  private:
    template <class T, class Cache>
    void of_head(layer<T, Cache> const& l, index h, std::span<float> values, std::span<float> inverse,
                 std::span<float> sum, std::span<token> last, std::span<float> scratch) const noexcept {
        index const n = std::ssize(values), dim = l.keys.dim;
        auto const key = [&](index t) noexcept { return l.keys.row(h, t); };
        std::fill(sum.begin(), sum.end(), 0.0F);
        for (index t = 0; t < n; ++t) {
            // What each key is to itself; NaN marks a key that takes no part.
            float const square = simd::squared_norm(key(t), dim);
            float& norm = inverse[static_cast<std::size_t>(t)];
            norm = simd::is_finite(square) ? simd::inverse_norm(square) : 0.0F;
            values[static_cast<std::size_t>(t)] =
                simd::is_finite(square) ? -square * norm * norm : std::numeric_limits<float>::quiet_NaN();
            if (norm > 0) simd::add_scaled(key(t), norm, sum.data(), dim);
        }
        for (index t = 0; t < n; ++t) {
            float const norm = inverse[static_cast<std::size_t>(t)];
            if (norm > 0) values[static_cast<std::size_t>(t)] += simd::dot(key(t), sum.data(), dim) * norm;
        }
        simd::last_similar(n, key, dim, inverse, threshold, last, scratch);
        for (index t = 0; t < n; ++t) {
            index const like = last[static_cast<std::size_t>(t)];
            if (like < 0 && (!forgive_first || t == 0)) continue;
            auto const left_out = static_cast<std::size_t>(std::max<index>(like, 0));
            float const norms = inverse[static_cast<std::size_t>(t)] * inverse[left_out];
            if (norms > 0) values[left_out] -= simd::dot(key(t), key(static_cast<index>(left_out)), dim) * norms;
        }

        float highest = -std::numeric_limits<float>::infinity(), total = 0;
        for (float const x : values) highest = x > highest ? x : highest;
        for (float& x : values) {
            if (simd::is_nan(x)) continue;
            x = std::exp((x - highest) / static_cast<float>(n));
            total += x;
        }
        for (float& x : values) x /= -total;
    }
};

}  // namespace terse::score
