// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/dot.hpp>

namespace terse::simd {

/// A step of farthest-point selection: distance[j] = min(distance[j], 1 - cosine(j, pick)) for every row.
///
/// An entry of -infinity (picked already) stays. A row whose cosine is NaN gets NaN and ranks after every number; a
/// pick whose squared norm is not finite changes no distance.
///
/// @param row       callable index -> T const*, of dim contiguous values; any layout
/// @param inverse   of inverse_norms
/// @param distance  [count], +infinity before the first step
/// @return          the row that is now farthest: the lowest index of equals, a NaN one if there is no number, -1 when
///                  every entry is -infinity
/// @complexity      O(count * dim), one pass; no allocation
template <class Arch = default_arch, class Row>
[[nodiscard, gnu::flatten]] index min_distance(index count, Row row, std::span<float const> inverse, index pick,
                                               index dim, std::span<float> distance) noexcept {
    using batch = floats<Arch>;
    constexpr float picked = -std::numeric_limits<float>::infinity();
    auto const* const from = row(pick);
    bool const usable = is_finite(squared_norm<Arch>(from, dim));
    batch const pick_inverse(inverse[static_cast<std::size_t>(pick)]);
    batch farthest(picked), block_of_farthest(std::bit_cast<float>(std::int32_t{-1}));  // indices in float's bits

    for (index j = 0; j < count; j += lanes<Arch>) {
        index const rest = count - j;
        bool const whole = rest >= lanes<Arch>;
        auto const at = static_cast<std::size_t>(j);
        auto d = whole ? load<Arch>(distance.data() + at) : load_partial<Arch>(distance.data() + at, rest);
        if (usable) {
            auto const norms = whole ? load<Arch>(inverse.data() + at) : load_partial<Arch>(inverse.data() + at, rest);
            auto const now = batch(1.0F) - dot_rows<Arch>(j, count, row, from, dim) * norms * pick_inverse;
            d = xsimd::select((d <= now) | (d == batch(picked)), d, now);
            if (whole)
                store<Arch>(d, distance.data() + at);
            else
                store_partial<Arch>(d, distance.data() + at, rest);
        }
        if (!whole) d = xsimd::select(lane_numbers<Arch>() < batch(static_cast<float>(rest)), d, batch(picked));
        batch const block(std::bit_cast<float>(static_cast<std::int32_t>(j)));
        block_of_farthest = xsimd::select(d > farthest, block, block_of_farthest);
        farthest = max_number<Arch>(d, farthest);
    }

    auto const values = to_array<Arch>(farthest);
    auto const blocks = to_array<Arch>(block_of_farthest);
    float largest = picked;
    index who = -1;
    for (std::size_t lane = 0; lane < values.size(); ++lane) {
        index const j = std::bit_cast<std::int32_t>(blocks[lane]) + static_cast<index>(lane);
        if (values[lane] > largest || (values[lane] == largest && who > j)) largest = values[lane], who = j;
    }
    for (index j = 0; who < 0 && j < count; ++j) {
        if (is_nan(distance[static_cast<std::size_t>(j)])) who = j;
    }
    return who;
}

}  // namespace terse::simd
