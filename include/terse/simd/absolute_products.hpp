// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/tile.hpp>

// Multiply-adds limit this: a sign cleared and an addition for each product of a whole row stay in registers, and no
// product is stored. Rows lie across lanes, so that their sums need no horizontal step; they are packed once, a few
// hundred at a time, and the other side passes by.

namespace terse::simd {

/// Rows whose packed values stay in the second-level cache beside the other side's rows.
inline constexpr index absolute_rows = 384;

/// Floats of scratch that `add_absolute_products` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index absolute_products_scratch(index dim) noexcept {
    index const room = (absolute_rows + panel_width<Arch> - 1) / panel_width<Arch> * panel_width<Arch>;
    return alignment_slack + room + room * dim + row_copies<Arch>(dim) + partial_sums<Arch>(room, dim);
}

/// sums[i] += |<row(i), other(0)>| + ... + |<row(i), other(others - 1)>|, for i < count.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param other    callable index -> U const*, likewise
/// @param sums     [count]
/// @param scratch  at least absolute_products_scratch(dim)
/// @complexity     O(count * others * dim); no allocation. NaN in a row stays in its sum, in another in all sums
template <class Arch = default_arch, class Row, class Other>
[[gnu::flatten]] void add_absolute_products(index count, Row row, index others, Other other, index dim,
                                            std::span<float> sums, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>, step = lanes<Arch>;
    index const room = (absolute_rows + width - 1) / width * width;
    float* const totals = align(scratch, absolute_products_scratch<Arch>(dim));
    float* const panels = totals + room;
    float* const copies = panels + room * dim;
    float* const partial = copies + row_copies<Arch>(dim);
    for (index first = 0; first < count; first += absolute_rows) {
        index const rows = std::min(absolute_rows, count - first);
        pack_panels<Arch>(first, rows, row, dim, panels);
        std::fill_n(totals, room, 0.0F);
        for (index chunk = 0; chunk < others; chunk += chunk_rows<Arch>) {
            index const here = std::min(chunk_rows<Arch>, others - chunk);
            broadcast_rows<Arch> const others_here(chunk, here, other, dim, copies);
            auto const add = [&](auto R, auto V, auto const& products, index, index lane) noexcept {
                unroll<V>([&](auto v) {
                    batch sum = xsimd::abs(products[0][v]);
                    unroll<R - 1>([&](auto r) { sum += xsimd::abs(products[r + 1][v]); });
                    float* const to = totals + lane + v * step;
                    (batch::load_aligned(to) + sum).store_aligned(to);
                });
            };
            multiply_all<Arch>(here, others_here, rows, panels, dim, partial, add);
        }
        for (index i = 0; i < rows; ++i) sums[static_cast<std::size_t>(first + i)] += totals[i];
    }
}

}  // namespace terse::simd
