// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>

#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>

// Limited by memory, once the sines stand: a load, two multiply-adds and a store a register. Rows that turn by the same
// steps share their sines.

namespace terse::simd {

/// cosine[i], sine[i] of steps * frequency[i]: the angle in double, reduced to a turn, within 3e-7.
/// @pre all of one size
template <class Arch = default_arch>
void rotation(index steps, std::span<float const> frequency, std::span<float> cosine, std::span<float> sine) noexcept {
    if constexpr (lanes<Arch> == 16) {  // of whose sines gcc 12 warns, and where they cost no more by halves
        return rotation<xsimd::fma3<xsimd::avx2>>(steps, frequency, cosine, sine);
    }
    constexpr double turn = 2 * std::numbers::pi;
    for (std::size_t i = 0; i < frequency.size(); ++i) {
        double const angle = static_cast<double>(steps) * static_cast<double>(frequency[i]);
        sine[i] = static_cast<float>(angle - turn * std::nearbyint(angle / turn));
    }
    auto const count = static_cast<index>(frequency.size()), whole = count - count % lanes<Arch>;
    auto const block = [&](auto const& angle, auto const& write) {
        auto const [s, c] = xsimd::sincos(angle);
        write(s, sine.data());
        write(c, cosine.data());
    };
    for (index i = 0; i < whole; i += lanes<Arch>)
        block(load<Arch>(sine.data() + i), [i](auto const& x, float* to) { store<Arch>(x, to + i); });
    if (whole < count)
        block(load_partial<Arch>(sine.data() + whole, count - whole),
              [&](auto const& x, float* to) { store_partial<Arch>(x, to + whole, count - whole); });
}

/// Turns the pairs (a[i * step], b[i * step]) by the angles: a' = a cos - b sin, b' = b cos + a sin; in float.
/// NaN in one of a pair makes both NaN.
/// @pre cosine.size() == sine.size()
template <class Arch = default_arch, real T>
void rotate_pairs(T* a, T* b, index step, std::span<float const> cosine, std::span<float const> sine) noexcept {
    auto const count = static_cast<index>(cosine.size()), whole = step == 1 ? count - count % lanes<Arch> : 0;
    for (index i = 0; i < whole; i += lanes<Arch>) {
        auto const x = load<Arch>(a + i), y = load<Arch>(b + i);
        auto const c = load<Arch>(cosine.data() + i), s = load<Arch>(sine.data() + i);
        store<Arch>(fma<Arch>(x, c, -(y * s)), a + i);
        store<Arch>(fma<Arch>(y, c, x * s), b + i);
    }
    for (index i = whole; i < count; ++i) {
        auto const x = static_cast<float>(a[i * step]), y = static_cast<float>(b[i * step]);
        float const c = cosine.data()[i], s = sine.data()[i];
        a[i * step] = static_cast<T>(x * c - y * s);
        b[i * step] = static_cast<T>(y * c + x * s);
    }
}

}  // namespace terse::simd
