// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/simd/dot.hpp>
#include <terse/simd/rows.hpp>

// Limited by memory: every row is read once for one product, and asked for ahead, wherever rows stand.

namespace terse::simd {

/// out[i] = the product of x with row first + i, for i < count, in float. What a row gives depends on nothing beside it.
///
/// @param row  callable index -> T const*, of n contiguous values; any layout
/// @complexity O(count * n); no allocation
template <class Arch = default_arch, class Row, real T>
[[gnu::flatten]] void dots(index first, index count, Row row, T const* x, index n, float* out) noexcept {
    constexpr index width = lanes<Arch>;
    index const end = first + count;
    for (index i = first; i < end; i += width) {
        for (index ahead = i + rows_ahead; ahead < std::min(i + rows_ahead + width, end); ++ahead)
            prefetch_row(row(ahead), n);
        auto const products = dot_rows<Arch>(i, end, row, x, n);
        if (end - i >= width)
            store<Arch>(products, out + (i - first));
        else
            store_partial<Arch>(products, out + (i - first), end - i);
    }
}

}  // namespace terse::simd
