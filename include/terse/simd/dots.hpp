// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/simd/dot.hpp>

// Limited by memory: every row is read once for one product, and asked for ahead, wherever rows stand. In a cache by
// the loads, since a register of rows is added up at once: a horizontal sum for each would outlast a short row's
// products.

namespace terse::simd {

/// out[i] = values(first + i, end), a register of rows at a time, for the rows of [first, end).
template <class Arch, class Values>
void for_registers(index first, index end, float* out, Values values) noexcept {
    constexpr index width = lanes<Arch>;
    for (index i = first; i < end; i += width) {
        auto const each = values(i, end);
        if (end - i >= width)
            store<Arch>(each, out + (i - first));
        else
            store_partial<Arch>(each, out + (i - first), end - i);
    }
}

/// out[i] = the product of x with row first + i, for the rows of [first, end), in float. What a row gives depends on
/// nothing beside it.
///
/// @param count  rows that there are: those behind `end` are asked for ahead, and may be read
/// @param row    callable index -> T const* or quantised_row, of n contiguous values; any layout
/// @complexity   O((end - first) * n); no allocation. NaN in a row stays in its product
template <class Arch = default_arch, class Row, real T>
[[gnu::flatten]] void dots(index first, index end, index count, Row row, T const* x, index n, float* out) noexcept {
    bool const far = count * n > near_floats;
    for_registers<Arch>(first, end, out,
                        [=](index i, index) noexcept { return distant_dot_rows<Arch>(i, count, row, x, n, far); });
}

/// out[i] = the squared norm of row first + i, for i < count; otherwise as `dots`.
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void squared_norms(index first, index count, Row row, index n, float* out) noexcept {
    for_registers<Arch>(first, first + count, out,
                        [=](index i, index end) noexcept { return squared_norm_rows<Arch>(i, end, row, n); });
}

/// out[i] = the norm of row first + i, for i < count; otherwise as `dots`.
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void norms(index first, index count, Row row, index n, float* out) noexcept {
    for_registers<Arch>(first, first + count, out, [=](index i, index end) noexcept {
        return square_root<Arch>(squared_norm_rows<Arch>(i, end, row, n));
    });
}

}  // namespace terse::simd
