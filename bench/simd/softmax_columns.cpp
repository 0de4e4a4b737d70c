#include <cmath>

#include <Eigen/Core>

#include <terse/simd/scalar.hpp>
#include <terse/simd/softmax_columns.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

/// Times solve(queries, keys, columns) for the last `window` of `keys` tokens, once its answer is right.
template <class T, class Solve>
void run(benchmark::State& state, Solve solve) {
    index const window = state.range(0), keys = state.range(1), dim = state.range(2);
    auto const query = random_inputs<T>(window, dim, 1).front();
    auto const inputs = random_inputs<T>(keys, dim);
    auto const row = [dim](T const* x) { return [x, dim](index i) noexcept { return x + i * dim; }; };
    std::vector<float> columns(static_cast<std::size_t>(keys)), expected = columns;
    solve(row(query.data()), row(inputs[0].data()), columns);
    simd::scalar::softmax_columns(window, row(query.data()), keys, row(inputs[0].data()), dim,
                                  1 / std::sqrt(static_cast<float>(dim)), 0.0F, keys - window + 1, expected);
    for (std::size_t j = 0; j < columns.size(); ++j) {
        if (!(std::abs(columns[j] - expected[j]) <= 1e-4F * expected[j])) state.SkipWithError("the answer is wrong");
    }
    std::size_t next = 0;
    for (auto _ : state) {
        std::fill(columns.begin(), columns.end(), 0.0F);
        solve(row(query.data()), row(inputs[next++ % inputs.size()].data()), columns);
        benchmark::DoNotOptimize(columns.data());
        benchmark::ClobberMemory();
    }
    count_flops(state, 2.0 * static_cast<double>(window) * static_cast<double>(keys) * static_cast<double>(dim));
}

template <class T>
void with_terse(benchmark::State& state) {
    index const window = state.range(0), keys = state.range(1), dim = state.range(2);
    std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<>(keys, dim)));
    run<T>(state, [&](auto query, auto key, std::vector<float>& columns) {
        simd::softmax_columns<>(window, query, keys, key, dim, 1 / std::sqrt(static_cast<float>(dim)), 0.0F,
                                keys - window + 1, columns, scratch);
    });
}

void with_eigen(benchmark::State& state) {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    index const window = state.range(0), keys = state.range(1), dim = state.range(2);
    matrix logits;
    run<float>(state, [&](auto query, auto key, std::vector<float>& columns) {
        Eigen::Map<matrix const> const q(query(0), window, dim), k(key(0), keys, dim);
        logits.noalias() = q * k.transpose();
        logits *= 1 / std::sqrt(static_cast<float>(dim));
        Eigen::Map<Eigen::RowVectorXf> sums(columns.data(), keys);
        for (index i = 0; i < window; ++i) {
            auto row = logits.row(i).head(keys - window + 1 + i);
            row = (row.array() - row.maxCoeff()).exp();
            sums.head(row.size()) += row / row.sum();
        }
    });
}

void sizes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"window", "keys", "d"})->Unit(benchmark::kMicrosecond);
    b->Args({32, 4096, 64})->Args({32, 4096, 128})->Args({32, 32768, 128})->Args({1, 4096, 128});
}

BENCHMARK_TEMPLATE(with_terse, float)->Name("softmax_columns/terse")->Apply(sizes);
BENCHMARK_TEMPLATE(with_terse, half)->Name("softmax_columns/terse/half")->Apply(sizes);
BENCHMARK_TEMPLATE(with_terse, bfloat16)->Name("softmax_columns/terse/bfloat16")->Apply(sizes);
BENCHMARK(with_eigen)->Name("softmax_columns/eigen")->Apply(sizes);

}  // namespace
}  // namespace terse::bench
