// Evictions by statistics of keys and queries against what an engine author writes with Eigen: whole products.
#include <algorithm>
#include <cmath>
#include <memory>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <terse/kv/compactor.hpp>
#include <terse/kv/expected_attention.hpp>
#include <terse/kv/leverage.hpp>
#include <terse/kv/non_causal_attention.hpp>

#include "../compare.hpp"
#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index budget = 1024, chunk = 256, columns = 48, sinks = 8, recent = 4, dim = prompt::dim;

void standardise(matrix& scores) {
    float const mean = scores.mean();
    float const deviation = std::sqrt((scores.array() - mean).square().sum() / static_cast<float>(scores.size() - 1));
    scores = ((scores.array() - mean) / std::max(deviation, 1e-6F)).matrix();
}

/// Moments of the prompt's queries and the frequencies of a usual encoding, made once.
struct statistics {
    aligned<float> mean, frequency, covariance;
    kv::query_moments moments{};

    statistics()
        : mean(static_cast<std::size_t>(prompt::heads * dim)),
          covariance(static_cast<std::size_t>(prompt::heads * dim * dim)) {
        for (index i = 0; i < dim / 2; ++i)
            frequency.push_back(std::pow(10000.0F, -2 * static_cast<float>(i) / static_cast<float>(dim)));
        moments = {.mean = mean, .covariance = covariance, .heads = prompt::heads, .dim = dim};
        arena memory;
        keep(moments.add(prompt(1).layer().queries, memory));
    }
};

statistics const& known() {
    static statistics const all;
    return all;
}

kv::expected_attention expected(bool squares) {
    return {.keep = budget, .moments = known().moments, .encoding = {known().frequency}, .use_covariance = squares};
}

slots expected_by_the_book(prompt const& p, bool squares) {
    constexpr index first = 4, future = 512, half = dim / 2;
    matrix rotation = matrix::Zero(dim, dim);
    for (index i = 0; i < half; ++i) {
        auto const angle = (Eigen::ArrayXf::LinSpaced(future, 0, future - 1) + static_cast<float>(p.tokens)) *
                           known().frequency[static_cast<std::size_t>(i)];
        float const c = angle.cos().mean(), s = angle.sin().mean();
        rotation(i, i) = rotation(i + half, i + half) = c;
        rotation(i, i + half) = -s;
        rotation(i + half, i) = s;
    }
    float const scale = 1 / std::sqrt(static_cast<float>(dim));
    index const n = p.tokens - first;
    matrix scores = matrix::Zero(prompt::kv_heads, n);
    for (index h = 0; h < prompt::heads; ++h) {
        index const kv = h / prompt::group;
        auto const keys = p.keys_of(kv).bottomRows(n);
        Eigen::VectorXf const mean = rotation * known().moments.means().map().row(h).transpose();
        Eigen::VectorXf logits = keys * mean * scale;
        if (squares) {
            matrix const turned =
                rotation * known().moments.covariances().head(h).map() * rotation.transpose() * (scale * scale / 2);
            matrix const products = keys * turned;
            logits += products.cwiseProduct(keys).rowwise().sum();
        }
        logits = (logits.array() - logits.maxCoeff()).exp().matrix();
        scores.row(kv) += logits.transpose() / (logits.sum() * static_cast<float>(prompt::group));
    }
    for (index kv = 0; kv < prompt::kv_heads; ++kv)
        scores.row(kv).array() *= p.values_of(kv).bottomRows(n).rowwise().norm().transpose().array();
    return kept_by_rows(scores, p.tokens, budget, 0, first);
}

matrix const& sketch() {
    static matrix const all = [] {
        matrix m(dim, columns);
        score::fill_sketch({m.data(), static_cast<std::size_t>(m.size())});
        return m;
    }();
    return all;
}

/// Z-scores of the slots [first, first + n).
matrix leverage_by_the_book(prompt const& p, index first, index n) {
    matrix scores(prompt::kv_heads, n);
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        auto const keys = p.keys_of(kv).middleRows(first, n);
        matrix const x = (keys.rowwise() - keys.colwise().mean()) * (sketch() / std::sqrt(static_cast<float>(columns)));
        matrix gram = x.transpose() * x;
        gram.diagonal().array() += 0.01F;
        matrix const solved = gram.llt().solve(x.transpose());
        scores.row(kv) = solved.cwiseProduct(x.transpose()).colwise().sum().cwiseMax(0.0F);
    }
    standardise(scores);
    return scores;
}

/// The prompt with queries of all its tokens: stretches of its values' memory, a head's a little after the last one's.
terse::layer<float> with_all_queries(prompt const& p) {
    auto l = p.layer();
    index const apart = (prompt::kv_heads - 1) * p.tokens / (prompt::heads - 1) * dim;
    l.queries = {p.values.data(), prompt::heads, p.tokens, dim, apart, dim};
    return l;
}

matrix attention_by_the_book(prompt const& p, index first, index n) {
    auto const l = with_all_queries(p);
    matrix scores = matrix::Zero(prompt::kv_heads, n);
    for (index h = 0; h < prompt::heads; ++h) {
        index const kv = h / prompt::group;
        for (index at = 0; at < n; at += chunk) {
            index const count = std::min(chunk, n - at);
            matrix logits = matrix::Zero(count, chunk);
            logits.leftCols(count) = l.queries.head(h).map().middleRows(first + at, count) *
                                     p.keys_of(kv).middleRows(first + at, count).transpose();
            softmax_rows(logits);
            scores.row(kv).segment(at, count) += logits.leftCols(count).colwise().sum();
        }
    }
    scores /= static_cast<float>(prompt::group);
    scores.rightCols((n - 1) % chunk + 1).array() +=
        static_cast<float>((chunk - n % chunk) % chunk) / static_cast<float>(chunk);
    for (index kv = 0; kv < prompt::kv_heads; ++kv)
        scores.row(kv).array() *= p.values_of(kv).middleRows(first, n).rowwise().norm().transpose().array();
    matrix smooth = pooled(scores, 3);
    standardise(smooth);
    return smooth;
}

heads_view<float> given_sketch() { return {sketch().data(), 1, dim, columns, 0, columns}; }

/// A step of decoding: the new token's queries join the moments.
contest moments_step() {
    struct state {
        std::vector<aligned<float>> queries = random_inputs(prompt::heads, dim);
        statistics ours;
        std::vector<matrix> covariance = std::vector<matrix>(prompt::heads, matrix::Zero(dim, dim));
        matrix mean = matrix::Zero(prompt::heads, dim);
        double count = 0;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    s->ours.moments.count = 0;
    auto const ours = [s](std::size_t input) {
        keep(s->ours.moments.add(head_major<float const>(s->queries[input].data(), prompt::heads, 1, dim), s->memory));
    };
    auto const theirs = [s](std::size_t input) {
        auto const rest = static_cast<float>(s->count / (s->count + 1)), weight = 1 - rest;
        auto const queries = view(s->queries[input].data(), prompt::heads, dim).map();
        for (index h = 0; h < prompt::heads; ++h) {
            Eigen::VectorXf const apart = queries.row(h) - s->mean.row(h);
            auto& c = s->covariance[static_cast<std::size_t>(h)];
            c = c * rest + (apart * (weight * rest)).lazyProduct(apart.transpose());
            s->mean.row(h) += weight * apart.transpose();
        }
        s->count += 1;
        keep(s->mean);
    };
    auto const bytes = s->ours.covariance.size() * sizeof(float);
    contest c{.bound = copy_limit(bytes, 1), .candidates = {{"terse", ours}, {eigen_name(), theirs}}, .inputs = 4};
    c.bound.probe = [probe = c.bound.probe](std::size_t) { probe(0); };  // one state, whatever the queries
    for (std::size_t call = 0; call < 16; ++call) ours(call % 4), theirs(call % 4);
    for (index h = 0; h < prompt::heads; ++h)
        c.agree = c.agree && s->ours.moments.covariances().head(h).map().isApprox(
                                 s->covariance[static_cast<std::size_t>(h)], 1e-4F);
    return c;
}

bool const added = [] {
    add({"query-moments-step", {{"heads", prompt::heads}, {"d", dim}}}, [] { return moments_step(); });
    for (bool const squares : {true, false}) {
        add_prompt_rows(squares ? "expected-attention" : "expected-attention-mean",
                        {.ours = [=](prompt const& p, arena& memory) { return expected(squares)(p.layer(), memory); },
                         .theirs = [=](prompt const& p) { return expected_by_the_book(p, squares); },
                         .differ = 5e-3});
    }
    add_prompt_rows(
        "leverage",
        {.ours =
             [](prompt const& p, arena& memory) {
                 return kv::leverage{.keep = budget, .sketch = given_sketch()}(p.layer(), memory);
             },
         .theirs = [](prompt const& p) { return kept_by_rows(leverage_by_the_book(p, 0, p.tokens), p.tokens, budget); },
         .differ = 5e-3});
    add_prompt_rows(
        "non-causal-attention",
        {.ours =
             [](prompt const& p, arena& memory) {
                 return kv::non_causal_attention{.keep = budget, .chunk = chunk}(with_all_queries(p), memory);
             },
         .theirs =
             [](prompt const& p) { return kept_by_rows(attention_by_the_book(p, 0, p.tokens), p.tokens, budget); },
         .differ = 5e-3});
    add_prompt_rows("compactor", {.ours =
                                      [](prompt const& p, arena& memory) {
                                          return kv::compactor{.keep = budget,
                                                               .blending = 0.75F,
                                                               .sketch = given_sketch()}(with_all_queries(p), memory);
                                      },
                                  .theirs =
                                      [](prompt const& p) {
                                          index const n = p.tokens - sinks - recent;
                                          matrix const all = 0.75F * leverage_by_the_book(p, sinks, n) +
                                                             attention_by_the_book(p, sinks, n);
                                          return kept_by_rows(all, p.tokens, budget, recent, sinks);
                                      },
                                  .differ = 5e-3});
    return true;
}();

}  // namespace
}  // namespace terse::bench
