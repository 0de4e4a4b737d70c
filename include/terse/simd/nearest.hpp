// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/dots.hpp>
#include <terse/simd/tile.hpp>
#include <terse/simd/top_k.hpp>

// Limited by the multiply-adds of the tiles. What lies beside them: packing, a read of each left row and one of each
// right row for some hundred left ones, the norms, and four operations a vector of products.

namespace terse::simd {

/// 1 / max(sqrt(square), 1e-12); 0 for 0, so that a zero row is similar to nothing (similarity 0 to all).
[[nodiscard]] inline float inverse_norm(float square) noexcept {
    float const norm = std::sqrt(square);
    return norm == 0 ? 0 : 1 / (norm < 1e-12F ? 1e-12F : norm);
}

template <class Arch>
[[nodiscard]] floats<Arch> inverse_norm(floats<Arch> const& squares) noexcept {
    using batch = floats<Arch>;
    auto const norms = square_root<Arch>(squares);
    auto const inverse = batch(1.0F) / xsimd::select(norms < batch(1e-12F), batch(1e-12F), norms);
    return xsimd::select(norms == batch(0.0F), batch(0.0F), inverse);
}

/// inverse[i] = inverse_norm of row i.
/// @param row  callable index -> T const*, of dim contiguous values; any layout
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void inverse_norms(index count, Row row, index dim, std::span<float> inverse) noexcept {
    for_registers<Arch>(0, count, inverse.data(), [=](index i, index end) noexcept {
        return inverse_norm<Arch>(squared_norm_rows<Arch>(i, end, row, dim));
    });
}

/// Lanes in which `nearest` packs its left rows at once: 256 KiB of them, and at least 16 panels to share the norms of
/// right rows, but no more panels than `count` rows fill.
template <class Arch>
[[nodiscard]] constexpr index nearest_group(index count, index dim) noexcept {
    constexpr index width = panel_width<Arch>;
    index const panels = std::clamp<index>(65536 / (width * std::max<index>(dim, 1)), 16, 64);
    return std::min(panels, (count + width - 1) / width) * width;
}

/// Of `count` left rows those that go alone: less than half a register of lanes, which costs more than they do.
template <class Arch = default_arch>
[[nodiscard]] constexpr index lone_rows(index count) noexcept {
    return 2 * (count % lanes<Arch>) < lanes<Arch> ? count % lanes<Arch> : 0;
}

/// Floats of scratch that `nearest` wants for `count` left rows.
template <class Arch = default_arch>
[[nodiscard]] constexpr index nearest_scratch(index count, index dim) noexcept {
    index const group = nearest_group<Arch>(count, dim);
    return alignment_slack + group * (dim + 3) + row_copies<Arch>(dim) + 2 * chunk_rows<Arch> +
           lanes<Arch> / 2 * copied_row(dim) + partial_sums<Arch>(group, dim);
}

/// For each left row i of [left_begin, left_end) the right row of highest cosine. Of equals the lowest index; NaN never
/// wins; where nothing can be compared (no right row, or nothing but NaN) the cosine is -infinity and the partner -1.
///
/// Right rows are compared by <left, right> / |right|: the left norm orders nothing and scales the winner only. How a
/// left row's products are rounded depends on its place behind left_begin: ranges that begin at multiples of `lanes`
/// give what one range gives.
///
/// @param left, right  callables index -> T const*, of dim contiguous values; any layout
/// @param best         [left_end - left_begin]: the cosine
/// @param partner      [left_end - left_begin]: its right row
/// @param scratch      at least nearest_scratch(left_end - left_begin, dim)
/// @tparam ExcludeSelf left and right are the same rows, and a row is not its own partner
/// @complexity         O(rows * right_count * dim); no allocation, and no matrix of similarities
template <class Arch = default_arch, bool ExcludeSelf = false, class Left, class Right>
[[gnu::flatten]] void nearest(index left_begin, index left_end, Left left, index right_count, Right right, index dim,
                              std::span<float> best, std::span<token> partner, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    index const all = left_end - left_begin, group = nearest_group<Arch>(all, dim);
    float* const panels = align(scratch, nearest_scratch<Arch>(all, dim));
    float* const left_square = panels + group * dim;  // [group], behind the panels [group, dim]
    float* const highest = left_square + group;       // [group]
    float* const who = highest + group;               // [group]: their rows, indices in float's bits
    float* const copies = who + group;
    float* const right_inverse = copies + row_copies<Arch>(dim);  // [chunk_rows]
    float* const scores = right_inverse + chunk_rows<Arch>;       // [chunk_rows]: of a lone row
    float* const lone_copies = scores + chunk_rows<Arch>;
    float* const partial = lone_copies + lanes<Arch> / 2 * copied_row(dim);

    for (index first = left_begin; first < left_end; first += group) {
        index const count = std::min(group, left_end - first), across = count - lone_rows<Arch>(count);
        pack_panels<Arch, true>(first, across, left, dim, panels, left_square);
        broadcast_rows<Arch> const lone(first + across, count - across, left, dim, lone_copies);
        for (index lane = across; lane < count; ++lane)
            left_square[lane] = squared_norm<Arch>(lone[lane - across], dim);
        std::fill_n(highest, group, nothing);
        std::fill_n(who, group, std::bit_cast<float>(std::int32_t{-1}));

        for (index chunk = 0; chunk < right_count; chunk += chunk_rows<Arch>) {
            index const rows = std::min(chunk_rows<Arch>, right_count - chunk);
            broadcast_rows<Arch> const right_rows(chunk, rows, right, dim, copies);
            auto const right_row = [&](index i) noexcept { return right_rows[i]; };
            inverse_norms<Arch>(rows, right_row, dim, std::span(right_inverse, static_cast<std::size_t>(rows)));
            auto const keep_best = [&](auto R, auto V, auto const& products, index block, index p) noexcept {
                unroll<V>([&](auto v) {
                    index const lane = p + v * lanes<Arch>;
                    auto top = batch::load_aligned(highest + lane);
                    auto top_row = batch::load_aligned(who + lane);
                    unroll<R>([&](auto r) {
                        index const j = chunk + block + r;
                        auto score = products[r][v] * batch(right_inverse[block + r]);
                        if constexpr (ExcludeSelf) {
                            auto const self = batch(static_cast<float>(j - first - lane));
                            score = xsimd::select(lane_numbers<Arch>() == self, batch(nothing), score);
                        }
                        batch const row(std::bit_cast<float>(static_cast<std::int32_t>(j)));
                        top_row = xsimd::select(score > top, row, top_row);
                        top = max_number<Arch>(score, top);
                    });
                    top.store_aligned(highest + lane);
                    top_row.store_aligned(who + lane);
                });
            };
            multiply_all<Arch>(rows, right_rows, across, panels, dim, partial, keep_best);
            for (index lane = across; lane < count; ++lane) {
                for_registers<Arch>(0, rows, scores, [&](index i, index end) noexcept {
                    return dot_rows<Arch>(i, end, right_row, lone[lane - across], dim) *
                           batch::load_unaligned(right_inverse + i);
                });
                index const self = first + lane - chunk;
                if (ExcludeSelf && 0 <= self && self < rows) scores[self] = nothing;
                index const i = arg_highest<Arch>(std::span(scores, static_cast<std::size_t>(rows)));
                if (!(scores[i] > highest[lane])) continue;
                highest[lane] = scores[i];
                who[lane] = std::bit_cast<float>(static_cast<std::int32_t>(chunk + i));
            }
        }
        for (index lane = 0; lane < count; lane += lanes<Arch>)
            (batch::load_aligned(highest + lane) * inverse_norm<Arch>(batch::load_aligned(left_square + lane)))
                .store_aligned(highest + lane);
        for (index lane = 0; lane < count; ++lane) {
            float const cosine = highest[lane];
            auto const row = std::bit_cast<std::int32_t>(who[lane]);
            bool const found = row >= 0 && !is_nan(cosine);
            best[static_cast<std::size_t>(first + lane - left_begin)] = found ? cosine : nothing;
            partner[static_cast<std::size_t>(first + lane - left_begin)] = found ? row : -1;
        }
    }
}

}  // namespace terse::simd
