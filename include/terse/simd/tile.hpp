// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>

#include <terse/simd/convert.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/quantised_row.hpp>

// Products of all rows of one side with all rows of another, tile by tile: the core of every kernel that compares
// tokens. Limited by the multiply-adds, as long as loads are fewer: a tile of R rows and V vectors of lanes does R * V
// of them with R + V loads. One side lies across lanes: the side over which nothing is reduced, so that maxima and sums
// need no horizontal step, and packed, k after k. The other is broadcast from where its rows lie.

namespace terse::simd {

/// Vectors of lanes in a panel, at most.
template <class Arch>
inline constexpr int panel_vectors = std::derived_from<Arch, xsimd::avx512f> ? 3 : 2;

/// Rows of the lane side in a panel, at most.
template <class Arch>
inline constexpr index panel_width = panel_vectors<Arch>* lanes<Arch>;

/// Vectors of the next panel where `count` lanes are left. Not all that fit, where the last one would stand alone.
template <class Arch>
[[nodiscard]] constexpr int vectors_of_panel(index count) noexcept {
    constexpr index most = panel_vectors<Arch>;
    index const all = (count + lanes<Arch> - 1) / lanes<Arch>;
    return static_cast<int>(all > most && all < 2 * most ? (all + 1) / 2 : std::min(all, most));
}

/// Rows of the broadcast side that a tile of V vectors takes at once: three quarters of the registers sum.
template <class Arch, int V = panel_vectors<Arch>>
inline constexpr int tile_rows =
    (std::derived_from<Arch, xsimd::avx512f> || std::derived_from<Arch, xsimd::neon64> ? 24 : 12) / (V < 2 ? 2 : V);

/// Rows of the broadcast side that are walked while one panel is hot.
template <class Arch>
inline constexpr index chunk_rows = 4 * tile_rows<Arch, 2>;

/// Channels that a tile takes at once. A panel and a block of 256 stay in the first cache; a wide tile asks so little of
/// the second that this gains nothing.
template <class Arch>
inline constexpr index tile_depth = std::derived_from<Arch, xsimd::avx512f> ? 1024 : 256;

/// The sums of R broadcast rows and V lane vectors.
template <class Arch, int R, int V>
using tile = std::array<std::array<floats<Arch>, V>, R>;

/// The first float on a cache line of `scratch`, which must hold `size` floats: those that a kernel takes, and
/// `alignment_slack`.
[[nodiscard]] inline float* align(std::span<float> scratch, [[maybe_unused]] index size) noexcept {
    assert(std::ssize(scratch) >= size);
    auto const address = reinterpret_cast<std::uintptr_t>(scratch.data());
    return scratch.data() + (-address & 63U) / sizeof(float);
}
inline constexpr index alignment_slack = 15;

/// Four values of each row `from[i]`, `from[i + 4]`, ...: one row a 128-bit block.
template <class Arch, class Pointer, std::size_t N, class Load>
[[nodiscard]] floats<Arch> load_blocks(std::array<Pointer, N> const& from, std::size_t i, Load quad) noexcept {
#ifdef __AVX512F__
    if constexpr (N == 16) {
        auto const low = _mm512_castps128_ps512(quad(from[i]));
        auto const half = _mm512_insertf32x4(low, quad(from[i + 4]), 1);
        return floats<Arch>(_mm512_insertf32x4(_mm512_insertf32x4(half, quad(from[i + 8]), 2), quad(from[i + 12]), 3));
    }
#endif
#ifdef __AVX__
    if constexpr (N == 8)
        return floats<Arch>(_mm256_insertf128_ps(_mm256_castps128_ps256(quad(from[i])), quad(from[i + 4]), 1));
#endif
    if constexpr (N == 4) return quad(from[i]);
}

/// Of 128-bit blocks of four rows each, x[i] of rows i: the rows' first values, their second ones, ...
template <class Arch>
[[nodiscard]] std::array<floats<Arch>, 4> transposed(std::array<floats<Arch>, 4> const& x) noexcept {
    auto const even = interleave<false, Arch>(x[0], x[2]), odd = interleave<false, Arch>(x[1], x[3]);
    auto const even_high = interleave<true, Arch>(x[0], x[2]), odd_high = interleave<true, Arch>(x[1], x[3]);
    return {interleave<false, Arch>(even, odd), interleave<true, Arch>(even, odd),
            interleave<false, Arch>(even_high, odd_high), interleave<true, Arch>(even_high, odd_high)};
}

/// Packs the first channels of rows in 8 bit, 16 at a time, as floats, `width` apart, and calls use(x) for each: the
/// codes of four channels are transposed as one float, and taken apart and scaled when every lane holds its own row.
/// @return how many were packed
template <class Arch, class Scale, std::size_t N, class Use>
[[nodiscard]] index pack_codes(std::array<quantised_row<Scale>, N> const& from, index dim, index width, float* panel,
                               Use use) noexcept {
    using quad = floats<std::conditional_t<lanes<Arch> == 4, Arch, xsimd::sse2>>;
    index k = 0;
    if (from[0].group == 1) return k;
    for_scales(from[0], dim, [&](index begin, index end, index which) noexcept {
        if (k < begin || end - begin < 16) return;  // what is before was not packed, or scales change within
        std::array<float, N> each;
        for (std::size_t i = 0; i < N; ++i) each[i] = to_float(from[i].scales[which]);
        auto const scale = floats<Arch>::load_unaligned(each.data());
        for (; end - k >= 16; k += 16) {
            std::array<floats<Arch>, 4> x;
            unroll<4>([&](auto i) {
                x[i] = load_blocks<Arch>(from, i, [k](quantised_row<Scale> const& row) noexcept {
                    return quad::load_unaligned(reinterpret_cast<float const*>(row.codes + row.first + k));
                });
            });
            x = transposed<Arch>(x);
            unroll<4>([&](auto i) {
                auto const codes = std::bit_cast<ints<Arch>>(x[i]);
                unroll<4>([&](auto byte) {
                    auto const code = shift_right<24, Arch>(shift_left<24 - 8 * byte, Arch>(codes));
                    auto const value = from_ints<Arch>(code) * scale;
                    value.store_aligned(panel + (k + 4 * i + byte) * width);
                    use(value);
                });
            });
        }
    });
    return k;
}

/// Packs rows [first, first + count) into panel[dim][width], as floats; lanes without a row repeat the last one.
/// With Squares, the squared norm of each lane's row goes to squares[width].
/// @pre count >= 1; width is a multiple of lanes; panel and squares are aligned to a register
template <class Arch, bool Squares = false, class Row>
[[gnu::flatten]] void pack(index first, index count, Row row, index dim, index width, float* panel,
                           float* squares = nullptr) noexcept {
    using quad_arch = std::conditional_t<lanes<Arch> == 4, Arch, xsimd::sse2>;
    using quad = floats<quad_arch>;
    static_assert(quad::size == 4, "packing wants 128-bit registers");
    for (index lane = 0; lane < width; lane += lanes<Arch>) {
        std::array<decltype(row(first)), floats<Arch>::size> from;
        unroll<lanes<Arch>>([&](auto i) { from[i] = row(first + std::min<index>(lane + i, count - 1)); });
        std::array<floats<Arch>, 4> sums;
        sums.fill(floats<Arch>(0.0F));
        auto const transpose = [&](index k, index depth, auto load_quad) noexcept {
            std::array<floats<Arch>, 4> x;
            unroll<4>([&](auto i) { x[i] = load_blocks<Arch>(from, i, load_quad); });
            x = transposed<Arch>(x);
            unroll<4>([&](auto i) {
                if (i < depth) x[i].store_aligned(panel + (k + i) * width + lane);
                if constexpr (Squares) sums[i] = fma<Arch>(x[i], x[i], sums[i]);
            });
        };
        index k = 0;
        if constexpr (is_quantised_row<decltype(row(first))>) {
            k = pack_codes<Arch>(from, dim, width, panel + lane, [&](auto const& x) noexcept {
                if constexpr (Squares) sums[0] = fma<Arch>(x, x, sums[0]);
            });
        }
        for (index const whole = dim - dim % 4; k < whole; k += 4)
            transpose(k, 4, [k](auto const& p) noexcept { return load<quad_arch>(p + k); });
        if (k < dim) {
            index const depth = dim - k;
            transpose(k, depth, [=](auto const& p) noexcept { return load_partial<quad_arch>(p + k, depth); });
        }
        if constexpr (Squares) ((sums[0] + sums[1]) + (sums[2] + sums[3])).store_aligned(squares + lane);
    }
}

/// What a tile's elements are: one float, or two bfloat16 side by side, which move as if they were one.
enum class element : unsigned char { single, pair };

/// Floats from one copy of a row to the next: rows lie a cache line off each other's sets.
[[nodiscard]] constexpr index copied_row(index dim) noexcept { return (dim + 15) / 16 * 16 + 16; }

/// Floats that `broadcast_rows` wants for copies.
template <class Arch>
[[nodiscard]] constexpr index row_copies(index dim) noexcept {
    return chunk_rows<Arch> * copied_row(dim);
}

/// A broadcast side of rows of floats: where they lie, if a tile can read them there as fast as packed, else copied.
template <class Arch>
class broadcast_rows {
  public:
    /// Rows [first, first + count), at most chunk_rows.
    /// @param row     callable index -> T const*, of dim contiguous values; any layout
    /// @param copies  row_copies(dim), aligned to a register
    template <class Row>
    broadcast_rows(index first, index count, Row row, index dim, float* copies) noexcept {
        auto const size = static_cast<std::size_t>(count);
        if constexpr (std::convertible_to<decltype(row(first)), float const*>) {
            // A wide tile has more rows than a set of the first cache has lines: rows must not be whole pages apart.
            auto const page = [&](index i) noexcept { return reinterpret_cast<std::uintptr_t>(row(first + i)) % 4096; };
            if (tile_rows<Arch> <= 8 || count < 2 || page(0) != page(1)) {
                for (std::size_t i = 0; i < size; ++i) rows_[i] = row(first + static_cast<index>(i));
                return;
            }
        }
        for (std::size_t i = 0; i < size; ++i, copies += copied_row(dim)) {
            auto const from = row(first + static_cast<index>(i));
            if constexpr (is_quantised_row<decltype(row(first))>) {
                dequantise_row<Arch>(from, dim, copies);
            } else {
                auto const values = static_cast<std::size_t>(dim);
                using value = std::remove_pointer_t<decltype(row(first))>;
                convert<Arch>(std::span<value const>(from, values), std::span(copies, values));
            }
            rows_[i] = copies;
        }
    }

    [[nodiscard]] float const* operator[](index i) const noexcept { return rows_[static_cast<std::size_t>(i)]; }

    /// Element `at` of row `row + r` from element k on.
    template <int R>
    [[nodiscard]] auto tile(index row, index k) const noexcept {
        std::array<float const*, R> from;
        unroll<R>([&](auto r) { from[r] = (*this)[row + r] + k; });
        return [from](index at, auto r) noexcept { return load_one(from[r] + at); };
    }

  private:
    std::array<float const*, static_cast<std::size_t>(chunk_rows<Arch>)> rows_;
};

/// Adds the products of R rows with a panel of V vectors, over `depth` elements.
/// @param row  callable (k, r) -> element k of row r
template <class Arch, element Element, int R, int V, class Row>
void multiply(Row const& row, float const* panel, index depth, tile<Arch, R, V>& sums) noexcept {
    auto total = sums;
#pragma GCC unroll 1  // unrolled, gcc folds the loads into the multiply-adds, at half the speed
    for (index k = 0; k < depth; ++k) {
        std::array<floats<Arch>, V> right;
        unroll<V>([&](auto v) { right[v] = floats<Arch>::load_aligned(panel + (k * V + v) * lanes<Arch>); });
        unroll<R>([&](auto r) {
            floats<Arch> const left(row(k, r));
            unroll<V>([&](auto v) {
                total[r][v] = Element == element::pair ? dot_pairs<Arch>(left, right[v], total[r][v])
                                                       : fma<Arch>(left, right[v], total[r][v]);
            });
        });
    }
    sums = total;
}

/// Calls body(N), as a constant, for the count of [1, N] that is given.
template <int N, class Body>
void with_count(index count, Body&& body) noexcept {
    if (N == 1 || count == N)
        body(std::integral_constant<int, N>{});
    else if constexpr (N > 1)
        with_count<N - 1>(count, body);
}

/// Packs rows [first, first + count) of the lane side into panels, one after the other.
template <class Arch, bool Squares = false, class Row>
void pack_panels(index first, index count, Row row, index dim, float* panels, float* squares = nullptr) noexcept {
    for (index p = 0; p < count;) {
        index const width = vectors_of_panel<Arch>(count - p) * lanes<Arch>;
        pack<Arch, Squares>(first + p, std::min(width, count - p), row, dim, width, panels + p * dim,
                            Squares ? squares + p : nullptr);
        p += width;
    }
}

/// Floats of scratch that `multiply_all` wants.
template <class Arch>
[[nodiscard]] constexpr index partial_sums(index lane_count, index dim) noexcept {
    return dim <= tile_depth<Arch> ? 0 : (lane_count + lanes<Arch> - 1) / lanes<Arch> * lanes<Arch> * chunk_rows<Arch>;
}

/// The products of `count` rows, at most chunk_rows, with the rows of packed panels: calls
/// use(R, V, products, row, lane) for each tile: its size as constants, its sums, its first row and first lane.
/// @param packed   rows in all panels
/// @param dim      elements of a row
/// @param partial  at least partial_sums(packed, dim), aligned to a register
/// @param wanted   panels that begin behind so many of the packed rows are left out
template <class Arch, element Element = element::single, class Use>
void multiply_all(index count, broadcast_rows<Arch> const& rows, index packed, float const* panels, index dim,
                  float* partial, Use const& use, index wanted = max_tokens) noexcept {
    constexpr index step = lanes<Arch>;
    index k = 0;
    do {
        index const depth = std::min(tile_depth<Arch>, dim - k);
        for (index p = 0; p < std::min(packed, wanted);) {
            index const vectors = vectors_of_panel<Arch>(packed - p);
            with_count<panel_vectors<Arch>>(vectors, [&](auto V) noexcept {
                constexpr int most = tile_rows<Arch, V>;
                for (index block = 0; block < count; block += most) {
                    float* const kept = partial + p * chunk_rows<Arch> + block * V * step;
                    with_count<most>(std::min<index>(most, count - block), [&](auto R) noexcept {
                        tile<Arch, R, V> sums;
                        unroll<R>([&](auto r) {
                            unroll<V>([&](auto v) {
                                sums[r][v] =
                                    k == 0 ? floats<Arch>(0.0F) : floats<Arch>::load_aligned(kept + (r * V + v) * step);
                            });
                        });
                        multiply<Arch, Element, R, V>(rows.template tile<R>(block, k), panels + p * dim + k * V * step,
                                                      depth, sums);
                        if (k + depth == dim) {
                            use(R, V, sums, block, p);
                        } else {
                            unroll<R>([&](auto r) {
                                unroll<V>([&](auto v) { sums[r][v].store_aligned(kept + (r * V + v) * step); });
                            });
                        }
                    });
                }
            });
            p += vectors * step;
        }
        k += depth;
    } while (k < dim);
}

}  // namespace terse::simd
