// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/simd/nearest.hpp>

namespace terse::match {

/// For each left token the right token of highest cosine.
struct links {
    std::span<token const> partner{};     ///< [left]: among the right tokens, or -1 where none compares
    std::span<float const> similarity{};  ///< [left]: the cosine, or -infinity without a partner
};

/// Links every left token to its nearest right token, in tiles; the matrix of similarities is never built.
/// Equal cosines: the lower right token. A zero row has similarity 0 to all. NaN never wins.
///
/// @param left, right  callables index -> T const*: a token's row of `dim` elements
/// @return             errc::out_of_memory
/// @complexity         O(left_count * right_count * dim); scratch: a panel for each worker
template <class Left, class Right, executor Run = serial>
[[nodiscard]] result<links> bipartite(index left_count, Left left, index right_count, Right right, index dim,
                                      arena& memory, Run const& run = {}) noexcept {
    rollback undo{memory};
    auto const partner = memory.take<token>(left_count);
    auto const similarity = memory.take<float>(left_count);
    auto const top = memory.here();
    index const each = simd::nearest_scratch(left_count, dim);
    auto const scratch = memory.take<float>(each * run.workers());
    if (!taken(partner, similarity, scratch)) return errc::out_of_memory;

    // Ranges begin at whole registers of lanes, so that rounding does not depend on how they are cut.
    constexpr index step = simd::lanes<simd::default_arch>;
    index const steps = (left_count + step - 1) / step;
    share_out(run, steps, product_cost(step, right_count, dim), [&](index first, index last, index worker) noexcept {
        index const begin = first * step, end = std::min(last * step, left_count);
        auto const from = static_cast<std::size_t>(begin), count = static_cast<std::size_t>(end - begin);
        simd::nearest(begin, end, left, right_count, right, dim, similarity.subspan(from, count),
                      partner.subspan(from, count),
                      scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each)));
    });
    memory.rewind(top);
    undo.keep();
    return links{partner, similarity};
}

}  // namespace terse::match
