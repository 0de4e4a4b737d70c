#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include <terse/simd/batch.hpp>

namespace terse::bench {

/// What one core of this machine adds and multiplies a second at most: the best of several runs of twelve
/// independent chains of fused multiply-adds.
inline double peak_flops() {
    using batch = simd::floats<simd::default_arch>;
    static double const best = [] {
        constexpr int chains = 12, steps = 2'000'000;
        double highest = 0;
        for (int run = 0; run < 20; ++run) {
            std::array<batch, chains> sums;
            sums.fill(batch(1.0F));
            batch const x(0.999F), y(0.001F);
            auto const start = std::chrono::steady_clock::now();
            for (int i = 0; i < steps; ++i) {
                simd::unroll<chains>([&](auto c) { sums[c] = simd::fma<simd::default_arch>(sums[c], x, y); });
            }
            benchmark::DoNotOptimize(sums);
            std::chrono::duration<double> const took = std::chrono::steady_clock::now() - start;
            highest = std::max(highest, 2.0 * chains * steps * static_cast<double>(batch::size) / took.count());
        }
        return highest;
    }();
    return best;
}

/// Counts an iteration's floating-point operations: a rate, and what per cent of the peak it is.
inline void count_flops(benchmark::State& state, double flops) {
    using benchmark::Counter;
    state.counters["flop/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
    state.counters["percent_of_peak"] = Counter(100 * flops / peak_flops(), Counter::kIsIterationInvariantRate);
}

/// Uniform on [-1, 1), the same on every machine.
template <class T = float>
std::vector<T> random_values(index count, unsigned seed) {
    std::mt19937 bits(seed);
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& x : values) x = static_cast<T>(static_cast<float>(bits() >> 8) * 0x1p-23F - 1.0F);
    return values;
}

/// [rows, dim], several times, so that a run does not learn one input.
template <class T = float>
std::vector<std::vector<T>> random_inputs(index rows, index dim, unsigned count = 4) {
    std::vector<std::vector<T>> inputs;
    for (unsigned seed = 0; seed < count; ++seed) inputs.push_back(random_values<T>(rows * dim, seed));
    return inputs;
}

}  // namespace terse::bench
