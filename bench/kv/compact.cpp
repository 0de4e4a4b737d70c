#include <cstring>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include <terse/core/view.hpp>
#include <terse/kv/compact.hpp>
#include <terse/move/apply.hpp>

namespace {

using terse::token;

// A cache of 8 heads, 64 floats a row, of which half stays: at random, or sinks and the recent.
struct cache {
    static constexpr terse::index heads = 8, dim = 64;
    terse::index tokens;
    std::vector<std::vector<token>> kept{};
    std::vector<terse::plan> each{};
    std::vector<float> memory{}, fresh{};

    cache(terse::index n, bool scattered) : tokens{n} {
        std::mt19937 random(1);
        for (terse::index h = 0; h < heads; ++h) {
            auto& mine = kept.emplace_back();
            for (token t = 0; t < n; ++t)
                if (scattered ? random() % 2 == 0 : t < 4 || t >= n / 2) mine.push_back(t);
        }
        for (auto const& mine : kept) each.push_back(terse::select_rows(mine, n));
        for (terse::index i = 0; i < heads * n * dim; ++i) memory.push_back(static_cast<float>(i));
        fresh.resize(memory.size());
    }
    [[nodiscard]] auto view() { return terse::head_major(memory.data(), heads, tokens, dim); }
};

void memmove_rows(cache& c) {
    for (terse::index h = 0; h < cache::heads; ++h) {
        float* to = c.view().row(h, 0);
        for (token const t : c.kept[static_cast<std::size_t>(h)]) {
            std::memmove(to, c.view().row(h, t), cache::dim * sizeof(float));
            to += cache::dim;
        }
    }
}
void memcpy_rows(cache& c) {
    auto const out = terse::head_major(c.fresh.data(), cache::heads, c.tokens, cache::dim);
    for (terse::index h = 0; h < cache::heads; ++h)
        for (std::size_t i = 0; i < c.kept[static_cast<std::size_t>(h)].size(); ++i)
            std::memcpy(out.row(h, static_cast<terse::index>(i)),
                        c.view().row(h, c.kept[static_cast<std::size_t>(h)][i]), cache::dim * sizeof(float));
}
void compact(cache& c) { benchmark::DoNotOptimize(terse::kv::compact(c.view(), terse::plans{c.each})); }
void gather(cache& c) {
    auto const out = terse::head_major(c.fresh.data(), cache::heads, c.tokens, cache::dim);
    benchmark::DoNotOptimize(terse::apply(terse::plans{c.each}, c.view(), out));
}

// In place the rows have moved after the first time; what it costs to move them again is the same.
void run(benchmark::State& state, void (*move)(cache&), void (*peer)(cache&)) {
    cache c(state.range(0), state.range(1) == 0), reference(state.range(0), state.range(1) == 0);
    move(c);
    peer(reference);
    if (c.memory != reference.memory || c.fresh != reference.fresh) return state.SkipWithError("the answers differ");
    for (auto _ : state) {
        move(c);
        benchmark::ClobberMemory();
    }
    terse::index rows = 0;
    for (auto const& mine : c.kept) rows += std::ssize(mine);
    state.SetBytesProcessed(state.iterations() * rows * cache::dim * static_cast<terse::index>(sizeof(float)));
}

void sizes(benchmark::internal::Benchmark* bench) {
    bench->ArgNames({"tokens", "recent"})->ArgsProduct({{1024, 16384}, {0, 1}});
}
BENCHMARK_CAPTURE(run, compact, compact, memmove_rows)->Name("compact/terse")->Apply(sizes);
BENCHMARK_CAPTURE(run, memmove, memmove_rows, compact)->Name("compact/memmove_per_row")->Apply(sizes);
BENCHMARK_CAPTURE(run, gather, gather, memcpy_rows)->Name("gather/terse")->Apply(sizes);
BENCHMARK_CAPTURE(run, memcpy, memcpy_rows, gather)->Name("gather/memcpy_per_row")->Apply(sizes);

}  // namespace
