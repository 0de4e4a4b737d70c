// Re-rotation of the keys that an eviction left, against the same rotation with Eigen's arrays.
#include <cmath>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv/rotate.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

constexpr index heads = 8, tokens = 1024, dim = 128, half_dim = dim / 2;

std::vector<float> frequencies() {
    std::vector<float> f;
    for (index i = 0; i < half_dim; ++i)
        f.push_back(std::pow(10000.0F, -static_cast<float>(i) / static_cast<float>(half_dim)));
    return f;
}

/// Every row by its own delta, as after an eviction: row t goes from 2 t to t.
void by_eigen(std::vector<float>& keys, std::vector<float> const& frequency) {
    Eigen::Map<Eigen::ArrayXf const> const f(frequency.data(), half_dim);
    for (index t = 0; t < tokens; ++t) {
        Eigen::ArrayXf const angle = static_cast<float>(-t) * f;
        Eigen::ArrayXf const cosine = angle.cos(), sine = angle.sin();
        for (index h = 0; h < heads; ++h) {
            float* const row = keys.data() + (h * tokens + t) * dim;
            Eigen::Map<Eigen::ArrayXf> a(row, half_dim), b(row + half_dim, half_dim);
            Eigen::ArrayXf const turned = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = turned;
        }
    }
}

struct positions {
    std::vector<token> from = std::vector<token>(tokens), to = std::vector<token>(tokens);
    positions() {
        std::iota(to.begin(), to.end(), token{0});
        for (token t = 0; t < tokens; ++t) from[static_cast<std::size_t>(t)] = 2 * t;
    }
};

errc by_terse(std::vector<float>& keys, std::vector<float> const& frequency, positions const& p) {
    return kv::rotate(head_major(keys.data(), heads, tokens, dim), p.from, p.to, {.inverse_frequency = frequency});
}

void with_terse(benchmark::State& state) {
    auto const frequency = frequencies();
    positions const p;
    auto ours = random_values(heads * tokens * dim, 1), theirs = ours;
    by_eigen(theirs, frequency);
    bool const right = by_terse(ours, frequency, p) == errc::ok;
    for (std::size_t i = 0; i < ours.size(); ++i)
        if (!right || std::abs(ours[i] - theirs[i]) > 1e-3F) return state.SkipWithError("the answers differ");
    for (auto _ : state) {
        auto error = by_terse(ours, frequency, p);
        benchmark::DoNotOptimize(error);
        benchmark::ClobberMemory();
    }
}

void with_eigen(benchmark::State& state) {
    auto const frequency = frequencies();
    auto keys = random_values(heads * tokens * dim, 1);
    for (auto _ : state) {
        by_eigen(keys, frequency);
        benchmark::ClobberMemory();
    }
}

BENCHMARK(with_terse)->Name("kv/rotate/terse")->Unit(benchmark::kMicrosecond);
BENCHMARK(with_eigen)->Name("kv/rotate/eigen")->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace terse::bench
