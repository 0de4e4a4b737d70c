// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/core/types.hpp>

/// The kernels in plain loops and double precision: what they compute, and the oracles that they are tested against.
namespace terse::simd::scalar {

template <real T, real U>
[[nodiscard]] float dot(T const* a, U const* b, index n) noexcept {
    double sum = 0;
    for (index i = 0; i < n; ++i) sum += static_cast<double>(static_cast<float>(a[i])) * static_cast<float>(b[i]);
    return static_cast<float>(sum);
}

template <real T>
[[nodiscard]] float squared_norm(T const* a, index n) noexcept {
    return dot(a, a, n);
}

template <real T>
[[nodiscard]] float sum(T const* x, index n) noexcept {
    double sum = 0;
    for (index i = 0; i < n; ++i) sum += static_cast<float>(x[i]);
    return static_cast<float>(sum);
}

template <real T>
void add_scaled(T const* x, float w, float* acc, index n) noexcept {
    for (index i = 0; i < n; ++i) acc[i] += w * static_cast<float>(x[i]);
}

template <real T, real U>
void convert(std::span<T const> in, std::span<U> out) noexcept {
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = static_cast<U>(static_cast<float>(in[i]));
}

[[nodiscard]] inline float exp2(float x) noexcept { return std::exp2(x); }

[[nodiscard]] inline float inverse_norm(float square) noexcept {
    float const norm = std::sqrt(square);
    return norm == 0 ? 0 : 1 / (norm < 1e-12F ? 1e-12F : norm);
}

template <class Row>
void inverse_norms(index count, Row row, index dim, std::span<float> inverse) noexcept {
    for (index i = 0; i < count; ++i) inverse[static_cast<std::size_t>(i)] = inverse_norm(squared_norm(row(i), dim));
}

template <bool ExcludeSelf = false, class Left, class Right>
void nearest(index left_begin, index left_end, Left left, index right_count, Right right, index dim,
             std::span<float> best, std::span<token> partner) noexcept {
    for (index i = left_begin; i < left_end; ++i) {
        float highest = -std::numeric_limits<float>::infinity();
        index who = -1;
        for (index j = 0; j < right_count; ++j) {
            if (ExcludeSelf && i == j) continue;
            float const similarity = dot(left(i), right(j), dim) * inverse_norm(squared_norm(right(j), dim));
            if (similarity > highest) highest = similarity, who = j;
        }
        highest *= inverse_norm(squared_norm(left(i), dim));
        if (who < 0 || std::isnan(highest)) highest = -std::numeric_limits<float>::infinity(), who = -1;
        best[static_cast<std::size_t>(i - left_begin)] = highest;
        partner[static_cast<std::size_t>(i - left_begin)] = static_cast<token>(who);
    }
}

template <class Query, class Key>
void softmax_columns(index heads, index queries, Query query, index keys, Key key, index dim, float scale,
                     float soft_cap, index visible, std::span<float> columns, index stride, index wanted) noexcept {
    auto const infinity = std::numeric_limits<double>::infinity();
    for (index row = 0; row < heads * queries; ++row) {
        index const h = row / queries, i = row % queries;
        index const seen = std::clamp(visible + i, index{0}, keys);
        auto const logit = [&](index j) {
            double const x = static_cast<double>(dot(query(h, i), key(j), dim)) * scale;
            double const capped = soft_cap > 0 ? soft_cap * std::tanh(x / soft_cap) : x;
            return std::isnan(capped) ? -infinity : capped;
        };
        double highest = -infinity, total = 0;
        for (index j = 0; j < seen; ++j) highest = std::max(highest, logit(j));
        if (std::isinf(highest)) continue;
        for (index j = 0; j < seen; ++j) total += std::exp(logit(j) - highest);
        for (index j = 0; j < std::min(seen, wanted); ++j)
            columns[static_cast<std::size_t>(h * stride + j)] +=
                static_cast<float>(std::exp(logit(j) - highest) / total);
    }
}

template <class Row>
[[nodiscard]] index min_distance(index count, Row row, std::span<float const> inverse, index pick, index dim,
                                 std::span<float> distance) noexcept {
    auto const infinity = std::numeric_limits<float>::infinity();
    bool const usable = std::isfinite(squared_norm(row(pick), dim));
    float largest = -infinity;
    index who = -1, undefined = -1;
    for (index j = 0; j < count; ++j) {
        float& d = distance[static_cast<std::size_t>(j)];
        if (usable && d != -infinity) {
            float const cosine = dot(row(j), row(pick), dim) * inverse[static_cast<std::size_t>(j)] *
                                 inverse[static_cast<std::size_t>(pick)];
            if (!(d <= 1 - cosine)) d = 1 - cosine;
        }
        if (d > largest) largest = d, who = j;
        if (undefined < 0 && std::isnan(d)) undefined = j;
    }
    return who >= 0 ? who : undefined;
}

// Selection and rows.

/// Adds to the sums what `rows` give, as `simd::terms` says, and finds the lowest of [begin, end).
[[nodiscard]] inline index add_arg_lowest(std::span<float> sums, float const* rows, index stride, index count,
                                          bool largest, float divisor, index begin, index end) noexcept {
    index lowest = -1;
    for (index i = 0; i < std::ssize(sums); ++i) {
        float term = rows[i];
        for (index r = 1; r < count; ++r) {
            float const other = rows[r * stride + i];
            term = !largest ? other + term : other > term ? other : term;
        }
        float& sum = sums[static_cast<std::size_t>(i)];
        sum += term / divisor;
        if (begin <= i && i < end && (lowest < 0 || rank(sum) < rank(sums[static_cast<std::size_t>(lowest)])))
            lowest = i;
    }
    return lowest;
}

inline void top_k(std::span<float const> scores, std::span<token> kept, token first) noexcept {
    std::size_t next = 0;
    for (std::size_t i = 0; i < scores.size() && next < kept.size(); ++i) {
        std::size_t better = 0;
        for (std::size_t j = 0; j < scores.size(); ++j) {
            better += rank(scores[j]) > rank(scores[i]) || (rank(scores[j]) == rank(scores[i]) && j < i);
        }
        if (better < kept.size()) kept[next++] = first + static_cast<token>(i);
    }
}

template <class T>
void gather_rows(T const* from, index from_stride, std::span<token const> sources, T* to, index to_stride,
                 index dim) noexcept {
    for (std::size_t i = 0; i < sources.size(); ++i)
        std::copy_n(from + sources[i] * from_stride, dim, to + static_cast<index>(i) * to_stride);
}

template <class T>
void compact_rows(T* rows, index stride, std::span<token const> sources, index dim) noexcept {
    for (std::size_t i = 0; i < sources.size(); ++i)
        if (sources[i] != static_cast<token>(i))
            std::copy_n(rows + sources[i] * stride, dim, rows + static_cast<index>(i) * stride);
}

template <real T>
void sum_rows(T const* in, index stride, std::span<token const> sources, std::span<float const> weights, float divisor,
              T* out, index dim) noexcept {
    for (index c = 0; c < dim; ++c) {
        float total = 0;
        for (std::size_t k = 0; k < sources.size(); ++k) {
            auto const x = static_cast<float>(in[sources[k] * stride + c]);
            total += weights.empty() ? x : weights[k] * x;
        }
        out[c] = static_cast<T>(total / divisor);
    }
}

template <real T>
void max_rows(T const* in, index stride, std::span<token const> sources, T* out, index dim) noexcept {
    for (index c = 0; c < dim; ++c) {
        float most = sources.empty() ? 0.0F : static_cast<float>(in[sources[0] * stride + c]);
        for (token const source : sources) {
            auto const x = static_cast<float>(in[source * stride + c]);
            most = x > most || x != x ? x : most;
        }
        out[c] = static_cast<T>(most);
    }
}

// Quantisation. The arithmetic is that of the kernels, in float, so that codes agree to the bit.

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
    minimum = static_cast<Scale>(-static_cast<float>(round_up<Scale>(-least)));
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
