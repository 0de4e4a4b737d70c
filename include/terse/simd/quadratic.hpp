// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds: dim^2 / 2 of them a row and form, since what is below a symmetric matrix's diagonal joins
// what is above. Rows lie across lanes, so that their sums stay vertical; a panel of them stays in the first cache and
// meets the forms of all heads, which come from the second.

namespace terse::simd {

/// Floats that a packed form takes: tiles of its matrix's triangle, and its linear part.
template <class Arch = default_arch>
[[nodiscard]] constexpr index form_size(index dim) noexcept {
    constexpr index rows = tile_rows<Arch>, line = 16;
    return (((dim + rows - 1) / rows * block_width<Arch> + 1) * dim + line - 1) / line * line;
}

/// Packs the form x -> <x, M x + b> of a symmetric matrix.
/// @param matrix  [dim, dim]; becomes its upper triangle, what is above the diagonal doubled
/// @param linear  [dim]
/// @param form    form_size(dim), aligned to a cache line
template <class Arch = default_arch>
void pack_form(float* matrix, float const* linear, index dim, float* form) noexcept {
    for (index i = 0; i < dim; ++i) {
        std::fill_n(matrix + i * dim, i, 0.0F);
        for (index j = i + 1; j < dim; ++j) matrix[i * dim + j] *= 2;
    }
    pack_blocks<Arch>(
        0, dim, [=](index i) noexcept -> float const* { return matrix + i * dim; }, dim, form);
    std::copy_n(linear, dim, form + form_size<Arch>(dim) - dim);
}

/// Floats of scratch that `quadratic_forms` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index quadratic_scratch(index dim) noexcept {
    return alignment_slack + panel_width<Arch> * dim;
}

/// out[f][i - begin] = form f of row i, for rows [begin, end). What a row gets does not depend on the rows beside it.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param forms    [count, form_size(dim)], of pack_form; aligned to a cache line
/// @param out      rows `stride` apart
/// @param scratch  at least quadratic_scratch(dim)
/// @complexity     O(count * rows * dim^2 / 2); no allocation
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void quadratic_forms(index begin, index end, Row row, index dim, index count, float const* forms,
                                      float* out, index stride, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>, step = lanes<Arch>;
    float* const panel = align(scratch);
    for (index first = begin; first < end; first += width) {
        index const rows = std::min(width, end - first), vectors = rows > step ? 2 : 1;
        pack<Arch>(first, rows, row, dim, vectors * step, panel);
        for (index next = first + width; next < std::min(first + 2 * width, end); ++next) prefetch_row(row(next), dim);
        for (index f = 0; f < count; ++f) {
            float const* const form = forms + f * form_size<Arch>(dim);
            float const* const linear = form + form_size<Arch>(dim) - dim;
            std::array<batch, 2> total;
            total.fill(batch(0.0F));
            for (index i = 0; i < dim; i += tile_rows<Arch>) {
                with_tile<Arch>(std::min<index>(tile_rows<Arch>, dim - i), vectors, [&](auto R, auto V) noexcept {
                    tile<Arch, R, V> sums;
                    unroll<R>([&](auto r) { sums[r].fill(batch(linear[i + r])); });
                    float const* const from = panel + i * V * step;
                    multiply<Arch, element::single, R, V>(packed_rows<Arch>{form, dim}.template tile<R>(i, i), from,
                                                          dim - i, sums);
                    unroll<R>([&](auto r) {
                        unroll<V>([&](auto v) {
                            total[v] = fma<Arch>(sums[r][v], batch::load_aligned(from + (r * V + v) * step), total[v]);
                        });
                    });
                });
            }
            float* const to = out + f * stride + first - begin;
            for (index at = 0; at < rows; at += step) {
                auto const& sum = total[static_cast<std::size_t>(at / step)];
                if (rows - at >= step)
                    store<Arch>(sum, to + at);
                else
                    store_partial<Arch>(sum, to + at, rows - at);
            }
        }
    }
}

}  // namespace terse::simd
