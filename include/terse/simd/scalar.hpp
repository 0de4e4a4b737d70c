// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/core/types.hpp>
#include <terse/simd/attention_shape.hpp>

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

inline void add_hits(float const* rows, index stride, index count, float limit, float* acc, index n) noexcept {
    for (index r = 0; r < count; ++r)
        for (index i = 0; i < n; ++i) acc[i] += rows[r * stride + i] > limit ? 1.0F : 0.0F;
}

template <class Row>
void add_weighted(index count, Row row, float const* weights, std::span<float> sum) noexcept {
    for (std::size_t c = 0; c < sum.size(); ++c) {
        double total = sum[c];
        for (index t = 0; t < count; ++t)
            if (std::abs(weights[t]) > 0) total += static_cast<double>(weights[t]) * static_cast<float>(row(t)[c]);
        sum[c] = static_cast<float>(total);
    }
}

template <class Row>
void column_squares(index count, Row row, std::span<float> squares) noexcept {
    for (std::size_t c = 0; c < squares.size(); ++c) {
        double sum = 0;
        for (index t = 0; t < count; ++t) sum += std::pow(static_cast<double>(static_cast<float>(row(t)[c])), 2);
        squares[c] = static_cast<float>(sum);
    }
}

template <class Row>
void column_bounds(index count, Row row, std::span<float> least, std::span<float> most) noexcept {
    for (std::size_t c = 0; c < least.size(); ++c) {
        least[c] = std::numeric_limits<float>::infinity(), most[c] = -least[c];
        for (index t = 0; t < count; ++t) {
            auto const x = static_cast<float>(row(t)[c]);
            least[c] = x < least[c] ? x : least[c], most[c] = x > most[c] ? x : most[c];
        }
    }
}

template <class Row>
void scaled_deviations(index count, Row row, std::span<float const> origin, std::span<float const> factor,
                       index counted, float* out) noexcept {
    for (index t = 0; t < count; ++t) {
        double sum = 0, squares = 0;
        auto const scaled = [&](std::size_t c) {
            return (static_cast<double>(static_cast<float>(row(t)[c])) - static_cast<double>(origin[c])) *
                   static_cast<double>(factor[c]);
        };
        for (std::size_t c = 0; c < factor.size(); ++c) sum += scaled(c);
        double const mean = sum / static_cast<double>(counted);
        for (std::size_t c = 0; c < factor.size(); ++c)
            if (factor[c] != 0) squares += (scaled(c) - mean) * (scaled(c) - mean);
        out[t] = static_cast<float>(std::sqrt(squares / static_cast<double>(counted - 1)));
    }
}

inline void softmax(std::span<float> x) noexcept {
    auto const infinity = std::numeric_limits<float>::infinity();
    float highest = -infinity;
    for (float const value : x) highest = value > highest ? value : highest;
    double total = 0;
    auto const power = [&](float value) {
        double const e = std::exp(static_cast<double>(value) - static_cast<double>(highest));
        return e == e ? e : 0;
    };
    for (float const value : x) total += power(value);
    for (float& value : x) value = total > 0 ? static_cast<float>(power(value) / total) : 0;
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

template <class Row, class Other>
void add_absolute_products(index count, Row row, index others, Other other, index dim, std::span<float> sums) noexcept {
    for (index i = 0; i < count; ++i) {
        double sum = 0;
        for (index j = 0; j < others; ++j) sum += std::abs(static_cast<double>(dot(row(i), other(j), dim)));
        sums[static_cast<std::size_t>(i)] += static_cast<float>(sum);
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

template <class Row>
void gram_reaching(index count, Row row, index dim, std::span<float const> inverse, std::span<float const> least,
                   std::span<float> totals) noexcept {
    for (index i = 0; i < count; ++i) {
        auto const at = static_cast<std::size_t>(i);
        double total = 0;
        for (index j = 0; j < count; ++j) {
            float const x = dot(row(i), row(j), dim) * inverse[at] * inverse[static_cast<std::size_t>(j)];
            if (i != j && x >= least[at]) total += static_cast<double>(x);
        }
        totals[at] += static_cast<float>(total);
    }
}

template <class Query, class Key, class Visible, class Weight, class LogSum>
void softmax_columns(attention_shape const& of, Query query, Key key, Visible visible, column_rows columns,
                     Weight weight, LogSum log_sum) noexcept {
    auto const infinity = std::numeric_limits<double>::infinity();
    bool const merged = of.shared == shared_heads::highest;
    auto const logit_of = [&](index h, index i, index j) {
        double const x = static_cast<double>(dot(query(h, i), key(j), of.dim)) * of.scale;
        double const capped = of.soft_cap > 0 ? of.soft_cap * std::tanh(x / of.soft_cap) : x;
        return std::isnan(capped) ? -infinity : capped;
    };
    for (index row = 0; row < (merged ? 1 : of.heads) * of.queries; ++row) {
        index const h = row / of.queries, i = row % of.queries;
        index const seen = std::clamp(visible(i), index{0}, of.keys);
        auto const logit = [&](index j) {
            double x = logit_of(h, i, j);
            for (index other = 0; merged && other < of.heads; ++other) x = std::max(x, logit_of(other, i, j));
            return x;
        };
        double highest = -infinity, total = 0;
        for (index j = 0; j < seen; ++j) highest = std::max(highest, logit(j));
        if (std::isinf(highest)) continue;
        for (index j = 0; j < seen; ++j) total += std::exp(logit(j) - highest);
        double const below = of.known ? static_cast<double>(log_sum(h, i)) : highest + std::log(total);
        if (!std::isfinite(below)) continue;
        for (index j = 0; j < std::min(seen, columns.wanted); ++j)
            columns.row(h)[j] += static_cast<float>(weight(i) * std::min(std::exp(logit(j) - below), 1.0));
    }
}

template <class Row>
void last_similar(index count, Row row, index dim, std::span<float const> inverse, float threshold,
                  std::span<token> last) noexcept {
    for (index i = 0; i < count; ++i) {
        last[static_cast<std::size_t>(i)] = -1;
        for (index j = 0; j < count; ++j) {
            float const norms = inverse[static_cast<std::size_t>(i)] * inverse[static_cast<std::size_t>(j)];
            if (i != j && dot(row(i), row(j), dim) * norms > threshold)
                last[static_cast<std::size_t>(i)] = static_cast<token>(j);
        }
    }
}

template <class Row>
void similar_sums(index count, Row row, index dim, std::span<float const> inverse, float threshold, index most,
                  std::span<float> sums, std::span<token> nth) noexcept {
    std::fill_n(sums.begin(), count, 0.0F);
    for (index i = 0; i < count; ++i) {
        index left = most;
        nth[static_cast<std::size_t>(i)] = -1;
        for (index j = count - 1; j >= 0 && left > 0; --j) {
            float const norms = inverse[static_cast<std::size_t>(i)] * inverse[static_cast<std::size_t>(j)];
            float const cosine = dot(row(i), row(j), dim) * norms;
            if (i == j || !(cosine > threshold)) continue;
            sums[static_cast<std::size_t>(j)] += cosine;
            if (--left == 0) nth[static_cast<std::size_t>(i)] = static_cast<token>(j);
        }
    }
}

template <real T>
void subtract(T const* x, float const* y, float* out, index n) noexcept {
    for (index i = 0; i < n; ++i) out[i] = static_cast<float>(x[i]) - y[i];
}

template <real T>
void mix(T const* x, float w, float rest, float* acc, index n) noexcept {
    for (index i = 0; i < n; ++i) acc[i] = rest * acc[i] + w * static_cast<float>(x[i]);
}

inline void rotation(index steps, std::span<float const> frequency, std::span<float> cosine,
                     std::span<float> sine) noexcept {
    for (std::size_t i = 0; i < frequency.size(); ++i) {
        double const angle = static_cast<double>(steps) * static_cast<double>(frequency[i]);
        cosine[i] = static_cast<float>(std::cos(angle)), sine[i] = static_cast<float>(std::sin(angle));
    }
}

template <real T>
void rotate_pairs(T* a, T* b, index step, std::span<float const> cosine, std::span<float const> sine) noexcept {
    for (std::size_t i = 0; i < cosine.size(); ++i, a += step, b += step) {
        double const x = static_cast<float>(*a), y = static_cast<float>(*b), c = cosine[i], s = sine[i];
        *a = static_cast<T>(static_cast<float>(x * c - y * s));
        *b = static_cast<T>(static_cast<float>(y * c + x * s));
    }
}

/// out[i] = <x, M x + b> of row i.
template <class Row>
void quadratic_form(index count, Row row, index dim, float const* matrix, float const* linear, float* out) noexcept {
    for (index i = 0; i < count; ++i) {
        double sum = 0;
        for (index a = 0; a < dim; ++a) {
            double inner = linear[a];
            for (index b = 0; b < dim; ++b)
                inner += static_cast<double>(matrix[a * dim + b]) * static_cast<float>(row(i)[b]);
            sum += inner * static_cast<float>(row(i)[a]);
        }
        out[i] = static_cast<float>(sum);
    }
}

/// Rows lie across lanes: x is [panels, columns, width].
inline void add_gram(index panels, float const* x, index columns, index width, double* gram) noexcept {
    for (index panel = 0; panel < panels; ++panel, x += columns * width)
        for (index i = 0; i < columns; ++i)
            for (index j = 0; j <= i; ++j)
                for (index lane = 0; lane < width; ++lane)
                    gram[i * columns + j] += static_cast<double>(x[i * width + lane]) * x[j * width + lane];
}

/// `packed` is of pack_triangle: six rows side by side.
inline void whitened_norms(float const* x, index columns, index width, double const* packed, float* out) noexcept {
    for (index lane = 0; lane < width; ++lane) {
        double total = 0;
        for (index i = 0; i < columns; ++i) {
            double sum = 0;
            for (index j = 0; j <= i; ++j) sum += packed[i / 6 * 6 * columns + j * 6 + i % 6] * x[j * width + lane];
            total += sum * sum;
        }
        out[lane] = static_cast<float>(total);
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

inline void forward_max(std::span<float const> x, index width, std::span<float> out) noexcept {
    for (std::size_t i = 0; i < x.size(); ++i) {
        float most = -std::numeric_limits<float>::infinity();
        for (std::size_t j = i; j < x.size() && j < i + static_cast<std::size_t>(width); ++j)
            if (rank(x[j]) > rank(most)) most = x[j];
        out[i] = most;
    }
}

/// Of x[i] / (now - since[i]); empty `since`: of x[i].
inline void block_sums(std::span<double const> x, std::span<token const> since, token now, index block,
                       std::span<double> out) noexcept {
    std::fill(out.begin(), out.end(), 0.0);
    for (std::size_t i = 0; i < x.size(); ++i)
        out[i / static_cast<std::size_t>(block)] += since.empty() ? x[i] : x[i] / static_cast<double>(now - since[i]);
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

/// Rows that `sum_rows` adds up by themselves.
inline constexpr std::size_t rows_at_once = 512;

template <real T>
void sum_rows(T const* in, index stride, std::span<token const> sources, std::span<float const> weights, float divisor,
              T* out, index dim) noexcept {
    for (index c = 0; c < dim; ++c) {
        float total = 0;
        for (std::size_t first = 0; first < sources.size(); first += rows_at_once) {
            float some = 0;
            for (std::size_t k = first; k < std::min(sources.size(), first + rows_at_once); ++k) {
                auto const x = static_cast<float>(in[sources[k] * stride + c]);
                some += weights.empty() ? x : weights[k] * x;
            }
            total += some;
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
