// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/tile.hpp>

// Multiply-adds limit this: n^2 / 2 * dim of them, half of what a general product takes. The lower triangle is cut into
// square blocks; one's sums stay in the second-level cache until all of its depth is in them, and are scaled, written,
// mirrored and compared from there.

namespace terse::simd {

/// Rows and columns of a block of `gram`: whole tiles and whole panels on every architecture.
inline constexpr index gram_side = 192;

/// Blocks of the lower triangle of `count` rows' products: what the work is cut by.
[[nodiscard]] constexpr index gram_blocks(index count) noexcept {
    index const sides = (count + gram_side - 1) / gram_side;
    return sides * (sides + 1) / 2;
}

/// Floats of scratch that `gram` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index gram_scratch(index dim) noexcept {
    return alignment_slack + gram_side * gram_side + gram_side * dim + row_copies<Arch>(dim) +
           partial_sums<Arch>(gram_side, dim);
}

/// to[j][i] = from[i][j], i < rows, j < columns.
template <class Arch>
void transpose(index rows, index columns, float const* from, index from_stride, float* to, index to_stride) noexcept {
    using quad_arch = std::conditional_t<xsimd::sse2::supported(), xsimd::sse2, Arch>;
    using quad = floats<quad_arch>;
    static_assert(quad::size == 4, "transposing wants 128-bit registers");
    index const whole_rows = rows - rows % 4, whole_columns = columns - columns % 4;
    for (index j = 0; j < whole_columns; j += 4) {
        for (index i = 0; i < whole_rows; i += 4) {
            auto const read = [&](index r) noexcept { return quad::load_unaligned(from + (i + r) * from_stride + j); };
            auto const a = read(0), b = read(1), c = read(2), d = read(3);
            auto const ac = xsimd::zip_lo(a, c), bd = xsimd::zip_lo(b, d);
            auto const ac_high = xsimd::zip_hi(a, c), bd_high = xsimd::zip_hi(b, d);
            xsimd::zip_lo(ac, bd).store_unaligned(to + j * to_stride + i);
            xsimd::zip_hi(ac, bd).store_unaligned(to + (j + 1) * to_stride + i);
            xsimd::zip_lo(ac_high, bd_high).store_unaligned(to + (j + 2) * to_stride + i);
            xsimd::zip_hi(ac_high, bd_high).store_unaligned(to + (j + 3) * to_stride + i);
        }
        for (index i = whole_rows; i < rows; ++i)
            for (index r = 0; r < 4; ++r) to[(j + r) * to_stride + i] = from[i * from_stride + j + r];
    }
    for (index j = whole_columns; j < columns; ++j)
        for (index i = 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
}

/// A block of products, [gram_side, gram_side] floats apart: rows [row, row + rows) by rows [column, column + columns).
/// On the diagonal both are the same rows, and only what is not above the diagonal is defined.
struct gram_block {
    float* sums = nullptr;
    index row = 0, rows = 0;
    index column = 0, columns = 0;
};

/// The products of one block. `panels` hold its columns, packed; `scratch` has room for copies of rows and partial
/// sums.
template <class Arch, class Row>
[[gnu::flatten]] void multiply_block(gram_block const& b, Row row, index dim, float const* panels,
                                     float* scratch) noexcept {
    for (index chunk = 0; chunk < b.rows; chunk += chunk_rows<Arch>) {
        index const rows = std::min(chunk_rows<Arch>, b.rows - chunk);
        index const wanted = b.row == b.column ? chunk + rows : b.columns;  // not what is above the diagonal
        broadcast_rows<Arch> const here(b.row + chunk, rows, row, dim, scratch);
        auto const keep = [&](auto R, auto V, auto const& products, index block, index p) noexcept {
            float* const to = b.sums + (chunk + block) * gram_side + p;
            unroll<R>([&](auto r) {
                unroll<V>([&](auto v) { products[r][v].store_aligned(to + r * gram_side + v * lanes<Arch>); });
            });
        };
        multiply_all<Arch>(rows, here, b.columns, panels, dim, scratch + row_copies<Arch>(dim), keep, wanted);
    }
}

/// highest[i] = max(highest[i], the highest of row i of a block): of the block's rows, and, unless it is on the
/// diagonal, of its columns. NaN never wins.
template <class Arch>
[[gnu::flatten]] void raise_highest(gram_block const& b, float* highest) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    bool const diagonal = b.row == b.column;
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    index const whole = b.columns - b.columns % width, rest = b.columns - whole;
    float* const columns = highest + b.column;
    for (index i = 0; i < b.rows; ++i) {
        float* const sums = b.sums + i * gram_side;
        float const self = sums[i];
        if (diagonal) sums[i] = nothing;
        batch most(nothing);
        for (index j = 0; j < whole; j += width) {
            auto const x = batch::load_aligned(sums + j);
            most = max_number<Arch>(x, most);
            if (!diagonal) max_number<Arch>(x, batch::load_unaligned(columns + j)).store_unaligned(columns + j);
        }
        if (rest > 0) {
            auto const x = xsimd::select(lane_numbers<Arch>() < batch(static_cast<float>(rest)),
                                         batch::load_aligned(sums + whole), batch(nothing));
            most = max_number<Arch>(x, most);
            if (!diagonal) {
                auto const before = load_partial<Arch>(columns + whole, rest);
                store_partial<Arch>(max_number<Arch>(x, before), columns + whole, rest);
            }
        }
        highest[b.row + i] = std::max(highest[b.row + i], max_lane<Arch>(most));
        if (diagonal) sums[i] = self;
    }
}

/// totals[i] += the products of row i of a block, scaled, that reach least[i]; and the same of its columns. Products of
/// rows with themselves are left out, and so is NaN.
template <class Arch>
[[gnu::flatten]] void add_reaching(gram_block const& b, float const* inverse, float const* least,
                                   float* totals) noexcept {
    using batch = floats<Arch>;
    bool const diagonal = b.row == b.column;
    float const *const inverse_column = inverse + b.column, *const least_column = least + b.column;
    float* const column_totals = totals + b.column;
    for (index i = 0; i < b.rows; ++i) {
        float const* const sums = b.sums + i * gram_side;
        batch const inverse_row(inverse[b.row + i]), least_row(least[b.row + i]), none(0.0F);
        batch total = none;
        auto const take = [&](index j, auto read) noexcept {
            auto const x = read(sums + j) * inverse_row * read(inverse_column + j);
            total += xsimd::select(x >= least_row, x, none);
            return read(column_totals + j) + xsimd::select(x >= read(least_column + j), x, none);
        };
        index const columns = diagonal ? i : b.columns, whole = columns - columns % lanes<Arch>;
        for (index j = 0; j < whole; j += lanes<Arch>)
            store<Arch>(take(j, [](float const* p) noexcept { return load<Arch>(p); }), column_totals + j);
        if (index const rest = columns - whole; rest > 0) {
            auto const read = [rest](float const* p) noexcept { return load_partial<Arch>(p, rest); };
            store_partial<Arch>(take(whole, read), column_totals + whole, rest);
        }
        totals[b.row + i] += sum_lanes<Arch>(total);
    }
}

/// For each row the sum of its scaled products with the other rows that reach its threshold, without a matrix:
/// totals[i] += sum over j != i of x = <row(i), row(j)> * inverse[i] * inverse[j] where x >= least[i].
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param inverse  [count], of inverse_norms
/// @param least    [count]
/// @param totals   [count]
/// @param scratch  at least gram_scratch(dim)
/// @complexity     O(count^2 * dim / 2); no allocation
template <class Arch = default_arch, class Row>
void gram_reaching(index count, Row row, index dim, std::span<float const> inverse, std::span<float const> least,
                   std::span<float> totals, std::span<float> scratch) noexcept {
    float* const sums = align(scratch, gram_scratch<Arch>(dim));
    float* const panels = sums + gram_side * gram_side;
    float* const rest = panels + gram_side * dim;
    for (index column = 0; column < count; column += gram_side) {
        index const columns = std::min(gram_side, count - column);
        pack_panels<Arch>(column, columns, row, dim, panels);
        for (index first = column; first < count; first += gram_side) {
            gram_block const b{sums, first, std::min(gram_side, count - first), column, columns};
            multiply_block<Arch>(b, row, dim, panels, rest);
            add_reaching<Arch>(b, inverse.data(), least.data(), totals.data());
        }
    }
}

/// The products of all rows with each other: out[i][j] = <row(i), row(j)> * inverse[i] * inverse[j], symmetric to the
/// last bit. Computes blocks [begin, end) of gram_blocks(count), of equal work but for those on the diagonal, and
/// writes each block and its mirror image: several workers can share the blocks, and no result depends on the cut.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param inverse  [count], of inverse_norms: cosines, a zero row similar to nothing; empty: plain products
/// @param out      [count, count], rows out_stride apart, any alignment; null: nothing is stored
/// @param highest  [count], -infinity before: becomes each row's highest product with another row that the blocks hold
///                 (NaN never wins), so one of each worker, and the highest of them; empty: not wanted
/// @param scratch  at least gram_scratch(dim)
/// @complexity     O(count^2 * dim / 2); no allocation
template <class Arch = default_arch, class Row>
void gram(index begin, index end, index count, Row row, index dim, std::span<float const> inverse, float* out,
          index out_stride, std::span<float> highest, std::span<float> scratch) noexcept {
    index const sides = (count + gram_side - 1) / gram_side;
    float* const sums = align(scratch, gram_scratch<Arch>(dim));
    float* const panels = sums + gram_side * gram_side;
    float* const rest = panels + gram_side * dim;

    // Blocks are numbered down the columns of the triangle, so that a range packs few of them.
    index column = 0, first = 0;  // a column, and the number of its first block
    while (begin >= first + sides - column && column < sides) first += sides - column++;
    for (index block = begin, packed = -1; block < end; ++block) {
        if (block == first + sides - column) first = block, ++column;
        gram_block b{.sums = sums, .row = (column + block - first) * gram_side, .column = column * gram_side};
        b.rows = std::min(gram_side, count - b.row);
        b.columns = std::min(gram_side, count - b.column);
        if (packed != column) {
            pack_panels<Arch>(b.column, b.columns, row, dim, panels);
            packed = column;
        }
        multiply_block<Arch>(b, row, dim, panels, rest);

        bool const diagonal = b.row == b.column;
        if (!inverse.empty()) {
            for (index i = 0; i < b.rows; ++i) {
                float const of_row = inverse[static_cast<std::size_t>(b.row + i)];
                for (index j = 0; j < (diagonal ? i + 1 : b.columns); ++j)
                    sums[i * gram_side + j] *= of_row * inverse[static_cast<std::size_t>(b.column + j)];
            }
        }
        if (diagonal) {
            for (index i = 0; i < b.rows; i += 4) {
                index const below = std::min(i + 4, b.rows);
                for (index j = i; j < below; ++j)
                    for (index r = j + 1; r < below; ++r) sums[j * gram_side + r] = sums[r * gram_side + j];
                transpose<Arch>(b.rows - below, below - i, sums + below * gram_side + i, gram_side,
                                sums + i * gram_side + below, gram_side);
            }
        }
        if (!highest.empty()) raise_highest<Arch>(b, highest.data());
        if (out != nullptr) {
            for (index i = 0; i < b.rows; ++i)
                std::copy_n(sums + i * gram_side, b.columns, out + (b.row + i) * out_stride + b.column);
            if (!diagonal)
                transpose<Arch>(b.rows, b.columns, sums, gram_side, out + b.column * out_stride + b.row, out_stride);
        }
    }
}

}  // namespace terse::simd
