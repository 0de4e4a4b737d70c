// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <terse/core/layer.hpp>

#include "scorer_shapes.hpp"

namespace terse::test {

/// Whether query i sees slot j of a kv head, from the positions of both.
template <class T, class Cache>
[[nodiscard]] bool sees(layer<T, Cache> const& l, index kv, index i, index j) {
    if (j >= l.length(kv)) return false;
    if (l.query_positions.empty()) return j <= l.length(kv) - l.window() + i;
    index const slot = (l.positions.data == nullptr) ? j : index{l.positions_of(kv)[static_cast<std::size_t>(j)]};
    return slot <= l.query_positions[static_cast<std::size_t>(i)];
}

/// Of one head of a cache the first slots, in double precision.
template <class Cache>
[[nodiscard]] matrix head_rows(Cache const& cache, index h, index count) {
    matrix all;
    for (index t = 0; t < count; ++t) {
        auto& row = all.emplace_back();
        for (index c = 0; c < cache.dim; ++c)
            row.push_back(static_cast<double>(static_cast<float>(cache.row(h, t)[c])));
    }
    return all;
}

template <class T>
[[nodiscard]] matrix head_rows(tensor<T> const& x, index h, index count) {
    return head_rows(x.by_head(), h, count);
}

[[nodiscard]] inline double product(std::vector<double> const& a, std::vector<double> const& b) {
    double sum = 0;
    for (std::size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
    return sum;
}

/// The logits of the last queries, [heads, queries, tokens], in double precision and the plain way; -infinity where a
/// query does not see.
template <class T, class Cache>
[[nodiscard]] std::vector<matrix> logit_matrix(layer<T, Cache> const& l) {
    double const scale = l.scale != 0 ? static_cast<double>(l.scale) : 1 / std::sqrt(static_cast<double>(l.keys.dim));
    double const cap = static_cast<double>(l.soft_cap);
    std::vector<matrix> all;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        matrix const keys = head_rows(l.keys, kv, l.length(kv));
        for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h) {
            auto& head = all.emplace_back();
            matrix const queries = head_rows(l.queries, h, l.queries.tokens);
            for (index i = 0; i < l.queries.tokens; ++i) {
                auto& row = head.emplace_back(static_cast<std::size_t>(l.tokens()), -INFINITY);
                for (index j = 0; sees(l, kv, i, j); ++j) {
                    double const x =
                        scale * product(queries[static_cast<std::size_t>(i)], keys[static_cast<std::size_t>(j)]);
                    row[static_cast<std::size_t>(j)] = cap > 0 ? cap * std::tanh(x / cap) : x;
                }
            }
        }
    }
    return all;
}

/// The log of the sum of exponentials; -infinity where there is none.
[[nodiscard]] inline double log_sum_exp(std::vector<double> const& logits) {
    double const highest = logits.empty() ? -INFINITY : *std::max_element(logits.begin(), logits.end());
    if (std::isinf(highest)) return highest;
    double sum = 0;
    for (double const x : logits) sum += std::exp(x - highest);
    return highest + std::log(sum);
}

/// The softmax of a row of logits; zeros where none is finite.
[[nodiscard]] inline std::vector<double> softmax(std::vector<double> row) {
    double const highest = row.empty() ? -INFINITY : *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double& x : row) sum += x = std::isinf(x) ? 0 : std::exp(x - highest);
    for (double& x : row) x = sum > 0 ? x / sum : 0;
    return row;
}

[[nodiscard]] inline std::vector<matrix> softmax(std::vector<matrix> all) {
    for (auto& head : all)
        for (auto& row : head) row = softmax(std::move(row));
    return all;
}

/// The probabilities of the last queries, [heads, queries, tokens], in double precision and the plain way.
template <class T, class Cache>
[[nodiscard]] std::vector<matrix> attention_matrix(layer<T, Cache> const& l) {
    return softmax(logit_matrix(l));
}

/// The probabilities as an engine holds them: [heads, queries, tokens], packed.
[[nodiscard]] inline std::vector<float> packed(std::vector<matrix> const& attention) {
    std::vector<float> all;
    for (auto const& head : attention)
        for (auto const& row : head) all.insert(all.end(), row.begin(), row.end());
    return all;
}

/// The log of each query's sum of exponentials as an engine holds it: [heads, queries], packed.
template <class T, class Cache>
[[nodiscard]] std::vector<float> logs_of_sums(layer<T, Cache> const& l) {
    std::vector<float> all;
    for (auto const& head : logit_matrix(l))
        for (auto const& row : head) all.push_back(static_cast<float>(log_sum_exp(row)));
    return all;
}

/// The layer as it was at its queries [begin, end): the slots up to the last of them.
template <class T>
[[nodiscard]] layer<T> chunk_of(layer<T> l, index begin, index end) {
    index const later = l.queries.tokens - end;
    l.keys.tokens -= later, l.values.tokens -= later;
    l.queries.data = l.queries.row(0, begin), l.queries.tokens = end - begin;
    if (l.log_sum_exp.data != nullptr) l.log_sum_exp.data += begin, l.log_sum_exp.dim = end - begin;
    return l;
}

/// The sums of a head's columns over its queries [begin, end).
[[nodiscard]] inline std::vector<double> column_sums_of(matrix const& head, index begin, index end) {
    std::vector<double> sums(head[0].size(), 0.0);
    for (index i = begin; i < end; ++i)
        for (std::size_t t = 0; t < sums.size(); ++t) sums[t] += head[static_cast<std::size_t>(i)][t];
    return sums;
}

/// A layer that has nothing but its shape.
[[nodiscard]] inline layer<float> bare_layer(index kv_heads, index tokens) {
    return {.keys = head_major<float const>(nullptr, kv_heads, tokens, 1)};
}

/// A layer that has nothing but its attention [heads, queries, tokens].
[[nodiscard]] inline layer<float> given(std::vector<float> const& attention, index heads, index queries,
                                        index kv_heads = 1) {
    index const tokens = std::ssize(attention) / heads / queries;
    layer<float> l = bare_layer(kv_heads, tokens);
    l.attention = head_major(attention.data(), heads, queries, tokens);
    return l;
}

/// What a call keeps of a head.
[[nodiscard]] inline tokens_list kept(result<plans> const& r, index head = 0) { return list(r.value()[head].sources); }

/// The positions of the `keep` highest, ascending; of equal ones the first.
template <class Row>
[[nodiscard]] tokens_list highest(Row const& row, std::size_t keep) {
    tokens_list order(row.size());
    std::iota(order.begin(), order.end(), token{0});
    std::stable_sort(order.begin(), order.end(), [&](token a, token b) {
        return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
    });
    order.resize(keep);
    std::sort(order.begin(), order.end());
    return order;
}

/// A layer with random keys, values and queries, and its memory.
template <class T = float>
struct random_layer {
    tensor<T> keys, values, queries;

    random_layer(scorer_shape const& s, unsigned seed)
        : random_layer{s.heads, s.kv_heads, s.tokens, s.dim, s.window, seed} {}
    random_layer(index heads, index kv_heads, index tokens, index dim, index window, unsigned seed)
        : keys{cast<T>(random_heads(kv_heads, tokens, dim, seed))},
          values{cast<T>(random_heads(kv_heads, tokens, dim, seed + 1))},
          queries{cast<T>(random_heads(heads, window, dim, seed + 2))} {}

    [[nodiscard]] layer<T> view() const {
        return {.keys = keys.by_head(), .values = values.by_head(), .queries = queries.by_head()};
    }
    /// Of each head the first slots alone.
    [[nodiscard]] layer<T, ragged_view<T>> view(uneven const& held) const {
        return {.keys = held.of(keys), .values = held.of(values), .queries = queries.by_head()};
    }
    /// Of kv head h the first slots alone, with its query heads: what it is in a layer whose heads hold different
    /// numbers.
    [[nodiscard]] layer<T> alone(index h, index length) const {
        index const group = queries.heads / keys.heads;
        return {.keys = head_major(keys.row(0, h), 1, length, keys.dim),
                .values = head_major(values.row(0, h), 1, length, values.dim),
                .queries = head_major(queries.row(0, h * group), group, queries.tokens, queries.dim)};
    }
};

}  // namespace terse::test
