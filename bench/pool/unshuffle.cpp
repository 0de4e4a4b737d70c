// Space to depth of an image's tokens, planned and applied, against copies of rows in Eigen.
#include <algorithm>

#include <terse/move/apply.hpp>
#include <terse/pool/unshuffle.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

constexpr index side = 32, dim = 1024, cells = side * side / 4;

void by_eigen(matrix const& x, matrix& out) {
    for (index r = 0; r < side; r += 2)
        for (index c = 0; c < side; c += 2)
            for (index i = 0; i < 4; ++i)
                out.block(r / 2 * (side / 2) + c / 2, i * dim, 1, dim) = x.row((r + i / 2) * side + c + i % 2);
}

errc by_terse(matrix const& x, matrix& out, arena& memory) {
    auto const p = pool::unshuffle{.grid = {.rows = side, .columns = side}, .factor = {.rows = 2, .columns = 2}}(
        side * side, memory);
    return p ? gather_concat(*p, view(x), view(out), channel_order::source_major) : p.error();
}

void with_terse(benchmark::State& state) {
    matrix const x = matrix::Random(side * side, dim);
    matrix out(cells, 4 * dim), expected(cells, 4 * dim);
    arena memory;
    by_eigen(x, expected);
    if (by_terse(x, out, memory) != errc::ok || out != expected) state.SkipWithError("the answers differ");
    for (auto _ : state) {
        memory.rewind();
        auto error = by_terse(x, out, memory);
        benchmark::DoNotOptimize(error);
        benchmark::ClobberMemory();
    }
}

void with_eigen(benchmark::State& state) {
    matrix const x = matrix::Random(side * side, dim);
    matrix out(cells, 4 * dim);
    for (auto _ : state) {
        by_eigen(x, out);
        benchmark::DoNotOptimize(out.data());
        benchmark::ClobberMemory();
    }
}

BENCHMARK(with_terse)->Name("pool/unshuffle/terse");
BENCHMARK(with_eigen)->Name("pool/unshuffle/eigen");

}  // namespace
}  // namespace terse::bench
