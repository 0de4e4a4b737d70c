// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/convert.hpp>

// Products of all rows of one side with all rows of another, tile by tile. One side is packed into panels, so that its
// rows lie across lanes: put there the side over which nothing is reduced. The other is broadcast, read in place.

namespace terse::simd {

/// Rows of the broadcast side that a tile takes at once: with two lane vectors, three quarters of the registers sum.
template <class Arch>
inline constexpr int tile_rows =
    std::derived_from<Arch, xsimd::avx512f> || std::derived_from<Arch, xsimd::neon64> ? 12 : 6;

/// Rows of the lane side in a panel: two vectors.
template <class Arch>
inline constexpr index panel_width = 2 * lanes<Arch>;

/// Rows of the broadcast side that are walked while one panel is hot.
template <class Arch>
inline constexpr index chunk_rows = 24;

/// The sums of R broadcast rows and V lane vectors.
template <class Arch, int R, int V>
using tile = std::array<std::array<floats<Arch>, V>, R>;

/// The first float of `scratch` on a cache line. Sizes of scratch count `alignment_slack` for it.
[[nodiscard]] inline float* align(std::span<float> scratch) noexcept {
    auto const address = reinterpret_cast<std::uintptr_t>(scratch.data());
    return scratch.data() + (-address & 63U) / sizeof(float);
}
inline constexpr index alignment_slack = 15;

/// Packs rows [first, first + count) into panel[dim][width]; lanes without a row are zero.
/// @pre width is a multiple of 4
template <class Arch, class Row>
void pack(index first, index count, Row row, index dim, index width, float* panel) noexcept {
    using quad_arch = std::conditional_t<xsimd::sse2::supported(), xsimd::sse2, Arch>;
    using quad = floats<quad_arch>;
    static_assert(quad::size == 4, "packing wants 128-bit registers");
    for (index lane = 0; lane < width; lane += 4) {
        for (index k = 0; k < dim; k += 4) {
            index const depth = std::min<index>(dim - k, 4);
            auto const read = [&](index i) noexcept {
                if (lane + i >= count) return quad(0.0F);
                auto const* const from = row(first + lane + i) + k;
                return depth == 4 ? load<quad_arch>(from) : load_partial<quad_arch>(from, depth);
            };
            auto const a = read(0), b = read(1), c = read(2), d = read(3);
            auto const ac = xsimd::zip_lo(a, c), bd = xsimd::zip_lo(b, d);
            auto const ac_high = xsimd::zip_hi(a, c), bd_high = xsimd::zip_hi(b, d);
            float* const to = panel + k * width + lane;
            xsimd::zip_lo(ac, bd).store_unaligned(to);
            if (depth > 1) xsimd::zip_hi(ac, bd).store_unaligned(to + width);
            if (depth > 2) xsimd::zip_lo(ac_high, bd_high).store_unaligned(to + 2 * width);
            if (depth > 3) xsimd::zip_hi(ac_high, bd_high).store_unaligned(to + 3 * width);
        }
    }
}

/// Rows [first, first + count) as floats: pointers to where they stand, or to `converted` [count, dim] when they are in
/// 16 bit.
template <class Arch, class Row>
void float_rows(index first, index count, Row row, index dim, float* converted, float const** rows) noexcept {
    for (index i = 0; i < count; ++i) {
        auto const* const from = row(first + i);
        if constexpr (std::same_as<decltype(from), float const* const>) {
            rows[i] = from;
        } else {
            auto const size = static_cast<std::size_t>(dim);
            convert<Arch>(std::span(from, size), std::span(converted + i * dim, size));
            rows[i] = converted + i * dim;
        }
    }
}

/// The products of R rows with a panel of V vectors.
template <class Arch, int R, int V>
[[nodiscard]] tile<Arch, R, V> multiply(float const* const* rows, float const* panel, index dim) noexcept {
    std::array<float const*, R> from;
    tile<Arch, R, V> sums;
    unroll<R>([&](auto r) {
        from[r] = rows[r];
        unroll<V>([&](auto v) { sums[r][v] = floats<Arch>(0.0F); });
    });
    for (index k = 0; k < dim; ++k, panel += V * lanes<Arch>) {
        std::array<floats<Arch>, V> right;
        unroll<V>([&](auto v) { right[v] = floats<Arch>::load_aligned(panel + v * lanes<Arch>); });
        unroll<R>([&](auto r) {
            floats<Arch> const left(from[r][k]);
            unroll<V>([&](auto v) { sums[r][v] = fma<Arch>(left, right[v], sums[r][v]); });
        });
    }
    return sums;
}

/// Calls body(R, V), as constants, for the tile of `rows` rows, 1 to tile_rows, and `vectors` vectors, 1 or 2.
template <class Arch, int R = tile_rows<Arch>, class Body>
void with_tile(index rows, index vectors, Body&& body) noexcept {
    if (rows == R) {
        if (vectors == 1)
            body(std::integral_constant<int, R>{}, std::integral_constant<int, 1>{});
        else
            body(std::integral_constant<int, R>{}, std::integral_constant<int, 2>{});
    } else if constexpr (R > 1) {
        with_tile<Arch, R - 1>(rows, vectors, body);
    }
}

}  // namespace terse::simd
