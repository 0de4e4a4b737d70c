// ToMe of one layer, decided and applied, against the published steps written with Eigen.
#include <algorithm>
#include <memory>
#include <numeric>

#include <Eigen/Core>

#include <terse/merge.hpp>
#include <terse/move/apply.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

constexpr index metric_dim = 64, channels = 768;

struct block {
    aligned<float> metric, tokens;
};

std::vector<block> blocks(index n) {
    std::vector<block> all;
    for (unsigned seed = 0; seed < 3; ++seed)
        all.push_back({random_values(n * metric_dim, seed), random_values(n * channels, seed + 10)});
    return all;
}

/// Rows in the published order: even tokens left by falling similarity, then odd tokens.
matrix by_eigen(block const& b, index n, index remove) {
    Eigen::Map<matrix const> const metric(b.metric.data(), n, metric_dim), x(b.tokens.data(), n, channels);
    index const even = (n + 1) / 2, odd = n / 2;
    matrix left(even, metric_dim), right(odd, metric_dim);
    for (index i = 0; i < even; ++i) left.row(i) = metric.row(2 * i).normalized();
    for (index i = 0; i < odd; ++i) right.row(i) = metric.row(2 * i + 1).normalized();
    matrix const similarity = left * right.transpose();
    std::vector<index> partner(static_cast<std::size_t>(even)), order(partner.size());
    Eigen::VectorXf best(even);
    for (index i = 0; i < even; ++i) best[i] = similarity.row(i).maxCoeff(&partner[static_cast<std::size_t>(i)]);
    std::iota(order.begin(), order.end(), index{0});
    std::stable_sort(order.begin(), order.end(), [&](index a, index c) { return best[a] > best[c]; });

    matrix out(n - remove, channels);
    Eigen::VectorXf size = Eigen::VectorXf::Ones(odd);
    for (index i = remove; i < even; ++i) out.row(i - remove) = x.row(2 * order[static_cast<std::size_t>(i)]);
    auto merged = out.bottomRows(odd);
    for (index i = 0; i < odd; ++i) merged.row(i) = x.row(2 * i + 1);
    for (index i = 0; i < remove; ++i) {
        index const a = order[static_cast<std::size_t>(i)], to = partner[static_cast<std::size_t>(a)];
        merged.row(to) += x.row(2 * a);
        size[to] += 1;
    }
    merged.array().colwise() /= size.array();
    return out;
}

contest tome(index n, index remove) {
    struct state {
        std::vector<block> inputs;
        matrix ours, theirs;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    s->inputs = blocks(n);
    s->ours.setZero(n - remove, channels);
    auto const ours = [=](std::size_t input) {
        block const& b = s->inputs[input];
        s->memory.rewind();
        auto const p = merge::tome{.remove = remove}(view(b.metric.data(), n, metric_dim), s->memory);
        keep(p ? apply(*p, view(b.tokens.data(), n, channels), view(s->ours)) : p.error());
    };
    auto const theirs = [=](std::size_t input) {
        s->theirs = by_eigen(s->inputs[input], n, remove);
        keep(s->theirs);
    };
    ours(0);
    theirs(0);
    return {.bound = fma_limit(2.0 * static_cast<double>((n + 1) / 2 * (n / 2) * metric_dim)),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .inputs = s->inputs.size(),
            .agree = s->ours.isApprox(s->theirs, 1e-4F)};
}

bool const added = [] {
    for (auto const& [n, remove] : {std::pair<index, index>{197, 16}, {577, 32}, {1025, 64}})
        add({"tome", {{"n", n}, {"remove", remove}, {"d", metric_dim}, {"channels", channels}}},
            [n = n, remove = remove] { return tome(n, remove); });
    return true;
}();

}  // namespace
}  // namespace terse::bench
