// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>

#include <terse/simd/load_store.hpp>
#include <terse/simd/quantised_row.hpp>
#include <terse/simd/rows.hpp>

// Limited by loads, one or two a multiply-add: one row against one row cannot do better. What compares many rows with
// many goes through tile.hpp. Rows in 8 bit are limited by converting; a scale is met once a group.

namespace terse::simd {

/// The sum of term(i) over blocks of lanes: term(load, i) gets a loader that is whole or partial. Four sums hide the
/// latency of fma.
template <class Arch, class Step>
[[nodiscard, gnu::flatten]] float reduce(index n, Step step) noexcept {
    constexpr index width = lanes<Arch>;
    auto const whole = [](auto const& p) noexcept { return load<Arch>(p); };
    std::array<floats<Arch>, 4> sums;
    sums.fill(floats<Arch>(0.0F));
    index i = 0;
    for (index const end = n - n % (4 * width); i < end; i += 4 * width) {
        unroll<4>([&](auto u) { sums[u] = step(whole, i + u * width, sums[u]); });
    }
    for (index const end = n - n % width; i < end; i += width) sums[0] = step(whole, i, sums[0]);
    if (i < n) sums[1] = step([n, i](auto const& p) noexcept { return load_partial<Arch>(p, n - i); }, i, sums[1]);
    return sum_lanes<Arch>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// The sum over the groups of a row in 8 bit of factor(scale) times the sum of the group's terms: term(load, codes, i,
/// sum) gets the codes from i on and adds them, with a loader as above.
template <class Arch, class Scale, class Factor, class Term>
[[nodiscard, gnu::flatten]] float reduce_scaled(quantised_row<Scale> const& x, index n, Factor factor,
                                                Term term) noexcept {
    constexpr index width = lanes<Arch>;
    auto const whole = [](auto const* p) noexcept { return load<Arch>(p); };
    floats<Arch> total(0.0F);
    for_scales(x, n, [&](index i, index end, index which) noexcept {
        std::array<floats<Arch>, 2> sums;
        sums.fill(floats<Arch>(0.0F));
        for (; end - i >= 2 * width; i += 2 * width) {
            unroll<2>([&](auto u) {
                index const at = i + u * width;
                sums[u] = term(whole, load_codes<Arch>(x + at), at, sums[u]);
            });
        }
        for (; end - i >= width; i += width) sums[0] = term(whole, load_codes<Arch>(x + i), i, sums[0]);
        if (i < end) {
            auto const part = [rest = end - i](auto const* p) noexcept { return load_partial<Arch>(p, rest); };
            sums[1] = term(part, load_codes<Arch>(x + i, end - i), i, sums[1]);
        }
        total = fma<Arch>(sums[0] + sums[1], floats<Arch>(factor(to_float(x.scales[which]))), total);
    });
    return sum_lanes<Arch>(total);
}

/// a[0] * b[0] + ... + a[n - 1] * b[n - 1], in float.
template <class Arch = default_arch, real T, real U>
[[nodiscard]] float dot(T const* a, U const* b, index n) noexcept {
    return reduce<Arch>(n, [a, b](auto read, index i, floats<Arch> const& sum) noexcept {
        return fma<Arch>(read(a + i), read(b + i), sum);
    });
}

template <class Arch = default_arch, class Scale, real U>
[[nodiscard]] float dot(quantised_row<Scale> const& a, U const* b, index n) noexcept {
    if (a.group == 1) {
        return reduce<Arch>(n, [&a, b](auto read, index i, floats<Arch> const& sum) noexcept {
            return fma<Arch>(read(a + i), read(b + i), sum);
        });
    }
    return reduce_scaled<Arch>(
        a, n, [](float scale) noexcept { return scale; },
        [b](auto read, auto const& codes, index i, floats<Arch> const& sum) noexcept {
            return fma<Arch>(codes, read(b + i), sum);
        });
}
template <class Arch = default_arch, real T, class Scale>
[[nodiscard]] float dot(T const* a, quantised_row<Scale> const& b, index n) noexcept {
    return dot<Arch>(b, a, n);
}
template <class Arch = default_arch, class A, class B>
[[nodiscard]] float dot(quantised_row<A> const& a, quantised_row<B> const& b, index n) noexcept {
    return reduce<Arch>(n, [&](auto read, index i, floats<Arch> const& sum) noexcept {
        return fma<Arch>(read(a + i), read(b + i), sum);
    });
}

/// a[0]^2 + ... + a[n - 1]^2, in float.
template <class Arch = default_arch, real T>
[[nodiscard]] float squared_norm(T const* a, index n) noexcept {
    return reduce<Arch>(n, [a](auto read, index i, floats<Arch> const& sum) noexcept {
        auto const x = read(a + i);
        return fma<Arch>(x, x, sum);
    });
}

template <class Arch = default_arch, class Scale>
[[nodiscard]] float squared_norm(quantised_row<Scale> const& a, index n) noexcept {
    if (a.group == 1) return dot<Arch>(a, a, n);
    return reduce_scaled<Arch>(
        a, n, [](float scale) noexcept { return scale * scale; },
        [](auto, auto const& codes, index, floats<Arch> const& sum) noexcept { return fma<Arch>(codes, codes, sum); });
}

/// x[0] + ... + x[n - 1], in float.
template <class Arch = default_arch, real T>
[[nodiscard]] float sum(T const* x, index n) noexcept {
    return reduce<Arch>(n, [x](auto read, index i, floats<Arch> const& sum) noexcept { return sum + read(x + i); });
}

template <class Arch = default_arch, class Scale>
[[nodiscard]] float sum(quantised_row<Scale> const& x, index n) noexcept {
    if (x.group == 1)
        return reduce<Arch>(n, [&x](auto read, index i, auto const& total) noexcept { return total + read(x + i); });
    return reduce_scaled<Arch>(
        x, n, [](float scale) noexcept { return scale; },
        [](auto, auto const& codes, index, floats<Arch> const& total) noexcept { return total + codes; });
}

/// Sums over rows first, first + 1, ..., a row a lane, whose terms are term(load, row, i, sum) as in `reduce`; lanes
/// from `count` - first on repeat the last row. One after the other, since rows from memory that are read side by side
/// wait for each other, but without a horizontal sum for each; asked for ahead where they are too many to be near.
template <class Arch, class Row, class Term>
[[nodiscard, gnu::flatten]] floats<Arch> reduce_rows(index first, index count, Row row, index n, Term term) noexcept {
    constexpr index width = lanes<Arch>;
    auto const whole = [](auto const& p) noexcept { return load<Arch>(p); };
    bool const far = count * n > near_floats;
    std::array<floats<Arch>, floats<Arch>::size> sums;
    unroll<width>([&](auto r) {
        if (far && first + r + rows_ahead < count) prefetch_row(row(first + r + rows_ahead), n);
        auto const from = row(std::min<index>(first + r, count - 1));
        floats<Arch> sum(0.0F);
        index i = 0;
        for (index const end = n - n % width; i < end; i += width) sum = term(whole, from, i, sum);
        if (i < n) sum = term([n, i](auto const& p) noexcept { return load_partial<Arch>(p, n - i); }, from, i, sum);
        sums[r] = sum;
    });
    return sum_each<Arch>(sums);
}

/// The products of x with rows first, first + 1, ..., a row a lane; lanes from `count` - first on repeat the last row.
template <class Arch = default_arch, class Row, real T>
[[nodiscard, gnu::flatten]] floats<Arch> dot_rows(index first, index count, Row row, T const* x, index n) noexcept {
    constexpr index width = lanes<Arch>;
    std::array<decltype(row(first)), floats<Arch>::size> rows;
    std::array<floats<Arch>, floats<Arch>::size> sums;
    unroll<width>([&](auto r) {
        rows[r] = row(std::min<index>(first + r, count - 1));
        sums[r] = floats<Arch>(0.0F);
    });
    if constexpr (is_quantised_row<decltype(row(first))>) {
        if (rows[0].group > 1) {
            for_scales(rows[0], n, [&](index begin, index end, index which) noexcept {
                std::array<floats<Arch>, floats<Arch>::size> terms;
                terms.fill(floats<Arch>(0.0F));
                index i = begin;
                for (; end - i >= width; i += width) {
                    auto const factor = load<Arch>(x + i);
                    unroll<width>(
                        [&](auto r) { terms[r] = fma<Arch>(load_codes<Arch>(rows[r] + i), factor, terms[r]); });
                }
                if (i < end) {
                    auto const factor = load_partial<Arch>(x + i, end - i);
                    unroll<width>([&](auto r) {
                        terms[r] = fma<Arch>(load_codes<Arch>(rows[r] + i, end - i), factor, terms[r]);
                    });
                }
                unroll<width>([&](auto r) {
                    sums[r] = fma<Arch>(terms[r], floats<Arch>(to_float(rows[r].scales[which])), sums[r]);
                });
            });
            return sum_each<Arch>(sums);
        }
    }
    index const whole = n - n % width;
    for (index i = 0; i < whole; i += width) {
        auto const factor = load<Arch>(x + i);
        unroll<width>([&](auto r) { sums[r] = fma<Arch>(load<Arch>(rows[r] + i), factor, sums[r]); });
    }
    if (whole < n) {
        auto const factor = load_partial<Arch>(x + whole, n - whole);
        unroll<width>(
            [&](auto r) { sums[r] = fma<Arch>(load_partial<Arch>(rows[r] + whole, n - whole), factor, sums[r]); });
    }
    return sum_each<Arch>(sums);
}

/// dot_rows of rows that may not be near, which are asked for ahead.
/// @param far  they are more than the second-level cache holds
template <class Arch = default_arch, class Row, real T>
[[nodiscard, gnu::flatten]] floats<Arch> distant_dot_rows(index first, index count, Row row, T const* x, index n,
                                                          bool far) noexcept {
    if constexpr (!is_quantised_row<decltype(row(first))>) {
        if (far) {
            return reduce_rows<Arch>(first, count, row, n,
                                     [x](auto read, auto const* p, index i, floats<Arch> const& sum) noexcept {
                                         return fma<Arch>(read(p + i), read(x + i), sum);
                                     });
        }
    }
    for (index i = first + rows_ahead; i < std::min(first + rows_ahead + lanes<Arch>, count); ++i)
        prefetch_row(row(i), n);
    return dot_rows<Arch>(first, count, row, x, n);
}

/// The squared norms of rows first, first + 1, ..., a row a lane; lanes from `count` - first on repeat the last row.
template <class Arch = default_arch, class Row>
[[nodiscard, gnu::flatten]] floats<Arch> squared_norm_rows(index first, index count, Row row, index n) noexcept {
    if constexpr (is_quantised_row<decltype(row(first))>) {
        std::array<float, floats<Arch>::size> squares;
        for (index r = 0; r < lanes<Arch>; ++r) {
            if (first + r + rows_ahead < count) prefetch_row(row(first + r + rows_ahead), n);
            squares[static_cast<std::size_t>(r)] = squared_norm<Arch>(row(std::min<index>(first + r, count - 1)), n);
        }
        return floats<Arch>::load_unaligned(squares.data());
    } else {
        return reduce_rows<Arch>(first, count, row, n,
                                 [](auto read, auto const* p, index i, floats<Arch> const& sum) noexcept {
                                     auto const x = read(p + i);
                                     return fma<Arch>(x, x, sum);
                                 });
    }
}

/// acc[i] += w * x[i] for i < n.
template <class Arch = default_arch, real T>
void add_scaled(T const* x, float w, float* acc, index n) noexcept {
    floats<Arch> const weight(w);
    index i = 0;
    for (index const end = n - n % lanes<Arch>; i < end; i += lanes<Arch>) {
        store<Arch>(fma<Arch>(weight, load<Arch>(x + i), load<Arch>(acc + i)), acc + i);
    }
    if (i < n) {
        auto const rest = n - i;
        store_partial<Arch>(fma<Arch>(weight, load_partial<Arch>(x + i, rest), load_partial<Arch>(acc + i, rest)),
                            acc + i, rest);
    }
}
template <class Arch = default_arch, class Scale>
void add_scaled(quantised_row<Scale> const& x, float w, float* acc, index n) noexcept {
    floats<Arch> const weight(w);
    index i = 0;
    for (index const end = n - n % lanes<Arch>; i < end; i += lanes<Arch>)
        store<Arch>(fma<Arch>(weight, load<Arch>(x + i), load<Arch>(acc + i)), acc + i);
    for (; i < n; ++i) acc[i] += w * x[i];
}

/// acc[i] = rest * acc[i] + w * x[i] for i < n.
template <class Arch = default_arch, real T>
void mix(T const* x, float w, float rest, float* acc, index n) noexcept {
    floats<Arch> const weight(w), share(rest);
    index i = 0;
    for (index const end = n - n % lanes<Arch>; i < end; i += lanes<Arch>) {
        store<Arch>(fma<Arch>(weight, load<Arch>(x + i), share * load<Arch>(acc + i)), acc + i);
    }
    if (i < n) {
        auto const left = n - i;
        store_partial<Arch>(
            fma<Arch>(weight, load_partial<Arch>(x + i, left), share * load_partial<Arch>(acc + i, left)), acc + i,
            left);
    }
}

/// acc[i] += how many of rows[0][i], rows[1][i], ... are above `limit`, for i < n. NaN is not.
/// @param rows  [count, n], `stride` apart
template <class Arch = default_arch>
[[gnu::flatten]] void add_hits(float const* rows, index stride, index count, float limit, float* acc,
                               index n) noexcept {
    floats<Arch> const most(limit), one(1.0F), zero(0.0F);
    auto const add = [&](auto read, index i) noexcept {
        auto sum = read(acc + i);
        for (index r = 0; r < count; ++r) sum += xsimd::select(read(rows + r * stride + i) > most, one, zero);
        return sum;
    };
    auto const whole = [](float const* p) noexcept { return load<Arch>(p); };
    index i = 0;
    for (index const end = n - n % lanes<Arch>; i < end; i += lanes<Arch>) store<Arch>(add(whole, i), acc + i);
    if (i < n) {
        auto const partial = [rest = n - i](float const* p) noexcept { return load_partial<Arch>(p, rest); };
        store_partial<Arch>(add(partial, i), acc + i, n - i);
    }
}

}  // namespace terse::simd
