#include <cmath>

#include <Eigen/Core>

#include <terse/simd/min_distance.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

/// Times a step of farthest-point selection, solve(rows, inverse norms, pick, distances), once its answer is right.
template <class T, class Solve>
void run(benchmark::State& state, Solve solve) {
    index const count = state.range(0), dim = state.range(1);
    auto const input = random_inputs<T>(count, dim, 1).front();
    auto const row = [x = input.data(), dim](index i) noexcept { return x + i * dim; };
    std::vector<float> inverse(static_cast<std::size_t>(count));
    simd::inverse_norms<>(count, row, dim, inverse);
    std::vector<float> distance(inverse.size(), 2.0F), expected = distance;
    index pick = solve(row, inverse, 0, distance);
    static_cast<void>(simd::scalar::min_distance(count, row, inverse, 0, dim, expected));
    for (std::size_t j = 0; j < expected.size(); ++j) {
        if (!(std::abs(distance[j] - expected[j]) < 1e-5F)) state.SkipWithError("the answer is wrong");
    }
    for (auto _ : state) {
        pick = solve(row, inverse, pick, distance);
        benchmark::DoNotOptimize(pick);
    }
    state.SetBytesProcessed(state.iterations() * count * dim * static_cast<index>(sizeof(T)));
}

template <class T>
void with_terse(benchmark::State& state) {
    run<T>(state, [count = state.range(0), dim = state.range(1)](auto row, auto const& inverse, index pick,
                                                                 std::vector<float>& distance) {
        return simd::min_distance<>(count, row, inverse, pick, dim, distance);
    });
}

void with_eigen(benchmark::State& state) {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    index const count = state.range(0), dim = state.range(1);
    Eigen::VectorXf cosine(count);
    run<float>(state, [&](auto row, auto const& inverse, index pick, std::vector<float>& distance) {
        Eigen::Map<matrix const> const x(row(0), count, dim);
        Eigen::Map<Eigen::VectorXf const> const norms(inverse.data(), count);
        Eigen::Map<Eigen::VectorXf> d(distance.data(), count);
        cosine.noalias() = x * x.row(pick).transpose();
        d = d.cwiseMin((1 - cosine.array() * norms.array() * norms[pick]).matrix());
        index farthest = 0;
        d.maxCoeff(&farthest);
        return farthest;
    });
}

void sizes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "d"})->Args({576, 1024})->Args({4096, 128})->Unit(benchmark::kMicrosecond);
}

BENCHMARK_TEMPLATE(with_terse, float)->Name("min_distance/terse")->Apply(sizes);
BENCHMARK_TEMPLATE(with_terse, half)->Name("min_distance/terse/half")->Apply(sizes);
BENCHMARK(with_eigen)->Name("min_distance/eigen")->Apply(sizes);

}  // namespace
}  // namespace terse::bench
