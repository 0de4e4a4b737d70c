// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include <terse/simd/columns.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/scalar.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds: dim * columns a row in float for the projection, columns^2 in double for the Gram
// matrix and what it makes of the rows, which is too ill-conditioned for float. Projected rows lie across lanes
// throughout, a panel of them after the other, so that nothing is transposed twice.

namespace terse::simd {

/// out[i] = x[i] - y[i] for i < n, in float.
/// @param x  T const* or quantised_row
template <class Arch = default_arch, class Row>
void subtract(Row const& x, float const* y, float* out, index n) noexcept {
    over_channels<Arch, 1>(
        x, n, [&](auto, auto read, auto write, index i) noexcept { write(read(x + i) - read(y + i), out + i); });
}

/// Rows that are projected at once, and that lie side by side in what comes out.
template <class Arch = default_arch>
inline constexpr index projected_width = panel_width<Arch>;

/// Floats of scratch that `project` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index project_scratch(index dim) noexcept {
    return alignment_slack + projected_width<Arch> * dim + row_copies<Arch>(dim) +
           partial_sums<Arch>(projected_width<Arch>, dim);
}

/// out[c][i] = <row(i), sketch[c]> for rows i of [0, count), zero for what is beyond them in a panel.
///
/// @param row      callable index -> float const*, of dim contiguous values
/// @param count    at most projected_width
/// @param sketch   [columns, dim]
/// @param out      [columns, projected_width], aligned to a register
/// @param scratch  at least project_scratch(dim)
/// @complexity     O(projected_width * columns * dim)
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void project(Row row, index count, index dim, float const* sketch, index columns, float* out,
                              std::span<float> scratch) noexcept {
    constexpr index width = projected_width<Arch>, step = lanes<Arch>, chunk = chunk_rows<Arch>;
    float* const panel = align(scratch, project_scratch<Arch>(dim));
    float* const copies = panel + width * dim;
    pack<Arch>(0, count, row, dim, width, panel);
    for (index first = 0; first < columns; first += chunk) {
        auto const keep = [&](auto R, auto V, auto const& products, index block, index) noexcept {
            unroll<R>([&](auto r) {
                unroll<V>([&](auto v) { products[r][v].store_aligned(out + (first + block + r) * width + v * step); });
            });
        };
        index const rows = std::min(chunk, columns - first);
        broadcast_rows<Arch> const some(
            first, rows, [=](index c) noexcept { return sketch + c * dim; }, dim, copies);
        multiply_all<Arch>(rows, some, width, panel, dim, copies + row_copies<Arch>(dim), keep);
    }
    for (index c = 0; count < width && c < columns; ++c)
        std::fill(out + c * width + count, out + (c + 1) * width, 0.0F);
}

/// gram[i][j] += the sum over all lanes of x[.][i] * x[.][j], for j <= i, in double.
/// @param x      [panels, columns, width]; width a multiple of 8
/// @param gram   [columns, columns]
/// @complexity   O(panels * width * columns^2 / 2)
template <class Arch = default_arch>
[[gnu::flatten]] void add_gram(index panels, float const* x, index columns, index width, double* gram) noexcept {
    if constexpr (lanes<Arch> == 16) {  // of whose conversions gcc 12 warns
        return add_gram<xsimd::fma3<xsimd::avx2>>(panels, x, columns, width, gram);
    } else if constexpr (!has_doubles<Arch>) {
        return scalar::add_gram(panels, x, columns, width, gram);
    } else {
        constexpr index rows = 4, across = 3;
        for (index i = 0; i < columns; i += rows) {
            for (index j = 0; j < std::min(i + rows, columns); j += across) {
                std::array<float const*, rows> left;
                std::array<float const*, across> right;
                for (index r = 0; r < rows; ++r)
                    left[static_cast<std::size_t>(r)] = x + std::min(i + r, columns - 1) * width;
                for (index c = 0; c < across; ++c)
                    right[static_cast<std::size_t>(c)] = x + std::min(j + c, columns - 1) * width;
                std::array<std::array<doubles<Arch>, across>, rows> sums;
                for (auto& sum : sums) sum.fill(doubles<Arch>(0.0));
                for (index panel = 0; panel < panels; ++panel) {
                    index const at = panel * columns * width;
                    for (index lane = at; lane < at + width; lane += double_lanes<Arch>) {
                        std::array<doubles<Arch>, across> b;
                        unroll<across>([&](auto c) { b[c] = load_doubles<Arch>(right[c] + lane); });
                        unroll<rows>([&](auto r) {
                            auto const a = load_doubles<Arch>(left[r] + lane);
                            unroll<across>([&](auto c) { sums[r][c] = xsimd::fma(a, b[c], sums[r][c]); });
                        });
                    }
                }
                for (index r = 0; r < std::min(rows, columns - i); ++r) {
                    for (index c = 0; c < std::min(across, i + r + 1 - j); ++c) {
                        std::array<double, doubles<Arch>::size> each;
                        sums[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)].store_unaligned(each.data());
                        for (double const sum : each) gram[(i + r) * columns + j + c] += sum;
                    }
                }
            }
        }
    }
}

/// Turns a positive definite matrix into the inverse of its Cholesky factor, in place; only the lower triangle is read
/// and written.
/// @return  whether it was positive definite
/// @complexity O(n^3 / 2)
[[nodiscard]] inline bool invert_cholesky(double* matrix, index n) noexcept {
    auto const at = [=](index i, index j) noexcept -> double& { return matrix[i * n + j]; };
    for (index j = 0; j < n; ++j) {
        double diagonal = at(j, j);
        for (index k = 0; k < j; ++k) diagonal -= at(j, k) * at(j, k);
        if (!(diagonal > 0) || !(diagonal < 1e300)) return false;
        at(j, j) = std::sqrt(diagonal);
        for (index i = j + 1; i < n; ++i) {
            double sum = at(i, j);
            for (index k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
            at(i, j) = sum / at(j, j);
        }
    }
    for (index j = 0; j < n; ++j) {  // column j of the inverse, by what stands above it
        at(j, j) = 1 / at(j, j);
        for (index i = j + 1; i < n; ++i) {
            double sum = 0;
            for (index k = j; k < i; ++k) sum -= at(i, k) * at(k, j);
            at(i, j) = sum / at(i, i);
        }
    }
    return true;
}

/// Rows of a triangle that `whitened_norms` takes at once.
inline constexpr index triangle_rows = 6;

/// Doubles that a packed triangle takes.
[[nodiscard]] constexpr index triangle_size(index n) noexcept {
    return (n + triangle_rows - 1) / triangle_rows * triangle_rows * n;
}

/// Packs the lower triangle of [n, n] into blocks [n / 6][n][6], zeros beyond.
inline void pack_triangle(double const* matrix, index n, double* packed) noexcept {
    for (index block = 0; block < n; block += triangle_rows)
        for (index j = 0; j < n; ++j)
            for (index i = block; i < block + triangle_rows; ++i) *packed++ = i < n && j <= i ? matrix[i * n + j] : 0.0;
}

/// out[lane] = |W x|^2 of each lane's x, for a lower triangle W, in double.
/// @param x        [columns, width]; width a multiple of 8
/// @param packed   triangle_size(columns), of pack_triangle
/// @param out      [width]
/// @param scratch  16 * columns
/// @complexity     O(width * columns^2 / 2)
template <class Arch = default_arch>
[[gnu::flatten]] void whitened_norms(float const* x, index columns, index width, double const* packed, float* out,
                                     double* scratch) noexcept {
    if constexpr (lanes<Arch> == 16) {  // as above
        return whitened_norms<xsimd::fma3<xsimd::avx2>>(x, columns, width, packed, out, scratch);
    } else if constexpr (!has_doubles<Arch>) {
        return scalar::whitened_norms(x, columns, width, packed, out);
    } else {
        constexpr index step = double_lanes<Arch>, pair = 2 * step;
        constexpr int rows = triangle_rows;
        for (index lane = 0; lane < width; lane += pair) {
            for (index j = 0; j < columns; ++j)
                unroll<2>([&](auto v) {
                    load_doubles<Arch>(x + j * width + lane + v * step).store_unaligned(scratch + j * pair + v * step);
                });
            std::array<doubles<Arch>, 2> total;
            total.fill(doubles<Arch>(0.0));
            for (index i = 0; i < columns; i += rows) {
                std::array<std::array<doubles<Arch>, 2>, rows> sums;
                for (auto& sum : sums) sum.fill(doubles<Arch>(0.0));
                double const* weights = packed + i * columns;
                index const depth = std::min(i + rows, columns);
                for (index j = 0; j < depth; ++j, weights += rows) {
                    std::array<doubles<Arch>, 2> right;
                    unroll<2>([&](auto v) { right[v] = doubles<Arch>::load_unaligned(scratch + j * pair + v * step); });
                    unroll<rows>([&](auto r) {
                        doubles<Arch> const left(weights[r]);
                        unroll<2>([&](auto v) { sums[r][v] = xsimd::fma(left, right[v], sums[r][v]); });
                    });
                }
                unroll<rows>([&](auto r) {
                    unroll<2>([&](auto v) { total[v] = xsimd::fma(sums[r][v], sums[r][v], total[v]); });
                });
            }
            unroll<2>([&](auto v) {
                std::array<double, doubles<Arch>::size> each;
                total[v].store_unaligned(each.data());
                for (std::size_t k = 0; k < each.size(); ++k)
                    out[lane + v * step + static_cast<index>(k)] = static_cast<float>(each[k]);
            });
        }
    }
}

}  // namespace terse::simd
