// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/min_distance.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::select {

/// Picks rows one after the other, each the farthest from those picked before, by 1 - cosine; a zero row is at distance
/// 1 from all. No row is picked twice, whatever rounding does to the distances of equal rows. Equal distances: the
/// earlier row; a row that is not finite comes last.
///
/// @param x       [tokens, dim]
/// @param picked  receives rows in the order picked; what n picks keep, n + 1 picks keep too
/// @param start   the first pick; -1: the row that is farthest from its nearest other row
/// @param memory  scratch, given back
/// @pre           picked.size() <= tokens, start < tokens
/// @return        errc::out_of_memory
/// @complexity    O(picked * tokens * dim), and without a start O(tokens^2 * dim), which `run` shares
template <class T, executor Run = serial>
errc farthest_point(tokens_view<T> x, std::span<token> picked, index start, arena& memory,
                    Run const& run = {}) noexcept {
    rollback const scratch_only{memory};
    auto const inverse = memory.take<float>(x.tokens);
    auto const distance = memory.take<float>(x.tokens);
    if (!taken(inverse, distance)) return errc::out_of_memory;
    if (picked.empty()) return errc::ok;

    auto const row = [&x](index i) noexcept { return x.row(i); };
    simd::inverse_norms(x.tokens, row, x.dim, inverse);
    if (start < 0) {
        index const each = simd::nearest_scratch(x.tokens, x.dim);
        auto const partner = memory.take<token>(x.tokens);
        auto const scratch = memory.take<float>(each * run.workers());
        if (!taken(partner, scratch)) return errc::out_of_memory;
        auto const cut = [](auto all, index from, index size) noexcept {
            return all.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(size));
        };
        auto const cosine = distance;
        run(x.tokens, [&](index begin, index end, index worker) noexcept {
            index const size = end - begin;
            simd::nearest<simd::default_arch, true>(begin, end, row, x.tokens, row, x.dim, cut(cosine, begin, size),
                                                    cut(partner, begin, size), cut(scratch, worker * each, each));
        });
        // The lowest cosine; a row that compares with nothing has none.
        for (std::size_t i = 0; i < cosine.size(); ++i)
            if (partner[i] < 0) cosine[i] = std::numeric_limits<float>::infinity();
        start = std::min_element(cosine.begin(), cosine.end()) - cosine.begin();
    }

    std::fill(distance.begin(), distance.end(), std::numeric_limits<float>::infinity());
    index pick = start;
    for (token& p : picked) {
        if (&p != picked.data()) pick = simd::min_distance(x.tokens, row, inverse, pick, x.dim, distance);
        distance[static_cast<std::size_t>(pick)] = -std::numeric_limits<float>::infinity();
        p = static_cast<token>(pick);
    }
    return errc::ok;
}

}  // namespace terse::select
