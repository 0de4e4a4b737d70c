// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include <terse/core/types.hpp>

namespace terse::score {

enum class pooling { none, average, max };

/// How several rows of scores become one.
enum class reduction { mean, sum, max };

/// Pools a row of scores with stride 1 and `kernel / 2` of padding on both sides, so that a token's neighbours share
/// its score. The average counts the padding as zeros and always divides by `kernel`: edges are damped.
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
    bool const average = how == pooling::average;
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
    if (average) {
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

}  // namespace terse::score
