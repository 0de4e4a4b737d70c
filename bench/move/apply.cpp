#include <algorithm>
#include <random>
#include <vector>

#include <Eigen/SparseCore>
#include <benchmark/benchmark.h>

#include <terse/core/view.hpp>
#include <terse/move/apply.hpp>

namespace {

using terse::token;
using matrix = terse::row_major<float>;

// Tokens merged four to a row, their sources scattered.
struct merge {
    std::vector<token> offsets{0}, sources{};
    std::vector<float> weights{};
    std::vector<matrix> in{};
    matrix out{}, expected{};
    terse::plan plan{};

    merge(terse::index tokens, terse::index dim) {
        std::mt19937 random(1);
        std::vector<token> order(static_cast<std::size_t>(tokens));
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<token>(i);
        std::shuffle(order.begin(), order.end(), random);
        for (auto row = order.begin(); row != order.end(); row += 4) {
            std::sort(row, row + 4);
            sources.insert(sources.end(), row, row + 4);
            weights.insert(weights.end(), {0.4F, 0.3F, 0.2F, 0.1F});
            offsets.push_back(static_cast<token>(sources.size()));
        }
        for (int i = 0; i < 8; ++i) in.push_back(matrix::Random(tokens, dim));
        out.setZero(tokens / 4, dim);
        expected = out;
        plan = {.tokens = tokens, .sources = sources, .offsets = offsets, .weights = weights};
    }
};

void terse_apply(merge const& m, matrix const& in, matrix& out) {
    benchmark::DoNotOptimize(terse::apply(m.plan, terse::view(in), terse::view(out)));
}
void eigen_rows(merge const& m, matrix const& in, matrix& out) {
    for (terse::index i = 0; i < out.rows(); ++i) {
        auto const row = m.plan.row(i);
        out.row(i).setZero();
        for (std::size_t k = 0; k < row.sources.size(); ++k) out.row(i) += row.weight(k) * in.row(row.sources[k]);
    }
}
void eigen_sparse(merge const& m, matrix const& in, matrix& out) {
    Eigen::Map<Eigen::SparseMatrix<float, Eigen::RowMajor> const> const r(
        out.rows(), in.rows(), std::ssize(m.sources), m.offsets.data(), m.sources.data(), m.weights.data());
    out.noalias() = r * in;
}

void run(benchmark::State& state, void (*move)(merge const&, matrix const&, matrix&)) {
    merge m(state.range(0), state.range(1));
    move(m, m.in[0], m.out);
    eigen_rows(m, m.in[0], m.expected);
    if (!m.out.isApprox(m.expected, 1e-5F)) return state.SkipWithError("the answers differ");
    std::size_t turn = 0;
    for (auto _ : state) {
        move(m, m.in[turn++ % m.in.size()], m.out);
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * state.range(0) * state.range(1) *
                            static_cast<terse::index>(sizeof(float)));
}

void sizes(benchmark::internal::Benchmark* bench) {
    bench->ArgNames({"tokens", "dim"})->Args({576, 1024})->Args({1024, 64})->Args({4096, 1152});
}
BENCHMARK_CAPTURE(run, terse, terse_apply)->Name("apply/terse")->Apply(sizes);
BENCHMARK_CAPTURE(run, rows, eigen_rows)->Name("apply/eigen_rows")->Apply(sizes);
BENCHMARK_CAPTURE(run, sparse, eigen_sparse)->Name("apply/eigen_sparse")->Apply(sizes);

}  // namespace
