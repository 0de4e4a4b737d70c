#include <catch2/catch.hpp>

#include <terse/simd/dpp.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

template <class Arch>
struct determinant {
    index count, steps, strips = simd::dpp_strips<Arch>(count), padded = strips * simd::dpp_strip<Arch>;
    // A cache line for alignment.
    std::vector<float> memory =
        std::vector<float>(static_cast<std::size_t>(padded * (steps + 2) + strips + 64), not_a_number);
    simd::dpp_state state{};

    determinant(index rows, index most_steps) : count(rows), steps(most_steps) {
        auto* next = memory.data() + (-reinterpret_cast<std::uintptr_t>(memory.data()) & 63U) / sizeof(float);
        auto const take = [&](index n) {
            return std::span(std::exchange(next, next + n), static_cast<std::size_t>(n));
        };
        state = {count, steps, take(padded), take(padded), {}, take(padded * steps)};
        state.highest = take(strips);
    }

    /// By `workers` that share the strips, the last of them first.
    void pick(index row, float const* kernel, std::size_t step, index workers) {
        std::vector<float> factors(step);
        simd::dpp_factors<Arch>(state, row, factors);
        float const gain = std::exchange(state.gain[static_cast<std::size_t>(row)], simd::dpp_no_gain);
        for (index worker = workers; worker-- > 0;) {
            auto const [begin, end] = share(strips, worker, workers);
            simd::dpp_step<Arch>(begin, end, kernel, gain, factors, state);
        }
    }
};

/// A positive definite kernel: the Gram matrix of random rows of so many values.
std::vector<float> random_kernel(index count, index dim, unsigned seed) {
    auto const x = random_tokens(count, dim, seed);
    std::vector<float> kernel(static_cast<std::size_t>(count * count));
    for (index i = 0; i < count; ++i)
        for (index j = 0; j < count; ++j)
            kernel[static_cast<std::size_t>(i * count + j)] = simd::scalar::dot(x.row(i), x.row(j), dim);
    return kernel;
}

TEMPLATE_LIST_TEST_CASE("steps of greedy determinants agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    index const strip = simd::dpp_strip<Arch>;
    index const v = simd::lanes<Arch>;
    for (index const count : {index{1}, index{3}, v - 1, v, v + 1, 3 * v, strip / 2, strip / 2 + 1, strip - 1, strip,
                              strip + 2, 3 * strip + 5}) {
        CAPTURE(count);
        index const steps = std::min<index>(count, 9);
        auto const kernel = random_kernel(count, 80, 3);
        determinant<Arch> d(count, steps), shared(count, steps);
        std::vector<double> gain, left(static_cast<std::size_t>(count * steps));
        for (index i = 0; i < count; ++i) gain.push_back(kernel[static_cast<std::size_t>(i * count + i)]);
        auto const value = gain;
        auto const diagonal = [&](index i) { return kernel[static_cast<std::size_t>(i * count + i)]; };
        simd::dpp_start<Arch>(d.state, diagonal);
        simd::dpp_start<Arch>(shared.state, diagonal);
        for (index step = 0; step < steps; ++step) {
            CAPTURE(step);
            auto const best = std::max_element(gain.begin(), gain.end()) - gain.begin();
            REQUIRE(simd::dpp_best<Arch>(d.state) == best);
            std::vector<double> factors;
            for (index t = 0; t < step; ++t) factors.push_back(left[static_cast<std::size_t>(t * count + best)]);
            double const of_pick = std::exchange(gain[static_cast<std::size_t>(best)], -1.0);
            float const* const row = kernel.data() + best * count;
            simd::scalar::dpp_step(count, row, of_pick, factors, left.data(), gain.data(), simd::dpp_least_share,
                                   value.data());
            d.pick(best, row, static_cast<std::size_t>(step), 1);
            shared.pick(best, row, static_cast<std::size_t>(step), 3);
            for (std::size_t i = 0; i < gain.size(); ++i) REQUIRE(d.state.gain[i] == Approx(gain[i]).margin(1e-4));
            for (std::size_t i = gain.size(); i < d.state.gain.size(); ++i) REQUIRE(d.state.gain[i] == -1);
            REQUIRE(std::equal(d.state.gain.begin(), d.state.gain.end(), shared.state.gain.begin()));
            REQUIRE(std::equal(d.state.highest.begin(), d.state.highest.end(), shared.state.highest.begin()));
        }
    }
}

TEST_CASE("a step without room for what it leaves still takes it from the gains", "[simd]") {
    std::vector<float> const kernel{4, 2, 2, 3};
    determinant<simd::default_arch> d(2, 0);
    simd::dpp_start<>(d.state, [&](index i) { return kernel[static_cast<std::size_t>(3 * i)]; });
    d.pick(0, kernel.data(), 0, 1);
    CHECK(d.state.gain[0] == -1);
    CHECK(d.state.gain[1] == 2);  // 3 - 2 * 2 / 4
}

TEST_CASE("of equal gains the first, of none none", "[simd]") {
    index const strip = simd::dpp_strip<simd::default_arch>, count = 3 * strip;
    determinant<simd::default_arch> d(count, 1);
    auto const start = [&](std::vector<index> high, float value) {
        simd::dpp_start<>(d.state,
                          [&](index i) { return std::find(high.begin(), high.end(), i) != high.end() ? value : 1; });
        return simd::dpp_best<>(d.state);
    };
    CHECK(start({}, 0) == 0);
    CHECK(start({strip + 7, strip + 9, 2 * strip}, 2) == strip + 7);
    CHECK(start({0, 1, 2}, not_a_number) == 3);
    CHECK(start({0}, infinity) == 1);
    CHECK(start({0}, 0) == 1);
    CHECK(start({0}, -1) == 1);
    simd::dpp_start<>(d.state, [](index) { return 0.0F; });
    CHECK(simd::dpp_best<>(d.state) == -1);
    determinant<simd::default_arch> empty(0, 1);
    CHECK(simd::dpp_best<>(empty.state) == -1);
}

}  // namespace
}  // namespace terse::test
