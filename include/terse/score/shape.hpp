// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <terse/core/types.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/batch.hpp>

namespace terse::score {

enum class pooling {
    none,
    average,
    max,
    average_inside,  ///< of the neighbours that there are, without padding
};

/// How several rows of scores become one.
enum class reduction { mean, sum, max };

/// Pools a row of scores with stride 1 and `kernel / 2` of padding on both sides, so that a token's neighbours share
/// its score. `average` counts the padding as zeros and always divides by `kernel`: edges are damped, which lifts them
/// where scores are negative; `average_inside` has no padding.
///
/// @param in, out  [tokens]; must not overlap
/// @param kernel   odd
/// @complexity     O(tokens * kernel)
inline void pool_row(std::span<float const> in, std::span<float> out, pooling how, index kernel) noexcept {
    if (how == pooling::none) {
        std::copy(in.begin(), in.end(), out.begin());
        return;
    }
    auto const n = static_cast<index>(in.size());
    bool const average = how != pooling::max;
    std::fill(out.begin(), out.end(), average ? 0.0F : -std::numeric_limits<float>::infinity());
    for (index shift = -(kernel / 2); shift <= kernel / 2; ++shift) {
        index const begin = std::max<index>(0, -shift), end = std::min(n, n - shift);
        float const* const from = in.data();
        float* const to = out.data();
        if (average) {
            for (index t = begin; t < end; ++t) to[t] += from[t + shift];
        } else {
            for (index t = begin; t < end; ++t) to[t] = from[t + shift] > to[t] ? from[t + shift] : to[t];
        }
    }
    if (how == pooling::average_inside) {
        for (index t = 0; t < n; ++t) {
            index const there = std::min(t, kernel / 2) + std::min(n - 1 - t, kernel / 2) + 1;
            out[static_cast<std::size_t>(t)] /= static_cast<float>(there);
        }
    } else if (average) {
        for (float& x : out) x /= static_cast<float>(kernel);
    }
}

/// out[t] = mean, sum or maximum of rows[r][t] over r, in the order of the rows.
///
/// @param rows  [count, tokens], packed, count >= 1
/// @param out   [tokens]; must not overlap
inline void reduce_rows(std::span<float const> rows, std::span<float> out, reduction how) noexcept {
    std::size_t const n = out.size();
    std::copy_n(rows.begin(), n, out.begin());
    for (std::size_t at = n; at < rows.size(); at += n) {
        auto const row = rows.subspan(at, n);
        if (how == reduction::max) {
            for (std::size_t t = 0; t < n; ++t) out[t] = row[t] > out[t] ? row[t] : out[t];
        } else {
            for (std::size_t t = 0; t < n; ++t) out[t] += row[t];
        }
    }
    if (how == reduction::mean && rows.size() > n) {
        float const count = static_cast<float>(rows.size() / n);
        for (float& x : out) x /= count;
    }
}

/// x = (x - mean) / max(deviation, least), mean and deviation (divisor n - 1) over all values that are finite: z-scores
/// over everything that competes. Values that are not finite stay as they are.
/// @complexity  O(n), in double
inline void standardise(std::span<float> values, float least = 1e-6F) noexcept {
    double sum = 0, squares = 0;
    index count = 0;
    for (float const x : values) {
        if (!simd::is_finite(x)) continue;
        sum += static_cast<double>(x);
        ++count;
    }
    double const mean = count > 0 ? sum / static_cast<double>(count) : 0;
    for (float const x : values) {
        double const apart = simd::is_finite(x) ? static_cast<double>(x) - mean : 0;
        squares += apart * apart;
    }
    double const deviation = count > 1 ? std::sqrt(squares / static_cast<double>(count - 1)) : 0;
    double const inverse = 1 / std::max(deviation, static_cast<double>(least));
    for (float& x : values)
        if (simd::is_finite(x)) x = static_cast<float>((static_cast<double>(x) - mean) * inverse);
}

/// What a scorer writes outside of the slots [begin, end) that it scores: infinity for the others of the `length` that
/// a head holds, so that they stay, and NaN for the rest of the row, which ranks last.
inline void frame_row(std::span<float> row, index begin, index end, index length) noexcept {
    std::fill(row.begin(), row.begin() + begin, std::numeric_limits<float>::infinity());
    std::fill(row.begin() + end, row.begin() + length, std::numeric_limits<float>::infinity());
    std::fill(row.begin() + length, row.end(), no_score);
}

}  // namespace terse::score
