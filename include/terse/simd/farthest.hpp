// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include <terse/simd/load_store.hpp>
#include <terse/simd/top_k.hpp>

// Reading the rows limits this: a product uses each of their values once. So most products are not made. A row's
// distance to some of the picks bounds its distance to all of them, and only the row that leads by its bound is
// compared with the picks it has not seen, four at a time, until the leader has seen all. Bounds are kept by blocks, so
// that the leader is found among the blocks' highest.

namespace terse::simd {

/// Rows whose highest bound is kept.
inline constexpr index farthest_block = 64;

[[nodiscard]] constexpr index farthest_blocks(index count) noexcept {
    return (count + farthest_block - 1) / farthest_block;
}

/// The rows picked so far, and how far the others are from them at most. Whole blocks; what is beyond the last row
/// counts as picked.
struct farthest_state {
    static constexpr float picked = -std::numeric_limits<float>::infinity();
    static constexpr float not_finite = -2;  ///< instead of the distance of a row that has none: below all distances

    index count = 0;
    std::span<float const> inverse{};  ///< [count]: inverse norms, NaN for a row that is not finite
    std::span<float> bound{};          ///< [blocks * farthest_block]: distance to the first `seen` picks
    std::span<std::int32_t> seen{};    ///< [count]
    std::span<float> highest{};        ///< [blocks]: the highest bound of each
    std::span<token const> picks{};    ///< as many as have been made

    [[nodiscard]] std::span<float> block(index b) const noexcept {
        constexpr auto size = static_cast<std::size_t>(farthest_block);
        return bound.subspan(static_cast<std::size_t>(b) * size, size);
    }
};

/// The highest of a block's bounds.
template <class Arch>
[[nodiscard]] float highest_bound(float const* bounds) noexcept {
    auto highest = floats<Arch>::load_aligned(bounds);
    for (index i = lanes<Arch>; i < farthest_block; i += lanes<Arch>)
        highest = max_number<Arch>(floats<Arch>::load_aligned(bounds + i), highest);
    return max_lane<Arch>(highest);
}

/// Before the first pick: every row infinitely far, but for those that are not finite.
template <class Arch = default_arch>
void farthest_start(farthest_state const& s) noexcept {
    std::fill(s.bound.begin(), s.bound.end(), farthest_state::picked);
    std::fill(s.seen.begin(), s.seen.end(), 0);
    for (std::size_t i = 0; i < s.inverse.size(); ++i)
        s.bound[i] = is_nan(s.inverse[i]) ? farthest_state::not_finite : std::numeric_limits<float>::infinity();
    for (std::size_t b = 0; b < s.highest.size(); ++b)
        s.highest[b] = highest_bound<Arch>(s.block(static_cast<index>(b)).data());
}

/// Takes a row out.
template <class Arch = default_arch>
void farthest_remove(farthest_state const& s, index pick) noexcept {
    index const b = pick / farthest_block;
    s.bound[static_cast<std::size_t>(pick)] = farthest_state::picked;
    s.highest[static_cast<std::size_t>(b)] = highest_bound<Arch>(s.block(b).data());
}

/// The row of the highest bound, the lowest of equals; -1 when all are picked.
template <class Arch = default_arch>
[[nodiscard]] index farthest_leader(farthest_state const& s) noexcept {
    index const b = arg_highest<Arch>(s.highest);
    if (b < 0 || s.highest[static_cast<std::size_t>(b)] == farthest_state::picked) return -1;
    return b * farthest_block + arg_highest<Arch>(s.block(b));
}

/// The products of x with M rows. How one is summed does not depend on M.
template <class Arch, int M, class T>
[[nodiscard, gnu::flatten]] std::array<float, M> products(T const* x, std::array<T const*, M> const& rows,
                                                          index dim) noexcept {
    constexpr int each = lanes<Arch> == 16 ? 4 : 2;  // sums of a product, so that four rows' fit the registers
    constexpr index width = lanes<Arch>;
    std::array<std::array<floats<Arch>, each>, M> sums;
    unroll<M>([&](auto m) { sums[m].fill(floats<Arch>(0.0F)); });
    index i = 0;
    for (; dim - i >= each * width; i += each * width) {
        unroll<each>([&](auto part) {
            index const at = i + part * width;
            auto const value = load<Arch>(x + at);
            unroll<M>([&](auto m) { sums[m][part] = fma<Arch>(value, load<Arch>(rows[m] + at), sums[m][part]); });
        });
    }
    for (; i < dim; i += width) {
        index const rest = std::min(dim - i, width);
        auto const read = [rest](T const* from) noexcept {
            return rest == width ? load<Arch>(from) : load_partial<Arch>(from, rest);
        };
        auto const last = read(x + i);
        unroll<M>([&](auto m) { sums[m][0] = fma<Arch>(last, read(rows[m] + i), sums[m][0]); });
    }
    std::array<float, M> totals;
    unroll<M>([&](auto m) {
        for (std::size_t half = each / 2; half > 0; half /= 2)
            for (std::size_t part = 0; part < half; ++part) sums[m][part] += sums[m][part + half];
        totals[m] = sum_lanes<Arch>(sums[m][0]);
    });
    return totals;
}

/// Compares a row with up to four of the picks that it has not seen. Picks that are not finite change nothing.
/// The distance is one fused operation, lest the compiler fuse it for some counts of picks and not for others.
template <class Arch, class Row>
void farthest_compare(index i, Row row, index dim, farthest_state const& s) noexcept {
    auto const at = static_cast<std::size_t>(i);
    auto const next = static_cast<std::size_t>(s.seen[at]);
    float nearest = s.bound[at];
    auto const compare = [&]<int M>(std::integral_constant<int, M>) noexcept {
        auto const* const x = row(i);
        std::array<decltype(x + 0), M> rows;
        unroll<M>([&](auto m) { rows[m] = row(s.picks[next + m]); });
        auto const dots = products<Arch, M>(x, rows, dim);
        unroll<M>([&](auto m) {
            float const of_pick = s.inverse[static_cast<std::size_t>(s.picks[next + m])];
            if (!is_nan(of_pick)) nearest = std::min(nearest, std::fma(dots[m] * s.inverse[at], -of_pick, 1.0F));
        });
        s.seen[at] += M;
    };
    switch (s.picks.size() - next) {
        case 0:
            return;
        case 1:
            compare(std::integral_constant<int, 1>{});
            break;
        case 2:
            compare(std::integral_constant<int, 2>{});
            break;
        case 3:
            compare(std::integral_constant<int, 3>{});
            break;
        default:
            compare(std::integral_constant<int, 4>{});
    }
    s.bound[at] = nearest;
}

/// Makes the leader of blocks [begin, end) one that has seen all picks: then its bound is its distance, and no row of
/// these blocks is farther. Bounds depend on the picks alone, not on how the blocks are cut.
///
/// @param row     callable index -> T const*, of dim contiguous values; any layout
/// @complexity    O(rows * picks * dim) in all steps at most; no allocation
template <class Arch = default_arch, class Row>
void farthest_settle(index begin, index end, Row row, index dim, farthest_state const& s) noexcept {
    auto const highest = s.highest.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    for (;;) {
        index const lead = arg_highest<Arch>(highest);
        if (lead < 0 || highest[static_cast<std::size_t>(lead)] <= farthest_state::not_finite) return;
        index const b = begin + lead, first = b * farthest_block;
        auto const bounds = s.block(b);
        index const leader = first + arg_highest<Arch>(bounds);
        if (s.seen[static_cast<std::size_t>(leader)] == std::ssize(s.picks)) return;
        if (highest[static_cast<std::size_t>(lead)] == std::numeric_limits<float>::infinity()) {
            // Rows that have not met a pick: all of the block will lead in turn.
            for (index i = leader; i < std::min(first + farthest_block, s.count); ++i)
                if (s.bound[static_cast<std::size_t>(i)] == std::numeric_limits<float>::infinity())
                    farthest_compare<Arch>(i, row, dim, s);
        } else {
            farthest_compare<Arch>(leader, row, dim, s);
        }
        highest[static_cast<std::size_t>(lead)] = highest_bound<Arch>(bounds.data());
    }
}

/// The same from the cosines of the last pick with all rows, where they are known: every bound is a distance then.
/// @complexity O(count)
template <class Arch = default_arch>
void farthest_lower(float const* cosines, farthest_state const& s) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    for (index b = 0; b < std::ssize(s.highest); ++b) {
        batch highest(farthest_state::picked);
        float* const bounds = s.block(b).data();
        for (index i = 0; i < farthest_block; i += width) {
            index const rest = s.count - b * farthest_block - i;
            if (rest <= 0) break;
            float const* const from = cosines + b * farthest_block + i;
            auto const now = batch(1.0F) - (rest < width ? load_partial<Arch>(from, rest) : load<Arch>(from));
            auto const before = batch::load_aligned(bounds + i);
            auto const nearest = xsimd::select(now < before, now, before);
            nearest.store_aligned(bounds + i);
            highest = max_number<Arch>(nearest, highest);
        }
        s.highest[static_cast<std::size_t>(b)] = max_lane<Arch>(highest);
    }
}

}  // namespace terse::simd
