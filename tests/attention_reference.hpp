// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <terse/core/layer.hpp>

#include "support.hpp"

namespace terse::test {

/// Whether query i sees slot j of a kv head, from the positions of both.
template <class T, class Cache>
[[nodiscard]] bool sees(layer<T, Cache> const& l, index kv, index i, index j) {
    if (j >= l.length(kv)) return false;
    if (l.query_positions.empty()) return j <= l.length(kv) - l.window() + i;
    index const slot = (l.positions.data == nullptr) ? j : index{l.positions_of(kv)[static_cast<std::size_t>(j)]};
    return slot <= l.query_positions[static_cast<std::size_t>(i)];
}

/// The logits of the last queries, [heads, queries, tokens], in double precision and the plain way; -infinity where a
/// query does not see.
template <class T, class Cache>
[[nodiscard]] std::vector<std::vector<std::vector<double>>> logit_matrix(layer<T, Cache> const& l) {
    double const scale = l.scale != 0 ? static_cast<double>(l.scale) : 1 / std::sqrt(static_cast<double>(l.keys.dim));
    std::vector<std::vector<std::vector<double>>> all;
    for (index h = 0; h < l.queries.heads; ++h) {
        auto& head = all.emplace_back();
        for (index i = 0; i < l.queries.tokens; ++i) {
            auto& row = head.emplace_back(static_cast<std::size_t>(l.tokens()), -INFINITY);
            for (index j = 0; sees(l, h / l.group(), i, j); ++j) {
                double x = 0;
                for (index c = 0; c < l.keys.dim; ++c)
                    x += static_cast<double>(static_cast<float>(l.queries.row(h, i)[c])) *
                         static_cast<double>(static_cast<float>(l.keys.row(h / l.group(), j)[c]));
                x *= scale;
                if (l.soft_cap > 0)
                    x = static_cast<double>(l.soft_cap) * std::tanh(x / static_cast<double>(l.soft_cap));
                row[static_cast<std::size_t>(j)] = x;
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
    double const below = log_sum_exp(row);
    for (double& x : row) x = std::isinf(below) ? 0 : std::exp(x - below);
    return row;
}

/// The probabilities of the last queries, [heads, queries, tokens], in double precision and the plain way.
template <class T, class Cache>
[[nodiscard]] std::vector<std::vector<std::vector<double>>> attention_matrix(layer<T, Cache> const& l) {
    auto all = logit_matrix(l);
    for (auto& head : all)
        for (auto& row : head) row = softmax(row);
    return all;
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
};

}  // namespace terse::test
