#include <algorithm>
#include <cstddef>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <terse/prune/divprune.hpp>

namespace {

using matrix = terse::row_major<float>;
using terse::token;

// Image features are alike: a common direction, some groups, and what is a token's own.
matrix features(Eigen::Index tokens, Eigen::Index dim) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    auto const noise = [&](Eigen::Index rows) {
        return matrix::NullaryExpr(rows, dim, [&] { return normal(random); });
    };
    matrix const common = noise(1), groups = noise(24);
    matrix x = noise(tokens);
    for (Eigen::Index t = 0; t < tokens; ++t) x.row(t) = 0.7F * x.row(t) + common.row(0) + groups.row(t % 24);
    return x;
}

struct with_terse {
    terse::arena memory{};

    std::vector<token> operator()(matrix const& x, Eigen::Index keep) {
        memory.rewind();
        auto const p = terse::prune::divprune{.keep = keep}(terse::view(x), memory);
        return {p->sources.begin(), p->sources.end()};
    }
};

// What one writes otherwise: all cosines by one matrix product, then greedy steps over its rows.
struct with_gram {
    matrix unit{}, cosines{};
    Eigen::RowVectorXf nearest{};

    std::vector<token> operator()(matrix const& x, Eigen::Index keep) {
        unit = x.rowwise().normalized();
        cosines.noalias() = unit * unit.transpose();
        cosines.diagonal().setConstant(-std::numeric_limits<float>::infinity());
        Eigen::Index pick = 0;
        cosines.rowwise().maxCoeff().minCoeff(&pick);

        std::vector<token> kept{static_cast<token>(pick)};
        nearest = cosines.row(pick);
        while (std::ssize(kept) < keep) {
            for (token const k : kept) nearest[k] = std::numeric_limits<float>::infinity();
            nearest.minCoeff(&pick);
            kept.push_back(static_cast<token>(pick));
            nearest = nearest.cwiseMax(cosines.row(pick));
        }
        std::sort(kept.begin(), kept.end());
        return kept;
    }
};

template <class Prune>
void divprune(benchmark::State& state) {
    Eigen::Index const tokens = state.range(0), dim = state.range(1), keep = state.range(2);
    matrix const x = features(tokens, dim);
    Prune prune;
    if (prune(x, keep) != with_gram{}(x, keep)) return state.SkipWithError("the answers differ");
    for (auto _ : state) {
        auto const kept = prune(x, keep);
        benchmark::DoNotOptimize(kept.data());
    }
    state.counters["tokens"] =
        benchmark::Counter(static_cast<double>(state.iterations() * tokens), benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "d", "keep"})->Unit(benchmark::kMillisecond);
    for (auto const n : {576, 2304})
        for (auto const d : {1024, 4096}) b->Args({n, d, n / 10});
}

BENCHMARK_TEMPLATE(divprune, with_terse)->Name("divprune/terse")->Apply(shapes);
BENCHMARK_TEMPLATE(divprune, with_gram)->Name("divprune/eigen_gram")->Apply(shapes);

}  // namespace
