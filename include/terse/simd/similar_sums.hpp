// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/simd/gram.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds of the blocks, n^2 / 2 * dim of them where hardly any row is like another. A row looks
// for those like it from the last to the first and has done when it found enough: where few rows of two blocks still
// look, only these are multiplied.

namespace terse::simd {

/// Floats of scratch that `similar_sums` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index similar_sums_scratch(index count, index dim) noexcept {
    return gram_scratch<Arch>(dim) + gram_side * (gram_side + 4) + count;
}

/// Each row picks the last `most` other rows whose cosine with it is above `threshold`: sums[j] = sum of the cosines of
/// row j with all that picked it; nth[i] = the first of the rows that i picked, -1 where there are fewer than `most`.
/// NaN is above nothing.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param inverse  [count], of inverse_norms
/// @param most     at least 1
/// @param sums     [count]: receives the sums
/// @param nth      [count]: receives those rows
/// @param scratch  at least similar_sums_scratch(count, dim)
/// @pre            count <= 2^24
/// @complexity     O(count^2 * dim / 2) at most; O(count * most * dim) where all rows are alike
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void similar_sums(index count, Row row, index dim, std::span<float const> inverse, float threshold,
                                   index most, std::span<float> sums, std::span<token> nth,
                                   std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index side = gram_side, step = lanes<Arch>;
    float* const products = align(scratch, similar_sums_scratch<Arch>(count, dim));
    float* const mirrored = products + side * side;
    float* const panels = mirrored + side * side;        // [side, dim]: rows across lanes,
    float* const numbers = panels + side * dim;          // [side]: which they are,
    float* const inverse_across = numbers + side;        // their inverse norms,
    float* const picked_across = inverse_across + side;  // how many each picked,
    float* const last_across = picked_across + side;     // and the last pick of those that have done
    float* const blocks = last_across + side;            // what `multiply_block` wants
    float* const picked = scratch.data() + similar_sums_scratch<Arch>(count, dim) - count;  // [count]
    auto const at = [](index i) noexcept { return static_cast<std::size_t>(i); };
    auto const enough = static_cast<float>(most);
    batch const limit(threshold), wanted(enough), none(0.0F);

    auto const looking = [&](range r) noexcept {
        return std::count_if(picked + r.begin, picked + r.end, [enough](float n) noexcept { return n < enough; });
    };
    // Rows of `r` go across lanes, all or those that look for more; the lanes after them pick nothing.
    auto const lay_across = [&](range r, bool all) noexcept {
        index used = 0;
        for (index i = r.begin; i < r.end; ++i) {
            if (!all && !(picked[i] < enough)) continue;
            numbers[used] = static_cast<float>(i);
            inverse_across[used] = inverse[at(i)];
            picked_across[used] = picked[i];
            last_across[used++] = static_cast<float>(nth[at(i)]);
        }
        for (index lane = used; lane % step != 0; ++lane) {
            numbers[lane] = last_across[lane] = -1.0F;
            inverse_across[lane] = 0.0F;
            picked_across[lane] = enough;
        }
        return used;
    };
    // They pick among the rows of `r`, whose products with them are `from`.
    auto const pick = [&](float const* from, index used, range r) noexcept {
        for (index i = r.end - 1; i >= r.begin; --i) {
            batch const own(static_cast<float>(i)), own_inverse(inverse[at(i)]);
            float const* const line = from + (i - r.begin) * side;
            batch total = none;
            for (index lane = 0; lane < used; lane += step) {
                auto const before = batch::load_aligned(picked_across + lane);
                auto const cosine =
                    batch::load_aligned(line + lane) * batch::load_aligned(inverse_across + lane) * own_inverse;
                auto const picks = (cosine > limit) & (before < wanted) & (batch::load_aligned(numbers + lane) != own);
                auto const after = before + xsimd::select(picks, batch(1.0F), none);
                after.store_aligned(picked_across + lane);
                xsimd::select(picks & (after == wanted), own, batch::load_aligned(last_across + lane))
                    .store_aligned(last_across + lane);
                total += xsimd::select(picks, cosine, none);
            }
            sums[at(i)] += sum_lanes<Arch>(total);
        }
        for (index lane = 0; lane < used; ++lane) {
            auto const i = static_cast<index>(numbers[lane]);
            picked[i] = picked_across[lane];
            nth[at(i)] = static_cast<token>(last_across[lane]);
        }
    };

    std::fill_n(sums.begin(), count, 0.0F);
    std::fill_n(nth.begin(), count, token{-1});
    std::fill_n(picked, count, 0.0F);
    index const sides = (count + side - 1) / side;
    auto const side_at = [&](index i) noexcept { return range{i * side, std::min((i + 1) * side, count)}; };
    for (index later = sides - 1; later >= 0; --later) {
        for (index earlier = later; earlier >= 0; --earlier) {
            range const r = side_at(later), c = side_at(earlier);
            index const of_r = looking(r), of_c = later == earlier ? 0 : looking(c);
            if (later == earlier || of_r + of_c < side) {
                auto const search = [&](range own, range others) noexcept {
                    index const used = lay_across(own, false);
                    pack_panels<Arch>(
                        0, used, [&](index lane) noexcept { return row(static_cast<index>(numbers[lane])); }, dim,
                        panels);
                    multiply_block<Arch>({products, others.begin, others.size(), -1, used}, row, dim, panels, blocks);
                    pick(products, used, others);
                };
                if (of_r > 0) search(r, c);
                if (of_c > 0) search(c, r);
            } else {
                pack_panels<Arch>(c.begin, c.size(), row, dim, panels);
                multiply_block<Arch>({products, r.begin, r.size(), c.begin, c.size()}, row, dim, panels, blocks);
                pick(products, lay_across(c, true), r);
                transpose<Arch>(r.size(), c.size(), products, side, mirrored, side);
                pick(mirrored, lay_across(r, true), c);
            }
        }
    }
}

}  // namespace terse::simd
