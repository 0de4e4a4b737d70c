#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <Eigen/Core>

#include "prompt.hpp"

// What an engine author writes with Eigen, as far as several methods share it: whole products, whole softmax rows,
// nth_element.

namespace terse::bench {

using matrix = row_major<float>;

/// Each row becomes its softmax.
template <class Derived>
void softmax_rows(Eigen::MatrixBase<Derived>& logits) {
    for (index i = 0; i < logits.rows(); ++i) {
        auto row = logits.row(i);
        row = (row.array() - row.maxCoeff()).exp().matrix();
        row /= row.sum();
    }
}

/// [queries, keys]
template <class Queries, class Keys>
matrix logits_of(Queries const& queries, Keys const& keys) {
    matrix logits = queries * keys.transpose();
    logits *= 1 / std::sqrt(static_cast<float>(keys.cols()));
    return logits;
}

/// Probabilities [queries, keys]: the queries are those of the last keys, and none sees a key after its own.
template <class Queries, class Keys>
matrix attention(Queries const& queries, Keys const& keys) {
    matrix a = logits_of(queries, keys);
    for (index i = 0; i < a.rows(); ++i)
        a.row(i).tail(a.rows() - 1 - i).setConstant(-std::numeric_limits<float>::infinity());
    softmax_rows(a);
    return a;
}

/// The same of the last `queries` queries of query head h.
inline matrix attention_of(prompt const& p, index h, index queries = prompt::window) {
    return attention(p.queries_of(h).bottomRows(queries), p.keys_of(h / prompt::group));
}

/// [kv_heads, tokens]: what slots receive from the last weights.size() queries, each times its weight; the mean over
/// the query heads of a kv head.
inline matrix received(prompt const& p, Eigen::RowVectorXf const& weights) {
    matrix scores = matrix::Zero(prompt::kv_heads, p.tokens);
    for (index h = 0; h < prompt::heads; ++h)
        scores.row(h / prompt::group).noalias() += weights * attention_of(p, h, weights.size());
    return scores / static_cast<float>(prompt::group);
}

/// The mean over `kernel` neighbours in each row; those outside count as zero.
template <class Derived>
typename Derived::PlainObject pooled(Eigen::MatrixBase<Derived> const& scores, index kernel) {
    typename Derived::PlainObject out = Derived::PlainObject::Zero(scores.rows(), scores.cols());
    for (index shift = -(kernel / 2); shift <= kernel / 2; ++shift) {
        index const begin = std::max<index>(0, -shift), count = scores.cols() - std::abs(shift);
        out.middleCols(begin, count) += scores.middleCols(begin + shift, count) / static_cast<float>(kernel);
    }
    return out;
}

/// What SnapKV goes by: one row a kv head, of the slots before the window.
inline matrix snapkv_scores(prompt const& p) {
    return pooled(received(p, Eigen::RowVectorXf::Ones(prompt::window)).leftCols(p.tokens - prompt::window), 5);
}

/// Orders slots by score, the highest first.
template <class Scores>
auto higher(Scores const& scores) {
    return [&scores](token a, token b) { return scores[a] > scores[b]; };
}

/// The same where scores are often equal: of these the earlier slot first.
template <class Scores>
auto higher_or_earlier(Scores const& scores) {
    return [&scores](token a, token b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); };
}

/// The first `count` of the numbers in that order, but these in any.
template <class Before>
std::vector<token> leading(range numbers, index count, Before const& before) {
    std::vector<token> order(static_cast<std::size_t>(numbers.size()));
    std::iota(order.begin(), order.end(), static_cast<token>(numbers.begin));
    if (count < numbers.size()) {
        std::nth_element(order.begin(), order.begin() + count, order.end(), before);
        order.resize(static_cast<std::size_t>(count));
    }
    return order;
}

/// Ascending: the first `sinks` slots, the last `recent`, and between them the first in that order, `keep` in all.
template <class Before>
std::vector<token> kept_by(Before const& before, index tokens, index keep, index recent = 0, index sinks = 0) {
    auto kept = leading({sinks, tokens - recent}, keep - sinks - recent, before);
    for (index t = 0; t < sinks; ++t) kept.push_back(static_cast<token>(t));
    for (index t = tokens - recent; t < tokens; ++t) kept.push_back(static_cast<token>(t));
    std::sort(kept.begin(), kept.end());
    return kept;
}

/// The same for each row of scores, whose columns begin behind the sinks.
inline slots kept_by_rows(matrix const& scores, index tokens, index keep, index recent = 0, index sinks = 0) {
    slots kept;
    for (index r = 0; r < scores.rows(); ++r) {
        auto const before = [&](token a, token b) { return scores(r, a - sinks) > scores(r, b - sinks); };
        kept.push_back(kept_by(before, tokens, keep, recent, sinks));
    }
    return kept;
}

}  // namespace terse::bench
