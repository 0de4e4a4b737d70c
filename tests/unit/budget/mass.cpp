#include <terse/budget/mass.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
index count(budget::mass const& b, std::vector<float> const& scores) {
    arena memory;
    auto const n = b.count(scores, memory);
    CHECK(memory.used() == 0);
    return n.value();
}

/// The same by sorting.
index by_sorting(double share, std::vector<float> scores) {
    std::sort(scores.begin(), scores.end(), std::greater<>{});
    double total = 0, sum = 0;
    for (float const x : scores) total += static_cast<double>(x);
    index n = 0;
    while (n < std::ssize(scores) && sum < share * total)
        sum += static_cast<double>(scores[static_cast<std::size_t>(n++)]);
    return n;
}
}  // namespace

TEST_CASE("a share of the mass is a count of the highest", "[budget][mass]") {
    std::vector<float> const scores = {1, 8, 0, 4, 2, 1};
    CHECK(count({.share = 0.5}, scores) == 1);
    CHECK(count({.share = 0.51}, scores) == 2);
    CHECK(count({.share = 0.75}, scores) == 2);
    CHECK(count({.share = 0.875}, scores) == 3);
    CHECK(count({.share = 0.9}, scores) == 4);
    CHECK(count({.share = 0.99}, scores) == 5);
    CHECK(count({.share = 1}, scores) == 5);
    CHECK(count({.share = 1e-9}, scores) == 1);
    CHECK(count({.share = 0.75, .least = 4}, scores) == 4);
    CHECK(count({.share = 0.9, .most = 2}, scores) == 2);
    CHECK(count({.share = 0.9, .least = 9}, scores) == 6);
    CHECK(count({}, {}) == 0);
    CHECK(count({}, {3}) == 1);
    CHECK(count({.share = 1}, {2, 2, 2, 2}) == 4);
    CHECK(count({.share = 0.5}, {2, 2, 2, 2}) == 2);
}

TEST_CASE("tokens without mass count for nothing", "[budget][mass]") {
    CHECK(count({.least = 2}, {0, 0, 0}) == 2);
    CHECK(count({}, {0, -0.0F}) == 1);
    CHECK(count({.share = 0.9}, {not_a_number, 3, -5, 1}) == 2);
    CHECK(count({.share = 1}, {not_a_number, 3, -infinity, 1}) == 2);
    CHECK(count({.share = 0.9}, {infinity, 1, 1}) == 1);
    CHECK(count({}, {not_a_number, not_a_number}) == 1);
}

TEST_CASE("a share of random scores is what sorting gives", "[budget][mass]") {
    for (index const n : {1, 2, 3, 10, 101, 1000}) {
        auto scores = uniform(n, static_cast<unsigned>(n), 0, 1);
        for (float& x : scores) x = x * x * x * x;
        for (double const share : {0.01, 0.1, 0.5, 0.9, 0.975, 0.999}) {
            CAPTURE(n, share);
            CHECK(count({.share = share}, scores) == by_sorting(share, scores));
        }
        CHECK(count({.share = 1}, scores) == n);
    }
}

TEST_CASE("a mass says what does not fit", "[budget][mass]") {
    std::vector<float> const scores = {1, 2};
    arena memory;
    auto const error = [&](budget::mass const& b) { return b.count(scores, memory).error(); };
    CHECK(error({.share = 0}) == errc::bad_budget);
    CHECK(error({.share = 1.01}) == errc::bad_budget);
    CHECK(error({.share = -0.5}) == errc::bad_budget);
    CHECK(error({.share = static_cast<double>(not_a_number)}) == errc::bad_budget);
    CHECK(error({.least = 0}) == errc::bad_budget);
    CHECK(error({.least = 3, .most = 2}) == errc::bad_budget);
    fixed_memory little{8};
    arena small{little.bytes()};
    CHECK(budget::mass{}.count(scores, small).error() == errc::out_of_memory);
}
}  // namespace terse::test
