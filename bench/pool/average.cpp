#include <algorithm>

#include <benchmark/benchmark.h>

#include <terse/move/apply.hpp>
#include <terse/pool/average.hpp>

namespace {

using matrix = terse::row_major<float>;
using Eigen::Index;

// A video of `frames` pictures of side x side tokens, pooled to out x out a frame.
struct problem {
    Index frames, side, out;

    [[nodiscard]] Index tokens() const { return frames * side * side; }
    [[nodiscard]] Index rows() const { return frames * out * out; }
};

// Decides and moves, as the first call on a new shape does.
struct with_terse {
    terse::arena memory{};

    void operator()(problem const& p, matrix const& x, matrix& y) {
        memory.rewind();
        terse::pool::adaptive_average const policy{.grid = {p.frames, p.side, p.side},
                                                   .out = {.rows = p.out, .columns = p.out}};
        auto const plan = policy(x.rows(), memory);
        if (!plan || terse::apply(*plan, terse::view(x), terse::view(y)) != terse::errc::ok) y.setZero();
    }
};

// What one writes otherwise: a mean of rows, cell by cell.
struct with_eigen {
    void operator()(problem const& p, matrix const& x, matrix& y) {
        auto const begin = [&p](Index i) { return i * p.side / p.out; };
        auto const end = [&p](Index i) { return ((i + 1) * p.side + p.out - 1) / p.out; };
        for (Index f = 0; f < p.frames; ++f)
            for (Index r = 0; r < p.out; ++r)
                for (Index c = 0; c < p.out; ++c) {
                    auto mean = y.row((f * p.out + r) * p.out + c);
                    mean.setZero();
                    for (Index i = begin(r); i < end(r); ++i)
                        for (Index j = begin(c); j < end(c); ++j) mean += x.row((f * p.side + i) * p.side + j);
                    mean /= static_cast<float>((end(r) - begin(r)) * (end(c) - begin(c)));
                }
    }
};

template <class Pool>
void average_pool(benchmark::State& state) {
    problem const p{state.range(0), state.range(1), state.range(2)};
    Index const dim = 1024;
    matrix const x = matrix::Random(p.tokens(), dim);
    matrix y(p.rows(), dim), expected(p.rows(), dim);
    Pool pool;
    pool(p, x, y);
    with_eigen{}(p, x, expected);
    if (!y.isApprox(expected, 1e-5F)) return state.SkipWithError("the answers differ");
    for (auto _ : state) {
        pool(p, x, y);
        benchmark::DoNotOptimize(y.data());
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * (x.size() + y.size()) * Index{sizeof(float)});
}

// An image that fits the last cache, a video that does not, and cells that overlap.
void shapes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"frames", "side", "out"})->Unit(benchmark::kMicrosecond);
    b->Args({1, 24, 12})->Args({16, 24, 12})->Args({16, 24, 16});
}

BENCHMARK_TEMPLATE(average_pool, with_terse)->Name("average_pool/terse")->Apply(shapes);
BENCHMARK_TEMPLATE(average_pool, with_eigen)->Name("average_pool/eigen")->Apply(shapes);

}  // namespace
