// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
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

template <class Row>
void inverse_norms(index count, Row row, index dim, std::span<float> inverse) noexcept {
    for (index i = 0; i < count; ++i) {
        float const norm = std::sqrt(squared_norm(row(i), dim));
        inverse[static_cast<std::size_t>(i)] = norm == 0 ? 0 : 1 / (norm < 1e-12F ? 1e-12F : norm);
    }
}

template <bool ExcludeSelf = false, class Left, class Right>
void nearest(index left_begin, index left_end, Left left, std::span<float const> left_inverse, index right_count,
             Right right, std::span<float const> right_inverse, index dim, std::span<float> best,
             std::span<token> partner) noexcept {
    for (index i = left_begin; i < left_end; ++i) {
        float highest = -std::numeric_limits<float>::infinity();
        index who = -1;
        for (index j = 0; j < right_count; ++j) {
            if (ExcludeSelf && i == j) continue;
            float const similarity = dot(left(i), right(j), dim) * right_inverse[static_cast<std::size_t>(j)];
            if (similarity > highest) highest = similarity, who = j;
        }
        highest *= left_inverse[static_cast<std::size_t>(i)];
        if (who < 0 || std::isnan(highest)) highest = -std::numeric_limits<float>::infinity(), who = -1;
        best[static_cast<std::size_t>(i - left_begin)] = highest;
        partner[static_cast<std::size_t>(i - left_begin)] = static_cast<token>(who);
    }
}

template <class Row>
void gram(index count, Row row, index dim, std::span<float const> inverse, float* out, index out_stride,
          std::span<float> highest) noexcept {
    for (index i = 0; i < count; ++i) {
        for (index j = 0; j < count; ++j) {
            float x = dot(row(i), row(j), dim);
            if (!inverse.empty()) x *= inverse[static_cast<std::size_t>(i)] * inverse[static_cast<std::size_t>(j)];
            if (out != nullptr) out[i * out_stride + j] = x;
            if (!highest.empty() && i != j && x > highest[static_cast<std::size_t>(i)])
                highest[static_cast<std::size_t>(i)] = x;
        }
    }
}

template <class Query, class Key>
void softmax_columns(index queries, Query query, index keys, Key key, index dim, float scale, float soft_cap,
                     index visible, std::span<float> columns) noexcept {
    auto const infinity = std::numeric_limits<double>::infinity();
    for (index i = 0; i < queries; ++i) {
        index const seen = std::clamp(visible + i, index{0}, keys);
        auto const logit = [&](index j) {
            double const x = static_cast<double>(dot(query(i), key(j), dim)) * scale;
            double const capped = soft_cap > 0 ? soft_cap * std::tanh(x / soft_cap) : x;
            return std::isnan(capped) ? -infinity : capped;
        };
        double highest = -infinity, total = 0;
        for (index j = 0; j < seen; ++j) highest = std::max(highest, logit(j));
        if (std::isinf(highest)) continue;
        for (index j = 0; j < seen; ++j) total += std::exp(logit(j) - highest);
        for (index j = 0; j < std::min(seen, static_cast<index>(columns.size())); ++j) {
            columns[static_cast<std::size_t>(j)] += static_cast<float>(std::exp(logit(j) - highest) / total);
        }
    }
}

/// How far row i is from the nearest of the picks, by 1 - cosine; 1 where there is a zero row.
template <class Row>
[[nodiscard]] double farthest_distance(index i, Row row, index dim, std::span<token const> picks) noexcept {
    double nearest = std::numeric_limits<double>::infinity();
    for (token const pick : picks) {
        double product = 0, row_norm = 0, pick_norm = 0;
        for (index c = 0; c < dim; ++c) {
            double const x = static_cast<float>(row(i)[c]), y = static_cast<float>(row(pick)[c]);
            product += x * y, row_norm += x * x, pick_norm += y * y;
        }
        double const norms = std::sqrt(row_norm * pick_norm);
        nearest = std::min(nearest, norms == 0 ? 1 : 1 - product / norms);
    }
    return nearest;
}

/// dpp_step over all rows, without strips: left is [steps, count], `factors` what is left of the pick, not negated.
inline void dpp_step(index count, float const* kernel, double pick_gain, std::span<double const> factors, double* left,
                     double* gain, double least_share, double const* value) noexcept {
    for (index i = 0; i < count; ++i) {
        double e = kernel[i];
        for (std::size_t step = 0; step < factors.size(); ++step)
            e -= factors[step] * left[static_cast<index>(step) * count + i];
        e /= std::sqrt(pick_gain);
        left[std::ssize(factors) * count + i] = e;
        gain[i] -= e * e;
        if (!(gain[i] > least_share * value[i])) gain[i] = -1;
    }
}

// Selection and rows.

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

}  // namespace terse::simd::scalar
