#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <terse/simd/top_k.hpp>

namespace {

using terse::token;

// Different inputs in turn: on one array the branch predictor learns the way through a partition by heart.
struct inputs {
    std::size_t n, k;
    std::vector<std::vector<float>> arrays;

    explicit inputs(benchmark::State const& state)
        : n{static_cast<std::size_t>(state.range(0))},
          k{n * static_cast<std::size_t>(state.range(1)) / 100},
          arrays(std::clamp<std::size_t>((std::size_t{1} << 21) / n, 4, 512)) {
        std::mt19937 random(1);
        std::exponential_distribution<float> scores;  // as attention sums are: many small, few large
        for (auto& array : arrays) {
            array.resize(n);
            for (float& x : array) x = scores(random);
        }
    }
};

struct terse_top_k {
    std::vector<std::int32_t> scratch{};

    void operator()(std::vector<float> const& scores, std::span<token> kept) {
        scratch.resize(static_cast<std::size_t>(terse::simd::top_k_scratch(std::ssize(scores))));
        terse::simd::top_k(scores, kept, 0, scratch);
    }
};

// What one writes otherwise: pairs, a partition, and the indices in order.
struct nth_element {
    std::vector<std::pair<float, token>> pairs{};

    void operator()(std::vector<float> const& scores, std::span<token> kept) {
        pairs.resize(scores.size());
        for (std::size_t i = 0; i < scores.size(); ++i) pairs[i] = {-scores[i], static_cast<token>(i)};
        std::nth_element(pairs.begin(), pairs.begin() + std::ssize(kept), pairs.end());
        for (std::size_t i = 0; i < kept.size(); ++i) kept[i] = pairs[i].second;
        std::sort(kept.begin(), kept.end());
    }
};

// The threshold by a partition of the values, then one pass.
struct nth_element_of_values {
    std::vector<float> values{};

    void operator()(std::vector<float> const& scores, std::span<token> kept) {
        values = scores;
        std::nth_element(values.begin(), values.begin() + std::ssize(kept) - 1, values.end(), std::greater{});
        float const limit = values[kept.size() - 1];
        auto const above = std::count_if(scores.begin(), scores.end(), [limit](float x) { return x > limit; });
        auto equal = std::ssize(kept) - above;
        std::size_t next = 0;
        for (std::size_t i = 0; next < kept.size(); ++i)
            if (scores[i] > limit || (scores[i] == limit && equal-- > 0)) kept[next++] = static_cast<token>(i);
    }
};

template <class Select>
void top_k(benchmark::State& state) {
    inputs const in(state);
    Select select;
    nth_element peer;
    std::vector<token> kept(in.k), expected(in.k);
    for (auto const& scores : in.arrays) {
        select(scores, kept);
        peer(scores, expected);
        if (kept != expected) return state.SkipWithError("the answers differ");
    }
    std::size_t turn = 0;
    for (auto _ : state) {
        select(in.arrays[turn++ % in.arrays.size()], kept);
        benchmark::DoNotOptimize(kept.data());
        benchmark::ClobberMemory();
    }
    state.counters["scores"] =
        benchmark::Counter(static_cast<double>(in.n), benchmark::Counter::kIsIterationInvariantRate);
}

void sizes(benchmark::internal::Benchmark* bench) {
    bench->ArgNames({"n", "keep%"})->ArgsProduct({{256, 1024, 4096, 32768, 131072}, {5, 50}});
}

BENCHMARK_TEMPLATE(top_k, terse_top_k)->Name("top_k/terse")->Apply(sizes);
BENCHMARK_TEMPLATE(top_k, nth_element)->Name("top_k/nth_element_of_pairs")->Apply(sizes);
BENCHMARK_TEMPLATE(top_k, nth_element_of_values)->Name("top_k/nth_element_of_values")->Apply(sizes);

template <bool Terse>
void arg_lowest(benchmark::State& state) {
    inputs const in(state);
    std::size_t turn = 0;
    for (auto _ : state) {
        auto const& scores = in.arrays[turn++ % in.arrays.size()];
        if constexpr (Terse) {
            benchmark::DoNotOptimize(terse::simd::arg_lowest(scores));
        } else {
            benchmark::DoNotOptimize(std::min_element(scores.begin(), scores.end()));
        }
    }
    state.counters["scores"] =
        benchmark::Counter(static_cast<double>(in.n), benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_TEMPLATE(arg_lowest, true)->Name("arg_lowest/terse")->ArgNames({"n", "keep%"})->Args({4096, 0});
BENCHMARK_TEMPLATE(arg_lowest, false)->Name("arg_lowest/min_element")->ArgNames({"n", "keep%"})->Args({4096, 0});

}  // namespace
