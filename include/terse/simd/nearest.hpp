// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/tile.hpp>

namespace terse::simd {

/// inverse[i] = 1 / max(|row(i)|, 1e-12); a zero row gets 0, so that it is similar to nothing (similarity 0 to all).
/// @param row  callable index -> T const*, of dim contiguous values; any layout
template <class Arch = default_arch, class Row>
void inverse_norms(index count, Row row, index dim, std::span<float> inverse) noexcept {
    for (index i = 0; i < count; ++i) {
        float const norm = std::sqrt(squared_norm<Arch>(row(i), dim));
        inverse[static_cast<std::size_t>(i)] = norm == 0 ? 0 : 1 / (norm < 1e-12F ? 1e-12F : norm);
    }
}

/// Left rows that `nearest` packs at once: panels of 64 KiB, or else one.
template <class Arch>
[[nodiscard]] constexpr index nearest_group(index dim) noexcept {
    return std::clamp<index>(16384 / (panel_width<Arch> * std::max<index>(dim, 1)), 1, 16) * panel_width<Arch>;
}

/// Floats of scratch that `nearest` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index nearest_scratch(index dim) noexcept {
    return alignment_slack + (nearest_group<Arch>(dim) + chunk_rows<Arch>)*dim + 2 * nearest_group<Arch>(dim);
}

/// For each left row i of [left_begin, left_end) the right row of highest cosine. Of equals the lowest index; NaN never
/// wins; where nothing can be compared (no right row, or nothing but NaN) the cosine is -infinity and the partner -1.
///
/// Right rows are compared by <left, right> * right_inverse: the left norm orders nothing and scales the winner only.
///
/// @param left, right   callables index -> T const*, of dim contiguous values; any layout
/// @param left_inverse  of inverse_norms, indexed as left; right_inverse as right
/// @param best          [left_end - left_begin]: the cosine
/// @param partner       [left_end - left_begin]: its right row
/// @param scratch       at least nearest_scratch(dim)
/// @tparam ExcludeSelf  left and right are the same rows, and a row is not its own partner
/// @complexity          O(rows * right_count * dim); no allocation, and no matrix of similarities
template <class Arch = default_arch, bool ExcludeSelf = false, class Left, class Right>
[[gnu::flatten]] void nearest(index left_begin, index left_end, Left left, std::span<float const> left_inverse,
                              index right_count, Right right, std::span<float const> right_inverse, index dim,
                              std::span<float> best, std::span<token> partner, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>;
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    index const group = nearest_group<Arch>(dim);
    float* const panels = align(scratch);
    float* const highest = panels + group * dim;  // [group], and their rows beside them: indices in float's bits
    float* const who = highest + group;
    float* const converted = who + group;

    for (index first = left_begin; first < left_end; first += group) {
        index const count = std::min(group, left_end - first);
        auto const vectors = [count](index panel) noexcept { return count - panel > lanes<Arch> ? 2 : 1; };
        for (index p = 0; p < count; p += width) {
            pack<Arch>(first + p, count - p, left, dim, vectors(p) * lanes<Arch>, panels + p * dim);
        }
        std::fill_n(highest, group, nothing);
        std::fill_n(who, group, std::bit_cast<float>(std::int32_t{-1}));

        for (index chunk = 0; chunk < right_count; chunk += chunk_rows<Arch>) {
            index const chunk_count = std::min(chunk_rows<Arch>, right_count - chunk);
            std::array<float const*, chunk_rows<Arch>> rows;
            float_rows<Arch>(chunk, chunk_count, right, dim, converted, rows.data());
            for (index p = 0; p < count; p += width) {
                for (index block = 0; block < chunk_count; block += tile_rows<Arch>) {
                    index const j = chunk + block;
                    auto const update = [&](auto R, auto V) noexcept {
                        auto const products = multiply<Arch, R, V>(rows.data() + block, panels + p * dim, dim);
                        unroll<V>([&](auto v) {
                            index const lane = p + v * lanes<Arch>;
                            auto top = batch::load_aligned(highest + lane);
                            auto top_row = batch::load_aligned(who + lane);
                            unroll<R>([&](auto r) {
                                auto score = products[r][v] * batch(right_inverse[static_cast<std::size_t>(j + r)]);
                                if constexpr (ExcludeSelf) {
                                    auto const self = batch(static_cast<float>(j + r - first - lane));
                                    score = xsimd::select(lane_numbers<Arch>() == self, batch(nothing), score);
                                }
                                batch const row(std::bit_cast<float>(static_cast<std::int32_t>(j + r)));
                                top_row = xsimd::select(score > top, row, top_row);
                                top = max_number<Arch>(score, top);
                            });
                            top.store_aligned(highest + lane);
                            top_row.store_aligned(who + lane);
                        });
                    };
                    with_tile<Arch>(std::min<index>(tile_rows<Arch>, chunk_count - block), vectors(p), update);
                }
            }
        }
        for (index lane = 0; lane < count; ++lane) {
            float const cosine = highest[lane] * left_inverse[static_cast<std::size_t>(first + lane)];
            auto const row = std::bit_cast<std::int32_t>(who[lane]);
            bool const found = row >= 0 && !is_nan(cosine);
            best[static_cast<std::size_t>(first + lane - left_begin)] = found ? cosine : nothing;
            partner[static_cast<std::size_t>(first + lane - left_begin)] = found ? row : -1;
        }
    }
}

}  // namespace terse::simd
