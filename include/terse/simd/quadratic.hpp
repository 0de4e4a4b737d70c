// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include <terse/simd/load_store.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds: dim^2 / 2 of them a row and form, since what is below a symmetric matrix's diagonal
// joins what is above. Rows lie across lanes, so that their sums stay vertical; a panel of them stays in the first
// cache and meets the forms of all heads, which come from the second.

namespace terse::simd {

/// Floats that a form takes: its matrix's triangle in a square, and its linear part, in whole cache lines.
[[nodiscard]] constexpr index form_size(index dim) noexcept { return ((dim + 1) * dim + 15) / 16 * 16; }

/// The form x -> <x, M x + b> of a symmetric matrix.
/// @param matrix  [dim, dim]
/// @param linear  [dim]
/// @param form    form_size(dim): the matrix's upper triangle, what is above the diagonal doubled, and `linear`
inline void make_form(float const* matrix, float const* linear, index dim, float* form) noexcept {
    for (index i = 0; i < dim; ++i) {
        std::fill_n(form + i * dim, i, 0.0F);
        for (index j = i; j < dim; ++j) form[i * dim + j] = matrix[i * dim + j] * (j == i ? 1.0F : 2.0F);
    }
    std::copy_n(linear, dim, form + dim * dim);
}

/// Floats of scratch that `quadratic_forms` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index quadratic_scratch(index dim) noexcept {
    return alignment_slack + panel_width<Arch> * dim;
}

/// out[f][i - begin] = form f of row i, for rows [begin, end). What a row gets does not depend on the rows beside it.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param forms    [count, form_size(dim)], of make_form
/// @param out      rows `stride` apart
/// @param scratch  at least quadratic_scratch(dim)
/// @complexity     O(count * rows * dim^2 / 2); no allocation. NaN in a row stays in its values
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void quadratic_forms(index begin, index end, Row row, index dim, index count, float const* forms,
                                      float* out, index stride, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>, step = lanes<Arch>;
    float* const panel = align(scratch, quadratic_scratch<Arch>(dim));
    for (index first = begin; first < end; first += width) {
        index const rows = std::min(width, end - first), vectors = vectors_of_panel<Arch>(rows);
        pack<Arch>(first, rows, row, dim, vectors * step, panel);
        for (index next = first + width; next < std::min(first + 2 * width, end); ++next) prefetch_row(row(next), dim);
        for (index f = 0; f < count; ++f) {
            float const* const form = forms + f * form_size(dim);
            float const* const linear = form + dim * dim;
            std::array<batch, panel_vectors<Arch>> total;
            total.fill(batch(0.0F));
            with_count<panel_vectors<Arch>>(vectors, [&](auto V) noexcept {
                constexpr int most = tile_rows<Arch, V>;
                for (index i = 0; i < dim; i += most) {
                    with_count<most>(std::min<index>(most, dim - i), [&](auto R) noexcept {
                        tile<Arch, R, V> sums;
                        unroll<R>([&](auto r) { sums[r].fill(batch(linear[i + r])); });
                        float const* const from = panel + i * V * step;
                        std::array<float const*, R> coefficients;
                        unroll<R>([&](auto r) { coefficients[r] = form + (i + r) * dim + i; });
                        multiply<Arch, element::single, R, V>(
                            [&](index k, auto r) noexcept { return coefficients[r][k]; }, from, dim - i, sums);
                        unroll<R>([&](auto r) {
                            unroll<V>([&](auto v) {
                                total[v] =
                                    fma<Arch>(sums[r][v], batch::load_aligned(from + (r * V + v) * step), total[v]);
                            });
                        });
                    });
                }
            });
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
