// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/dpp.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::select {

/// Picks rows one after the other, each so that the determinant of the picked rows' kernel grows the most: rows of high
/// value (the diagonal) that are unlike each other. The greedy mode of a determinantal point process.
///
/// When nothing is left that the picked rows do not span, up to rounding, the others follow by falling value. Equal
/// gains or values: the earlier row. A row whose value is not finite comes last; one with NaN in its kernel is not
/// picked by its gain once that matters.
///
/// Source: Chen et al., "Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation
/// Diversity", arXiv:1709.05135, algorithm 1. Differs: a row is used up at 1e-5 of its own value instead of at an
/// absolute gain, so that the scale of the kernel does not matter.
///
/// @param kernel  [rows, rows]: symmetric, positive semi-definite
/// @param picked  receives rows in the order picked; what n picks keep, n + 1 picks keep too
/// @param memory  scratch, given back: 4 bytes for each pick and row
/// @return        how many were picked by the determinant, the first ones; errc::bad_shape unless the kernel is square,
///                errc::bad_budget when there are fewer rows than picks, errc::out_of_memory
/// @complexity    O(picked^2 * rows), which `run` shares where a step is long enough
template <executor Run = serial>
[[nodiscard]] result<index> dpp(tokens_view<float> kernel, std::span<token> picked, arena& memory,
                                Run const& run = {}) noexcept {
    using arch = simd::default_arch;
    index const rows = kernel.tokens, picks = std::ssize(picked);
    if (rows < 0 || rows > max_tokens || kernel.dim != rows) return errc::bad_shape;
    if (picks > rows) return errc::bad_budget;
    if (picks == 0) return index{0};

    rollback const scratch_only{memory};
    index const strips = simd::dpp_strips<arch>(rows), padded = strips * simd::dpp_strip<arch>;
    auto const factors = memory.take<float>(picks - 1);
    simd::dpp_state const s{.count = rows,
                            .steps = picks - 1,
                            .gain = memory.take<float>(padded),
                            .least = memory.take<float>(padded),
                            .highest = memory.take<float>(strips),
                            .left = memory.take<float>(padded * (picks - 1))};
    if (!taken(factors, s.gain, s.least, s.highest, s.left)) return errc::out_of_memory;

    auto const value = [&kernel](index i) noexcept { return kernel.row(i)[i]; };
    simd::dpp_start(s, value);
    index done = 0;
    for (; done < picks; ++done) {
        index const pick = simd::dpp_best(s);
        if (pick < 0) break;
        picked[static_cast<std::size_t>(done)] = static_cast<token>(pick);
        if (done == picks - 1) return picks;
        float& gain_of_pick = s.gain[static_cast<std::size_t>(pick)];
        float const gain = gain_of_pick;
        gain_of_pick = simd::dpp_no_gain;
        auto const earlier = factors.first(static_cast<std::size_t>(done));
        simd::dpp_factors(s, pick, earlier);
        auto const step = [&](index begin, index end, index) noexcept {
            simd::dpp_step(begin, end, kernel.row(pick), gain, earlier, s);
        };
        share_out(run, strips, simd::dpp_strip<arch> * done * size_of<float>, step);
    }

    // Nothing has a gain any more, and the gains make room for what orders the rest.
    auto const rest = s.gain.first(static_cast<std::size_t>(rows));
    for (index i = 0; i < rows; ++i)
        rest[static_cast<std::size_t>(i)] =
            simd::is_finite(value(i)) ? value(i) : -std::numeric_limits<float>::infinity();
    constexpr float never = std::numeric_limits<float>::quiet_NaN();
    for (index i = 0; i < picks; ++i) {
        token& p = picked[static_cast<std::size_t>(i)];
        if (i >= done) p = static_cast<token>(simd::arg_highest(rest));
        rest[static_cast<std::size_t>(p)] = never;
    }
    return done;
}

}  // namespace terse::select
