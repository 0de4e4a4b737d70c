// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>

#include <terse/core/types.hpp>

// Quantisation, as scalar.hpp has the other kernels, but for the arithmetic: that is the kernels' own, in float, so that
// codes agree to the bit.

namespace terse::simd::scalar {

/// The largest magnitude that is quantised as it is: with it, no difference of two values overflows.
template <class Scale>
inline constexpr float largest_code_value = std::same_as<Scale, half> ? 65504.0F : 0x1p126F;

/// The least value of T that is not below x.
template <class T>
[[nodiscard]] T round_up(float x) noexcept {
    auto const nearest = static_cast<T>(x);
    if constexpr (std::same_as<T, half>) {
        if (static_cast<float>(nearest) < x) {
            auto const bits = std::bit_cast<std::uint16_t>(nearest);
            return std::bit_cast<half>(static_cast<std::uint16_t>((bits & 0x8000U) != 0 ? bits - 1 : bits + 1));
        }
    }
    return nearest;
}

/// As it is stored; 0 for what is no normal float.
template <class Scale>
[[nodiscard]] Scale stored_scale(float exact) noexcept {
    return exact >= std::numeric_limits<float>::min() ? round_up<Scale>(exact) : static_cast<Scale>(0.0F);
}

/// A group of quantise_int8; returns how many values were NaN or beyond.
template <real T, class Scale>
index quantise_int8_group(T const* x, index group, std::int8_t* codes, Scale& scale) noexcept {
    float most = 0;
    for (index i = 0; i < group; ++i) {
        float const magnitude = std::abs(static_cast<float>(x[i]));
        if (magnitude <= largest_code_value<Scale>) most = std::max(most, magnitude);
    }
    scale = stored_scale<Scale>(most / 127);
    auto const step = static_cast<float>(scale);
    float const inverse = step > 0 ? 1 / step : 0;
    index odd = 0;
    for (index i = 0; i < group; ++i) {
        auto const value = static_cast<float>(x[i]);
        float code = value * inverse;
        if (!(std::abs(value) <= largest_code_value<Scale>)) {
            ++odd;
            code = step > 0 && value == value ? std::copysign(127.0F, value) : 0.0F;
        }
        codes[i] = static_cast<std::int8_t>(std::nearbyint(code));
    }
    return odd;
}

template <class Row, class Scale>
index quantise_int8(index rows, Row row, index dim, index group, std::int8_t* codes, Scale* scales) noexcept {
    index odd = 0;
    for (index r = 0; r < rows; ++r)
        for (index c = 0; c < dim; c += group, codes += group)
            odd += quantise_int8_group(row(r) + c, group, codes, *scales++);
    return odd;
}

/// A group of quantise_int4; returns how many values were NaN or beyond.
template <real T, class Scale>
index quantise_int4_group(T const* x, index group, std::uint8_t* codes, Scale& scale, Scale& minimum) noexcept {
    auto const infinity = std::numeric_limits<float>::infinity();
    float least = infinity, most = -infinity;
    for (index i = 0; i < group; ++i) {
        auto const value = static_cast<float>(x[i]);
        if (std::abs(value) <= largest_code_value<Scale>) least = std::min(least, value), most = std::max(most, value);
    }
    if (least > most) least = most = 0;
    minimum = static_cast<Scale>(0.0F - static_cast<float>(round_up<Scale>(-least)));  // never -0
    auto const start = static_cast<float>(minimum);
    scale = stored_scale<Scale>((most - start) / 15);
    auto const step = static_cast<float>(scale);
    float const inverse = step > 0 ? 1 / step : 0;
    index odd = 0;
    auto const code = [&](index i) {
        auto const value = static_cast<float>(x[i]);
        if (std::abs(value) <= largest_code_value<Scale>)
            return static_cast<unsigned>(std::nearbyint((value - start) * inverse));
        ++odd;
        return step > 0 && value > 0 ? 15U : 0U;
    };
    for (index i = 0; i < group; i += 32)
        for (index k = i; k < i + 16; ++k) *codes++ = static_cast<std::uint8_t>(code(k) | code(k + 16) << 4U);
    return odd;
}

template <class Row, class Scale>
index quantise_int4(index rows, Row row, index dim, index group, std::uint8_t* codes, Scale* scales,
                    Scale* minima) noexcept {
    index odd = 0;
    for (index r = 0; r < rows; ++r)
        for (index c = 0; c < dim; c += group, codes += group / 2)
            odd += quantise_int4_group(row(r) + c, group, codes, *scales++, *minima++);
    return odd;
}

template <class Scale, real T>
void dequantise_int8(std::int8_t const* codes, Scale const* scales, index dim, index group, T* out) noexcept {
    for (index i = 0; i < dim; ++i)
        out[i] = static_cast<T>(static_cast<float>(codes[i]) * static_cast<float>(scales[i / group]));
}

/// Code i of a row of quantise_int4.
[[nodiscard]] inline int int4_code(std::uint8_t const* codes, index i) noexcept {
    return codes[i / 32 * 16 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
}

template <class Scale, real T>
void dequantise_int4(std::uint8_t const* codes, Scale const* scales, Scale const* minima, index dim, index group,
                     T* out) noexcept {
    for (index i = 0; i < dim; ++i) {
        double const scale = static_cast<float>(scales[i / group]), minimum = static_cast<float>(minima[i / group]);
        out[i] = static_cast<T>(static_cast<float>(int4_code(codes, i) * scale + minimum));
    }
}

/// `query` is a quantised_query.
template <class Codes, class Scales, class Query>
void dot_int8(index count, Codes codes, Scales scales, Query const& query, index dim, index group,
              float* out) noexcept {
    for (index k = 0; k < count; ++k) {
        double sum = 0;
        for (index i = 0; i < dim; ++i) {
            double const scale =
                static_cast<double>(query.scales[i / group]) * static_cast<float>(scales(k)[i / group]);
            sum += scale * (query.codes[i] * codes(k)[i]);
        }
        out[k] = static_cast<float>(sum);
    }
}

template <class Codes, class Scales, class Minima, class Query>
void dot_int4(index count, Codes codes, Scales scales, Minima minima, Query const& query, index dim, index group,
              float* out) noexcept {
    for (index k = 0; k < count; ++k) {
        double sum = 0;
        for (index i = 0; i < dim; ++i) {
            double const scale = static_cast<float>(scales(k)[i / group]),
                         minimum = static_cast<float>(minima(k)[i / group]);
            sum += static_cast<double>(query.scales[i / group]) * query.codes[i] *
                   (scale * int4_code(codes(k), i) + minimum);
        }
        out[k] = static_cast<float>(sum);
    }
}

}  // namespace terse::simd::scalar
