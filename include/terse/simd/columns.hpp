// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <span>
#include <type_traits>

#include <terse/simd/load_store.hpp>
#include <terse/simd/quantised_row.hpp>

// Limited by memory, or by loads where the rows are in a cache: a value is read once, and what a channel gathers stays
// in registers over all rows. What goes over a row twice finds it in the first-level cache.

namespace terse::simd {

/// The first channels of `from`: of floats, or of a row in 8 bit that has one scale there, of this number.
template <class Arch, real T>
[[nodiscard]] floats<Arch> load_channels(T const* from, index) noexcept {
    return load<Arch>(from);
}
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load_channels(quantised_row<Scale> const& from, index scale) noexcept {
    if (from.group == 1) return load<Arch>(from);
    return load_codes<Arch>(from) * floats<Arch>(to_float(from.scales[scale]));
}

/// The first `count` < lanes channels; what is beyond them is not defined.
template <class Arch, real T>
[[nodiscard]] floats<Arch> load_channels(T const* from, index, index count) noexcept {
    return load_partial<Arch>(from, count);
}
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load_channels(quantised_row<Scale> const& from, index scale, index count) noexcept {
    if (from.group == 1) return load_partial<Arch>(from, count);
    return load_codes<Arch>(from, count) * floats<Arch>(to_float(from.scales[scale]));
}

/// Calls body(registers, read, write, first) for blocks of registers, at most `Most`, that cover channels [0, dim) of
/// rows like the given one; read(pointer or row) and write(register, pointer) stay within the block.
template <class Arch, int Most, class Row, class Body>
void over_channels([[maybe_unused]] Row const& like, index dim, Body const& body) noexcept {
    constexpr int width = lanes<Arch>, most = is_quantised_row<Row> ? std::min(Most, 32 / width) : Most;
    auto const cover = [&](index c, index end, index scale) noexcept {
        auto const read = [scale](auto const& from) noexcept { return load_channels<Arch>(from, scale); };
        auto const write = [](floats<Arch> const& x, float* to) noexcept { store<Arch>(x, to); };
        for (; end - c >= most * width; c += most * width) body(std::integral_constant<int, most>{}, read, write, c);
        for (; end - c >= width; c += width) body(std::integral_constant<int, 1>{}, read, write, c);
        if (c == end) return;
        body(
            std::integral_constant<int, 1>{},
            [scale, n = end - c](auto const& from) noexcept { return load_channels<Arch>(from, scale, n); },
            [n = end - c](floats<Arch> const& x, float* to) noexcept { store_partial<Arch>(x, to, n); }, c);
    };
    if constexpr (is_quantised_row<Row>) {
        if (like.group > 1) return for_scales(like, dim, cover);
    }
    cover(0, dim, 0);
}

/// The first of rows that are like each other, or, where there are none, one that nothing reads.
template <class Row>
[[nodiscard]] auto any_row(index count, Row const& row) noexcept {
    return count > 0 ? row(0) : decltype(row(0)){};
}

/// sum[c] += the sum over rows [0, count) of weights[t] * row(t)[c], in float and in the order of the rows; a row whose
/// weight is zero or NaN is not looked at.
/// @param row  callable index -> T const* or quantised_row, of sum.size() contiguous values
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void add_weighted(index count, Row row, float const* weights, std::span<float> sum) noexcept {
    over_channels<Arch, 8>(
        any_row(count, row), std::ssize(sum), [&](auto registers, auto read, auto write, index first) noexcept {
            std::array<floats<Arch>, registers> sums;
            unroll<registers>([&](auto v) { sums[v] = read(sum.data() + first + v * lanes<Arch>); });
            for (index t = 0; t < count; ++t) {
                if (!(std::abs(weights[t]) > 0)) continue;
                floats<Arch> const weight(weights[t]);
                auto const from = row(t) + first;
                unroll<registers>([&](auto v) { sums[v] = fma<Arch>(read(from + v * lanes<Arch>), weight, sums[v]); });
            }
            unroll<registers>([&](auto v) { write(sums[v], sum.data() + first + v * lanes<Arch>); });
        });
}

/// squares[c] = the sum over rows [0, count) of row(t)[c]^2, in float and in the order of the rows; NaN stays.
/// @param row  callable index -> T const* or quantised_row, of squares.size() contiguous values
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void column_squares(index count, Row row, std::span<float> squares) noexcept {
    over_channels<Arch, 8>(
        any_row(count, row), std::ssize(squares), [&](auto registers, auto read, auto write, index first) noexcept {
            std::array<floats<Arch>, registers> sums;
            sums.fill(floats<Arch>(0.0F));
            for (index t = 0; t < count; ++t) {
                auto const from = row(t) + first;
                unroll<registers>([&](auto v) {
                    auto const x = read(from + v * lanes<Arch>);
                    sums[v] = fma<Arch>(x, x, sums[v]);
                });
            }
            unroll<registers>([&](auto v) { write(sums[v], squares.data() + first + v * lanes<Arch>); });
        });
}

/// The least and the greatest of each channel over rows [0, count); NaN counts for nothing, and a channel of which
/// nothing counts has infinity and -infinity.
/// @param row            callable index -> T const* or quantised_row, of least.size() contiguous values
/// @param least, most    of the same size
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void column_bounds(index count, Row row, std::span<float> least, std::span<float> most) noexcept {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    over_channels<Arch, 4>(any_row(count, row), std::ssize(least),
                           [&](auto registers, auto read, auto write, index first) noexcept {
                               std::array<floats<Arch>, registers> low, high;
                               low.fill(floats<Arch>(infinity));
                               high.fill(floats<Arch>(-infinity));
                               for (index t = 0; t < count; ++t) {
                                   auto const from = row(t) + first;
                                   unroll<registers>([&](auto v) {
                                       auto const x = read(from + v * lanes<Arch>);
                                       low[v] = min_number<Arch>(x, low[v]);
                                       high[v] = max_number<Arch>(x, high[v]);
                                   });
                               }
                               unroll<registers>([&](auto v) {
                                   write(low[v], least.data() + first + v * lanes<Arch>);
                                   write(high[v], most.data() + first + v * lanes<Arch>);
                               });
                           });
}

/// out[t] = the sample standard deviation of (row(t)[c] - origin[c]) * factor[c] over the channels whose factor is not
/// zero: `counted` of them, at least two. In float, from the mean, so that a common offset costs no digits. A row a
/// lane: the chains of sum, mean and root of several rows run side by side. NaN anywhere in a row makes it NaN.
/// @param row  callable index -> T const* or quantised_row, of factor.size() contiguous values
template <class Arch = default_arch, class Row>
[[gnu::flatten]] void scaled_deviations(index count, Row row, std::span<float const> origin,
                                        std::span<float const> factor, index counted, float* out) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    auto const dim = std::ssize(factor);
    for (index first = 0; first < count; first += width) {
        std::array<decltype(row(first)), batch::size> rows;
        std::array<batch, batch::size> sums;
        unroll<width>([&](auto r) { rows[r] = row(std::min<index>(first + r, count - 1)); });
        auto const sum_over_channels = [&](auto const& term) noexcept {
            sums.fill(batch(0.0F));
            over_channels<Arch, 1>(rows[0], dim, [&](auto, auto read, auto, index i) noexcept { term(read, i); });
            return sum_each<Arch>(sums);
        };
        auto const total = sum_over_channels([&](auto read, index i) noexcept {
            auto const from = read(origin.data() + i), scale = read(factor.data() + i);
            unroll<width>([&](auto r) { sums[r] = fma<Arch>(read(rows[r] + i) - from, scale, sums[r]); });
        });
        auto const means = to_array<Arch>(total / batch(static_cast<float>(counted)));
        auto const squares = sum_over_channels([&](auto read, index i) noexcept {
            auto const from = read(origin.data() + i), scale = read(factor.data() + i);
            auto const left_out = scale == batch(0.0F);
            unroll<width>([&](auto r) {
                auto const apart = (read(rows[r] + i) - from) * scale - batch(means[r]);
                auto const counts = xsimd::select(left_out, batch(0.0F), apart);
                sums[r] = fma<Arch>(counts, counts, sums[r]);
            });
        });
        auto const deviation = square_root<Arch>(squares / batch(static_cast<float>(counted - 1)));
        if (count - first >= width)
            store<Arch>(deviation, out + first);
        else
            store_partial<Arch>(deviation, out + first, count - first);
    }
}

}  // namespace terse::simd
