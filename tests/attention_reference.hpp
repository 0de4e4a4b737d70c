// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <terse/core/layer.hpp>

#include "support.hpp"

namespace terse::test {

/// The probabilities of the last queries, [heads, queries, tokens], in double precision and the plain way.
template <class T, class Cache>
[[nodiscard]] std::vector<std::vector<std::vector<double>>> attention_matrix(layer<T, Cache> const& l) {
    index const n = l.tokens(), w = l.queries.tokens;
    double const scale = l.scale != 0 ? static_cast<double>(l.scale) : 1 / std::sqrt(static_cast<double>(l.keys.dim));
    std::vector<std::vector<std::vector<double>>> all;
    for (index h = 0; h < l.queries.heads; ++h) {
        auto& head = all.emplace_back();
        for (index i = 0; i < w; ++i) {
            auto& row = head.emplace_back(static_cast<std::size_t>(n), 0.0);
            std::vector<double> logits;
            for (index j = 0; j <= n - w + i; ++j) {
                double x = 0;
                for (index c = 0; c < l.keys.dim; ++c)
                    x += static_cast<double>(static_cast<float>(l.queries.row(h, i)[c])) *
                         static_cast<double>(static_cast<float>(l.keys.row(h / l.group(), j)[c]));
                x *= scale;
                if (l.soft_cap > 0)
                    x = static_cast<double>(l.soft_cap) * std::tanh(x / static_cast<double>(l.soft_cap));
                logits.push_back(x);
            }
            double const highest = *std::max_element(logits.begin(), logits.end());
            double sum = 0;
            for (double& x : logits) sum += x = std::exp(x - highest);
            for (std::size_t j = 0; j < logits.size(); ++j) row[j] = logits[j] / sum;
        }
    }
    return all;
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
};

}  // namespace terse::test
