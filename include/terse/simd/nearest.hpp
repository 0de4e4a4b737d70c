// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/scalar.hpp>

namespace terse::simd {

/// inverse[i] = 1 / max(|row(i)|, 1e-12); a zero row gets 0, so that it is similar to nothing (similarity 0 to all).
/// @param row  callable index -> T const*, of dim contiguous values; any layout
template <class Arch = default_arch, class Row>
void inverse_norms(index count, Row row, index dim, std::span<float> inverse) noexcept {
    scalar::inverse_norms(count, row, dim, inverse);
}

/// Floats of scratch that nearest wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index nearest_scratch(index dim) noexcept {
    return dim;
}

/// For each left row i of [left_begin, left_end) the right row of highest cosine. Of equals the lowest index; NaN never
/// wins; where nothing can be compared (no right row, or nothing but NaN) the cosine is -infinity and the partner -1.
///
/// @param left, right   callables index -> T const*, of dim contiguous values; any layout
/// @param left_inverse  of inverse_norms, indexed as left; right_inverse as right
/// @param best          [left_end - left_begin]: the cosine
/// @param partner       [left_end - left_begin]: its right row
/// @param scratch       at least nearest_scratch(dim)
/// @tparam ExcludeSelf  left and right are the same rows, and a row is not its own partner
/// @complexity          O(rows * right_count * dim); no allocation
template <class Arch = default_arch, bool ExcludeSelf = false, class Left, class Right>
void nearest(index left_begin, index left_end, Left left, std::span<float const> left_inverse, index right_count,
             Right right, std::span<float const> right_inverse, index dim, std::span<float> best,
             std::span<token> partner, [[maybe_unused]] std::span<float> scratch) noexcept {
    scalar::nearest<ExcludeSelf>(left_begin, left_end, left, left_inverse, right_count, right, right_inverse, dim, best,
                                 partner);
}

}  // namespace terse::simd
