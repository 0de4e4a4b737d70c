// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/simd/batch.hpp>

// Limited by loads, one or two a multiply-add: one row against one row cannot do better. What compares many rows with
// many goes through tile.hpp.

namespace terse::simd {

/// The sum of term(i) over blocks of lanes: term(load, i) gets a loader that is whole or partial. Four sums hide the
/// latency of fma.
template <class Arch, class Step>
[[nodiscard, gnu::flatten]] float reduce(index n, Step step) noexcept {
    constexpr index width = lanes<Arch>;
    auto const whole = [](auto const* p) noexcept { return load<Arch>(p); };
    std::array<floats<Arch>, 4> sums;
    sums.fill(floats<Arch>(0.0F));
    index i = 0;
    for (index const end = n - n % (4 * width); i < end; i += 4 * width) {
        unroll<4>([&](auto u) { sums[u] = step(whole, i + u * width, sums[u]); });
    }
    for (index const end = n - n % width; i < end; i += width) sums[0] = step(whole, i, sums[0]);
    if (i < n) sums[1] = step([n, i](auto const* p) noexcept { return load_partial<Arch>(p, n - i); }, i, sums[1]);
    return sum_lanes<Arch>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// a[0] * b[0] + ... + a[n - 1] * b[n - 1], in float.
template <class Arch = default_arch, real T, real U>
[[nodiscard]] float dot(T const* a, U const* b, index n) noexcept {
    return reduce<Arch>(n, [a, b](auto read, index i, floats<Arch> const& sum) noexcept {
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

/// x[0] + ... + x[n - 1], in float.
template <class Arch = default_arch, real T>
[[nodiscard]] float sum(T const* x, index n) noexcept {
    return reduce<Arch>(n, [x](auto read, index i, floats<Arch> const& sum) noexcept { return sum + read(x + i); });
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

}  // namespace terse::simd
