// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/farthest.hpp>
#include <terse/simd/gram.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::select {

/// Whether it is faster to have all cosines stored than to compare rows with picks as they come up.
/// @param all_made  all cosines are made anyway
[[nodiscard]] constexpr bool stores_cosines(index tokens, index picks, bool all_made) noexcept {
    constexpr index most = 8192;  // 256 MiB
    return tokens <= most && (all_made ? 16 : 3) * picks > tokens;
}

/// Picks rows one after the other, each the farthest from those picked before, by 1 - cosine; a zero row is at distance
/// 1 from all. No row is picked twice, whatever rounding does to the distances of equal rows. Equal distances: the
/// earlier row. A row that is not finite, or whose squared norm is not, comes last and is far from nothing.
///
/// What n picks keep, n + 1 picks keep too, where no two distances are within rounding of each other: many picks are
/// made from a matrix of all cosines, whose products are summed in another order.
///
/// @param x       [tokens, dim]
/// @param picked  receives rows in the order picked
/// @param start   the first pick; -1: the row that is farthest from its nearest other row
/// @param memory  scratch, given back: for many picks 4 bytes for each pair of tokens
/// @pre           picked.size() <= tokens, start < tokens
/// @return        errc::out_of_memory
/// @complexity    O(picked * tokens * dim) at most, half or less as a rule; without a start, or for many picks,
///                O(tokens^2 * dim / 2). `run` shares both.
template <class T, executor Run = serial>
errc farthest_point(tokens_view<T> x, std::span<token> picked, index start, arena& memory,
                    Run const& run = {}) noexcept {
    if (picked.empty()) return errc::ok;
    rollback const scratch_only{memory};
    index const n = x.tokens, blocks = simd::farthest_blocks(n);
    bool const search = start < 0, stored = stores_cosines(n, std::ssize(picked), search);
    auto const inverse = memory.take<float>(n);
    auto const cosines = memory.take<float>(stored ? n * n : 0);
    simd::farthest_state s{.count = n,
                           .inverse = inverse,
                           .bound = memory.take<float>(blocks * simd::farthest_block),
                           .seen = memory.take<std::int32_t>(n),
                           .highest = memory.take<float>(blocks)};
    if (!taken(inverse, cosines, s.bound, s.seen, s.highest)) return errc::out_of_memory;
    auto const row = [&x](index i) noexcept { return x.row(i); };
    auto const norms = [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            float const squared = simd::squared_norm(x.row(i), x.dim);
            inverse[static_cast<std::size_t>(i)] =
                simd::is_finite(squared) ? simd::inverse_norm(squared) : std::numeric_limits<float>::quiet_NaN();
        }
    };

    if (search || stored) {
        constexpr float nothing = -std::numeric_limits<float>::infinity();
        index const each = simd::gram_scratch(x.dim), workers = run.workers();
        auto const scratch = memory.take<float>(each * workers);
        auto const highest = memory.take<float>(search ? n * workers : 0);
        if (!taken(scratch, highest)) return errc::out_of_memory;
        std::fill(highest.begin(), highest.end(), nothing);
        share_out(run, n, x.dim * size_of<T>, norms);
        index const of_block = product_cost(simd::gram_side, simd::gram_side, x.dim);
        share_out(run, simd::gram_blocks(n), of_block, [&](index begin, index end, index worker) noexcept {
            auto const part = [worker](std::span<float> all, index size) noexcept {
                return all.empty()
                           ? all
                           : all.subspan(static_cast<std::size_t>(worker * size), static_cast<std::size_t>(size));
            };
            simd::gram(begin, end, n, row, x.dim, inverse, stored ? cosines.data() : nullptr, n, part(highest, n),
                       part(scratch, each));
        });
        if (search) {
            start = 0;
            float lowest = std::numeric_limits<float>::infinity();
            for (index i = 0; i < n; ++i) {
                if (simd::is_nan(inverse[static_cast<std::size_t>(i)])) continue;
                float nearest = nothing;
                for (index w = 0; w < workers; ++w)
                    nearest = std::max(nearest, highest[static_cast<std::size_t>(w * n + i)]);
                if (nearest < lowest) lowest = nearest, start = i;
            }
        }
    } else {
        share_out(run, n, x.dim * size_of<T>, norms);
    }

    simd::farthest_start(s);
    for (index done = 0, pick = start;; pick = simd::farthest_leader(s)) {
        picked[static_cast<std::size_t>(done++)] = static_cast<token>(pick);
        if (done == std::ssize(picked)) return errc::ok;
        s.picks = picked.first(static_cast<std::size_t>(done));
        simd::farthest_remove(s, pick);
        auto const settle = [&](index begin, index end, index) noexcept {
            simd::farthest_settle(begin, end, row, x.dim, s);
        };
        if (simd::is_nan(inverse[static_cast<std::size_t>(pick)])) continue;
        if (stored)
            simd::farthest_lower(cosines.data() + pick * n, s);
        else  // a step compares a part of the rows
            share_out(run, blocks, simd::farthest_block * x.dim / 2 * size_of<T>, settle);
    }
}

}  // namespace terse::select
