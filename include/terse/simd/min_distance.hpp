// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/scalar.hpp>

namespace terse::simd {

/// A step of farthest-point selection: distance[j] = min(distance[j], 1 - cosine(j, pick)) for every row.
///
/// An entry of -infinity (picked already) stays. A row whose cosine is NaN gets NaN and ranks after every number; a
/// pick that is not finite changes no distance.
///
/// @param row       callable index -> T const*, of dim contiguous values; any layout
/// @param inverse   of inverse_norms
/// @param distance  [count], +infinity before the first step
/// @return          the row that is now farthest: the lowest index of equals, a NaN one if there is no number, -1 when
///                  every entry is -infinity
/// @complexity      O(count * dim); no allocation
template <class Arch = default_arch, class Row>
[[nodiscard]] index min_distance(index count, Row row, std::span<float const> inverse, index pick, index dim,
                                 std::span<float> distance) noexcept {
    return scalar::min_distance(count, row, inverse, pick, dim, distance);
}

}  // namespace terse::simd
