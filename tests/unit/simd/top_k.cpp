#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/simd/scalar.hpp>
#include <terse/simd/top_k.hpp>

#include "unit/simd/samples.hpp"

using terse::token;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// By sorting, with the order spelt out on doubles.
std::vector<token> sorted_top_k(std::vector<float> const& scores, std::size_t k, token first) {
    std::vector<token> order(scores.size());
    std::iota(order.begin(), order.end(), token{0});
    std::stable_sort(order.begin(), order.end(), [&](token a, token b) {
        double const x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
        return std::isnan(y) ? !std::isnan(x) : x > y;
    });
    order.resize(k);
    std::sort(order.begin(), order.end());
    for (token& t : order) t += first;
    return order;
}

/// From scores, to positions and with scratch at any alignment, all of which end where nothing may be written.
template <class Arch>
std::vector<token> top_k(std::vector<float> scores, std::size_t k, token first = 0, std::size_t offset = 0) {
    constexpr token untouched = -7;
    auto const n = scores.size();
    auto const ranks = static_cast<std::size_t>(terse::simd::top_k_scratch(std::ssize(scores)));
    std::vector<std::int32_t> scratch(offset + ranks + 32, untouched);
    std::vector<token> kept(offset + k + 32, untouched);
    scores.insert(scores.begin(), offset, infinity);
    terse::simd::top_k<Arch>(std::span{scores}.last(n), std::span{kept}.subspan(offset, k), first,
                             std::span{scratch}.subspan(offset, ranks));
    for (auto* const written : {&scratch, &kept}) {
        CHECK(std::count(written->end() - 32, written->end(), untouched) == 32);
        CHECK(std::count(written->begin(), written->begin() + static_cast<std::ptrdiff_t>(offset), untouched) ==
              static_cast<std::ptrdiff_t>(offset));
    }
    return {kept.begin() + static_cast<std::ptrdiff_t>(offset), kept.end() - 32};
}

std::vector<float> draw(std::string const& kind, std::size_t n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> scores(n);
    for (std::size_t i = 0; i < n; ++i) {
        float const x = normal(random);
        if (kind == "normal") scores[i] = x;
        if (kind == "two values") scores[i] = x > 0 ? 1.0F : 0.0F;
        if (kind == "few values") scores[i] = std::round(2 * x);
        if (kind == "all equal") scores[i] = -3.5F;
        if (kind == "ascending") scores[i] = static_cast<float>(i);
        if (kind == "descending") scores[i] = -static_cast<float>(i);
        if (kind == "periodic") scores[i] = static_cast<float>(i % 37);
        if (kind == "one peak") scores[i] = i == n / 2 ? infinity : -1.0F;
        if (kind == "signed zeros") scores[i] = x > 0 ? 0.0F : -0.0F;
        if (kind == "heavy tail") scores[i] = std::exp(10 * x);
        if (kind == "with nan") scores[i] = x > 0.5F ? not_a_number : x < -1.0F ? -infinity : x;
        if (kind == "all bits") scores[i] = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
        // A sample at any power-of-two stride sees none of the high half.
        if (kind == "hidden") scores[i] = i % 2 == 0 ? x : x + 100.0F;
    }
    return scores;
}

}  // namespace

TEMPLATE_TEST_CASE("top_k keeps the highest, in ascending order", "[simd][top_k]", xsimd::default_arch,
                   terse::test::samples::base) {
    using row = std::vector<token>;
    CHECK(top_k<TestType>({}, 0) == row{});
    CHECK(top_k<TestType>({1}, 0) == row{});
    CHECK(top_k<TestType>({1}, 1, 5) == row{5});
    CHECK(top_k<TestType>({3, 1, 2}, 2) == row{0, 2});
    CHECK(top_k<TestType>({3, 1, 2}, 2, 10) == row{10, 12});
    CHECK(top_k<TestType>({1, 1, 1, 1}, 2) == row{0, 1});                                // the lower position wins
    CHECK(top_k<TestType>({0, -0.0F, 0.0F}, 2) == row{0, 1});                            // -0 equals +0
    CHECK(top_k<TestType>({not_a_number, -infinity, not_a_number, 1}, 2) == row{1, 3});  // NaN is below -infinity
    CHECK(top_k<TestType>({not_a_number, -infinity, -not_a_number, 1}, 3) == row{0, 1, 3});
    CHECK(top_k<TestType>({infinity, 1, infinity, 2}, 3) == row{0, 2, 3});
    CHECK(top_k<TestType>({-1, -2, -3, -1.5F}, 2) == row{0, 3});
}

TEMPLATE_TEST_CASE("top_k agrees with sorting", "[simd][top_k]", xsimd::default_arch, terse::test::samples::base) {
    auto const kind =
        GENERATE(as<std::string>{}, "normal", "two values", "few values", "all equal", "ascending", "descending",
                 "periodic", "one peak", "signed zeros", "heavy tail", "with nan", "all bits", "hidden");
    CAPTURE(kind);
    for (std::size_t const n : {1U,  2U,  3U,  7U,  8U,  9U,  15U,  16U,  17U,   31U,   32U,   33U,
                                47U, 48U, 49U, 64U, 65U, 97U, 130U, 500U, 1000U, 4099U, 33000U}) {
        auto const scores = draw(kind, n, static_cast<unsigned>(n));
        for (std::size_t const k : {std::size_t{1}, n / 50, n / 4, n / 2, n - n / 10, n - 1, n}) {
            std::size_t const offset = n % 3;
            CAPTURE(n, k, offset);
            auto const kept = top_k<TestType>(scores, k, 3, offset);
            CHECK(kept == sorted_top_k(scores, k, 3));
            if (n > 1000) continue;
            std::vector<token> twin(k);
            terse::simd::scalar::top_k(scores, twin, 3);
            CHECK(kept == twin);
        }
    }
}

TEMPLATE_TEST_CASE("arg_highest follows top_k's order", "[simd][top_k]", xsimd::default_arch,
                   terse::test::samples::base) {
    auto const highest = [](std::vector<float> const& s) { return terse::simd::arg_highest<TestType>(s); };
    CHECK(highest({}) == -1);
    CHECK(highest({not_a_number}) == 0);
    CHECK(highest({1, 3, 3, 2}) == 1);
    CHECK(highest({-0.0F, 0}) == 0);
    CHECK(highest({not_a_number, -infinity, not_a_number}) == 1);
    for (std::size_t n = 1; n < 70; ++n) {
        for (std::string const kind : {"normal", "few values", "all equal", "descending"}) {
            auto const scores = draw(kind, n, static_cast<unsigned>(n));
            CHECK(highest(scores) == std::max_element(scores.begin(), scores.end()) - scores.begin());
            auto const but_first = std::span{scores}.subspan(1);  // from another alignment
            CHECK(terse::simd::arg_highest<TestType>(but_first) ==
                  (n == 1 ? -1 : std::max_element(but_first.begin(), but_first.end()) - but_first.begin()));
        }
        std::vector<float> no_numbers(n, not_a_number);
        CHECK(highest(no_numbers) == 0);
        no_numbers.back() = -infinity;
        CHECK(highest(no_numbers) == static_cast<terse::index>(n) - 1);
    }
}
