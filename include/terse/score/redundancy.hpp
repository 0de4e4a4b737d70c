// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/columns.hpp>
#include <terse/simd/dots.hpp>
#include <terse/simd/last_similar.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/similar_sums.hpp>

namespace terse::score {

/// How much other keys of a head are like a key, negated: the softmax over the keys of the mean cosine with all others,
/// where every key leaves the last ones that are like it out of its count. R-KV's redundancy.
///
/// The mean over all keys is one product with the sum of their directions; only those left out are searched for, and no
/// matrix of cosines is ever built.
struct redundancy {
    float threshold = 0.5F;       ///< a cosine above which two keys are alike
    index forgive = 1;            ///< how many of the keys that are like it a key leaves out: the last ones
    double forgive_share = 0;     ///< as many as this share of the slots instead, at least one; 0: `forgive`
    bool forgive_oldest = false;  ///< the first ones instead of the last
    /// As the authors' code, where a key leaves out one other alone: the last that is like it, or the first slot where
    /// none is. With `forgive_oldest` it is entry `forgive`, from 1, of the ascending list that holds the slots of the
    /// keys that are like it, and the first slot for every other key: the first slot, unless nearly all are alike.
    bool published = false;

    /// @param l     only its keys are read
    /// @return      [kv_heads, tokens], of each head the negated values of a distribution over its slots; NaN past
    ///              them, and where a key's norm is not finite. errc::bad_setting for a threshold that is NaN, a
    ///              negative number or a share outside [0, 1]; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens^2 * dim / 2) at most, see `simd::last_similar` for one that is left out, and
    ///              `simd::similar_sums` for several; scratch: some floats for each token and worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (simd::is_nan(threshold) || forgive < 0 || !(forgive_share >= 0 && forgive_share <= 1))
            return errc::bad_setting;
        if (l.kv_heads() < 1 || l.tokens() < 0 || (!has_data(l.keys) && l.tokens() > 0)) return errc::bad_shape;
        index const n = l.tokens(), dim = l.keys.dim, each_left_out = leaves_last_out() ? 0 : n;
        index const of_last = simd::last_similar_scratch(n, dim), of_sums = simd::similar_sums_scratch(n, dim);
        index const each = leaves_last_out() ? of_last : std::max(of_last, of_sums);

        rollback undo{memory};
        auto const values = memory.take<float>(l.kv_heads() * n);
        auto const top = memory.here();
        auto const inverses = memory.take<float>(run.workers() * n);
        auto const sums = memory.take<float>(run.workers() * dim);
        auto const lasts = memory.take<token>(run.workers() * n);
        auto const left_out = memory.take<float>(run.workers() * each_left_out);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, inverses, sums, lasts, left_out, scratch)) return errc::out_of_memory;
        auto const part = [](auto all, index i, index size, index used) noexcept {
            return all.subspan(static_cast<std::size_t>(i * size), static_cast<std::size_t>(used));
        };
        share_out(run, l.kv_heads(), product_cost(n, n / 2, dim), [&](index begin, index end, index worker) noexcept {
            for (index h = begin; h < end; ++h) {
                index const used = l.length(h);
                auto const row = part(values, h, n, n);
                std::fill(row.begin() + used, row.end(), no_score);
                of_head(l, h, row.first(static_cast<std::size_t>(used)), part(inverses, worker, n, used),
                        part(sums, worker, dim, dim), part(lasts, worker, n, used),
                        part(left_out, worker, each_left_out, std::min(each_left_out, used)),
                        part(scratch, worker, each, each));
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, l.kv_heads(), n, n};
    }

  private:
    /// Whether one key at most is left out, the last.
    [[nodiscard]] constexpr bool leaves_last_out() const noexcept {
        return published ? !forgive_oldest : forgive <= 1 && forgive_share == 0;
    }

    template <class T, class Cache>
    void of_head(layer<T, Cache> const& l, index h, std::span<float> values, std::span<float> inverse,
                 std::span<float> sum, std::span<token> last, std::span<float> left_out,
                 std::span<float> scratch) const noexcept {
        index const n = std::ssize(values), dim = l.keys.dim;
        // The first ones are the last ones of the mirror image.
        bool const mirrored = forgive_oldest && !published;
        auto const key = [&, first = mirrored ? n - 1 : 0, step = mirrored ? -1 : 1](index t) noexcept {
            return l.keys.row(h, first + step * t);
        };
        simd::squared_norms(0, n, key, dim, values.data());
        for (std::size_t t = 0; t < values.size(); ++t) {
            // What each key is to itself; NaN marks a key that takes no part.
            float const square = values[t];
            inverse[t] = simd::is_finite(square) ? simd::inverse_norm(square) : 0.0F;
            values[t] = simd::is_finite(square) ? -square * inverse[t] * inverse[t] : no_score;
        }
        std::fill(sum.begin(), sum.end(), 0.0F);
        simd::add_weighted(n, key, inverse.data(), sum);
        for (index t = 0; t < n; ++t) {
            float const norm = inverse[static_cast<std::size_t>(t)];
            if (norm > 0) values[static_cast<std::size_t>(t)] += simd::dot(key(t), sum.data(), dim) * norm;
        }
        index const forgiven = count(n);
        // Counted from the last of those that are like a key: up to which it leaves them out, or as published, which.
        index const place = !published ? forgiven : forgive_oldest ? n - std::max<index>(forgiven, 1) + 1 : 1;
        if (place > 1) {
            simd::similar_sums(n, key, dim, inverse, threshold, place, left_out, last, scratch);
        } else if (place == 1) {
            simd::last_similar(n, key, dim, inverse, threshold, last, scratch);
        }
        if (published || place == 1) {
            for (index t = 0; t < n; ++t) {
                index const like = last[static_cast<std::size_t>(t)];
                if (like < 0 && (!published || t == 0)) continue;
                auto const other = static_cast<std::size_t>(std::max<index>(like, 0));
                float const norms = inverse[static_cast<std::size_t>(t)] * inverse[other];
                if (norms > 0) values[other] -= simd::dot(key(t), key(static_cast<index>(other)), dim) * norms;
            }
        } else if (place > 1) {
            for (std::size_t t = 0; t < values.size(); ++t) values[t] -= left_out[t];
        }
        if (mirrored) std::reverse(values.begin(), values.end());

        float highest = -std::numeric_limits<float>::infinity(), total = 0;
        for (float const x : values) highest = x > highest ? x : highest;
        for (float& x : values) {
            if (simd::is_nan(x)) continue;
            x = std::exp((x - highest) / static_cast<float>(n));
            total += x;
        }
        for (float& x : values) x /= -total;
    }

    /// How many of `n` keys one leaves out at most.
    [[nodiscard]] index count(index n) const noexcept {
        if (forgive_share == 0) return std::min(forgive, n);
        auto const share = static_cast<index>(forgive_share * static_cast<double>(n) + 1e-6);
        return std::clamp<index>(share, 1, std::max<index>(n, 1));
    }
};

}  // namespace terse::score
