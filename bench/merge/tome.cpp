// ToMe of one layer, decided and applied, against the published steps written with Eigen.
#include <algorithm>
#include <numeric>

#include <Eigen/Core>

#include <terse/merge.hpp>
#include <terse/move/apply.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

constexpr index metric_dim = 64, channels = 768;

struct block {
    std::vector<float> metric, tokens;
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

errc by_terse(block const& b, index n, index remove, arena& memory, tokens_span<float> out) {
    auto const p = merge::tome{.remove = remove}(view(b.metric.data(), n, metric_dim), memory);
    return p ? apply(*p, view(b.tokens.data(), n, channels), out) : p.error();
}

void with_terse(benchmark::State& state) {
    index const n = state.range(0), remove = state.range(1);
    auto const inputs = blocks(n);
    matrix out(n - remove, channels);
    arena memory;
    if (by_terse(inputs[0], n, remove, memory, view(out)) != errc::ok ||
        !out.isApprox(by_eigen(inputs[0], n, remove), 1e-4F))
        state.SkipWithError("the answers differ");
    std::size_t next = 0;
    for (auto _ : state) {
        memory.rewind();
        auto error = by_terse(inputs[next++ % inputs.size()], n, remove, memory, view(out));
        benchmark::DoNotOptimize(error);
        benchmark::ClobberMemory();
    }
}

void with_eigen(benchmark::State& state) {
    index const n = state.range(0), remove = state.range(1);
    auto const inputs = blocks(n);
    std::size_t next = 0;
    for (auto _ : state) {
        matrix out = by_eigen(inputs[next++ % inputs.size()], n, remove);
        benchmark::DoNotOptimize(out.data());
    }
}

void kth(benchmark::State& state) {
    index const n = state.range(0);
    auto const inputs = blocks(n);
    arena memory;
    std::size_t next = 0;
    for (auto _ : state) {
        memory.rewind();
        auto p = merge::tome_kth{.every = 4}(view(inputs[next++ % inputs.size()].metric.data(), n, metric_dim), memory);
        benchmark::DoNotOptimize(p);
    }
}

void sizes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "remove"})->Args({197, 16})->Args({577, 32})->Args({1025, 64})->Unit(benchmark::kMicrosecond);
}
BENCHMARK(with_terse)->Name("merge/tome/terse")->Apply(sizes);
BENCHMARK(with_eigen)->Name("merge/tome/eigen")->Apply(sizes);
BENCHMARK(kth)->Name("merge/tome_kth/terse")->ArgName("n")->Arg(577)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace terse::bench
