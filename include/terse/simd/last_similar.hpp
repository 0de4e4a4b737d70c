// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/simd/gram.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds of the tiles, n^2 / 2 * dim of them where no row is like another. Keys seldom are that
// different: columns come from the last to the first, and a row whose answer is found takes no further part.

namespace terse::simd {

/// Floats of scratch that `last_similar` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index last_similar_scratch(index count, index dim) noexcept {
    return alignment_slack + 2 * (count + gram_side) + (dim + 3) * gram_side + chunk_rows<Arch> * (lanes<Arch> + 2) +
           row_copies<Arch>(dim) + partial_sums<Arch>(gram_side, dim);
}

/// For each row the last other row whose cosine with it is above `threshold`: last[i] = max{j : j != i, <row(i),
/// row(j)> * inverse[i] * inverse[j] > threshold}; -1 where there is none. NaN is above nothing.
///
/// @param row      callable index -> T const*, of dim contiguous values; any layout
/// @param inverse  [count], of inverse_norms
/// @param last     [count]: receives the answers
/// @param scratch  at least last_similar_scratch(count, dim)
/// @pre            count <= 2^24
/// @complexity     O(count^2 * dim / 2) at most; O(count * dim) where all rows are like one of the last ones
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void last_similar(index count, Row row, index dim, std::span<float const> inverse, float threshold,
                                   std::span<token> last, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index side = gram_side, step = lanes<Arch>, chunk_size = chunk_rows<Arch>;
    index const sides = (count + side - 1) / side;
    index const wanted = last_similar_scratch<Arch>(count, dim);
    float* const found = align(scratch, wanted);          // [count]: the answers so far, by number
    float* const open = found + sides * side;             // [count]: the rows without one, ascending
    float* const panels = open + sides * side;            // [dim, side]: rows across lanes,
    float* const numbers_across = panels + dim * side;    // [side]: which they are,
    float* const inverse_across = numbers_across + side;  // their inverse norms,
    float* const found_across = inverse_across + side;    // and their answers
    float* const copies = found_across + side;            // of the rows that meet them
    float* const partial = copies + row_copies<Arch>(dim);
    float* const best = partial + partial_sums<Arch>(side, dim);  // [chunk_size, lanes]
    float* const meeting = best + chunk_size * step;              // [chunk_size]: which rows those are,
    float* const their_inverse = meeting + chunk_size;            // and their inverse norms

    auto const number = [](float x) noexcept { return static_cast<index>(x); };
    auto const lay_across = [&](index used, auto which) noexcept {
        pack_panels<Arch>(
            0, used, [&](index lane) noexcept { return row(which(lane)); }, dim, panels);
        for (index lane = 0; lane < side; ++lane) {
            index const i = lane < used ? which(lane) : -1;
            numbers_across[lane] = static_cast<float>(i);
            inverse_across[lane] = i < 0 ? 0.0F : inverse[static_cast<std::size_t>(i)];
            found_across[lane] = i < 0 ? 0.0F : found[i];
        }
    };
    // `rows` rows meet those across lanes: both sides learn of the last that is like them.
    auto const meet = [&](index rows, index used) noexcept {
        broadcast_rows<Arch> const met(
            0, rows, [&](index k) noexcept { return row(number(meeting[k])); }, dim, copies);
        for (index k = 0; k < rows; ++k) their_inverse[k] = inverse[static_cast<std::size_t>(number(meeting[k]))];
        std::fill_n(best, rows * step, -1.0F);
        auto const compare = [&](auto R, auto V, auto const& products, index first, index p) noexcept {
            unroll<V>([&](auto v) {
                index const lane = p + v * step;
                auto const numbers = batch::load_aligned(numbers_across + lane);
                auto const norms = batch::load_aligned(inverse_across + lane);
                auto highest = batch::load_aligned(found_across + lane);
                unroll<R>([&](auto r) {
                    batch const own(meeting[first + r]), none(-1.0F);
                    auto const cosine = products[r][v] * norms * batch(their_inverse[first + r]);
                    auto const like = (cosine > batch(threshold)) & (numbers != own);
                    highest = max_number<Arch>(xsimd::select(like, own, none), highest);
                    float* const at = best + (first + r) * step;
                    max_number<Arch>(xsimd::select(like, numbers, none), batch::load_aligned(at)).store_aligned(at);
                });
                highest.store_aligned(found_across + lane);
            });
        };
        multiply_all<Arch>(rows, met, used, panels, dim, partial, compare);
    };

    std::fill_n(found, count, -1.0F);
    for (index i = 0; i < count; ++i) open[i] = static_cast<float>(i);
    index left = count;
    for (index begin = (sides - 1) * side; begin >= 0 && left > 0; begin -= side) {
        index const end = std::min(begin + side, count);
        auto const first_lane = static_cast<float>(begin);
        lay_across(end - begin, [begin](index lane) noexcept { return begin + lane; });
        for (index chunk = 0; chunk < left; chunk += chunk_size) {
            index const rows = std::min(chunk_size, left - chunk);
            std::copy_n(open + chunk, rows, meeting);
            meet(rows, end - begin);
            for (index k = 0; k < rows; ++k) {
                float& answer = found[number(meeting[k])];
                answer = std::max(answer, max_lane<Arch>(batch::load_aligned(best + k * step)));
            }
        }

        // Open rows of these columns have met the open rows before them; of the others, the last ones come first.
        index lower = 0;
        while (lower < left && open[lower] < first_lane) ++lower;
        index searching = 0;
        for (index k = lower; k < left; ++k) {
            float& answer = found[number(open[k])];
            answer = std::max(answer, found_across[number(open[k]) - begin]);
            if (answer < first_lane) open[lower + searching++] = open[k];
        }
        if (searching > 0 && lower < begin) {
            float const* const who = open + lower;
            lay_across(searching, [&](index lane) noexcept { return number(who[lane]); });
            index next = begin - 1, skip = lower - 1;
            while (next >= 0 && *std::min_element(found_across, found_across + searching) < static_cast<float>(next)) {
                index rows = 0;
                for (; next >= 0 && rows < chunk_size; --next) {
                    if (skip >= 0 && number(open[skip]) == next)
                        --skip;
                    else
                        meeting[rows++] = static_cast<float>(next);
                }
                if (rows > 0) meet(rows, searching);
            }
            for (index lane = 0; lane < searching; ++lane) found[number(who[lane])] = found_across[lane];
        }

        left = 0;
        for (index k = 0; k < lower; ++k)
            if (found[number(open[k])] < first_lane) open[left++] = open[k];
    }
    for (index i = 0; i < count; ++i) last[static_cast<std::size_t>(i)] = static_cast<token>(found[i]);
}

}  // namespace terse::simd
