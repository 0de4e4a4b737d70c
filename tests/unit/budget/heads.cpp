#include <numeric>

#include <terse/budget/heads.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
using counts = std::vector<index>;
using budget::across_heads;
using enum budget::heads_form;

counts share(across_heads const& rule, std::vector<float> const& candidates, counts const& sizes, index total) {
    arena memory;
    counts got(sizes.size(), -1);
    REQUIRE(rule(candidates, sizes, total, got, memory) == errc::ok);
    CHECK(memory.used() == 0);
    return got;
}
}  // namespace

TEST_CASE("heads share by the highest scores above a floor, both ways", "[budget][heads]") {
    std::vector<float> const two = {.5F, .4F, .3F, .2F, .05F, .04F, .03F, .02F};
    CHECK(share({.floor = .5, .least = 0}, two, {4, 4}, 4) == counts{3, 1});
    CHECK(share({.floor = .5, .form = kvcache_factory}, two, {4, 4}, 4) == counts{3, 1});
    CHECK(share({.floor = .2, .least = 0}, two, {4, 4}, 4) == counts{4, 0});
    CHECK(share({.floor = .2, .form = kvcache_factory}, two, {4, 4}, 4) == counts{3, 0});  // one is lost
    CHECK(share({.floor = .2}, two, {4, 4}, 4) == counts{3, 1});
    // Three each of the best, and half of them with a floor of one: 2.5, of which the even one is 2.
    CHECK(share({.floor = .5, .form = kvcache_factory}, {9, 9, 9, 0, 9, 9, 9, 0}, {4, 4}, 6) == counts{2, 2});
    CHECK(share({.floor = 1}, two, {4, 4}, 4) == counts{2, 2});
    CHECK(share({.floor = 0, .least = 2}, two, {4, 4}, 4) == counts{2, 2});
    CHECK(share({.floor = 0, .least = 9}, two, {4, 4}, 4) == counts{2, 2});  // no more than there is

    // Of equal scores the earlier wins, also across heads.
    CHECK(share({.floor = 0, .least = 0}, {1, 1, 1, 1}, {2, 2}, 3) == counts{2, 1});
    CHECK(share({.floor = 0, .least = 0}, {1, 1, 1, 1}, {2, 2}, 1) == counts{1, 0});
    // Infinity wins as a score does, and NaN loses.
    CHECK(share({.floor = 0, .least = 1}, {infinity, infinity, 1, 2}, {2, 2}, 3) == counts{2, 1});
    CHECK(share({.floor = 0, .least = 0}, {not_a_number, -5, -6, not_a_number}, {2, 2}, 2) == counts{1, 1});
    CHECK(share({.floor = 0, .least = 1}, {not_a_number, not_a_number, 1, 2}, {2, 2}, 3) == counts{1, 2});
}

TEST_CASE("heads of different sizes, of none, and a total of all or of nothing", "[budget][heads]") {
    std::vector<float> const row = {5, 4, 3, 9, 1, 1, 1};
    CHECK(share({.floor = 0, .least = 0}, row, {3, 1, 3}, 4) == counts{3, 1, 0});
    CHECK(share({.floor = 0, .least = 0}, row, {3, 0, 4}, 4) == counts{3, 0, 1});
    CHECK(share({.floor = 1}, row, {3, 1, 3}, 6) == counts{3, 1, 2});  // what one head cannot take, the best take
    CHECK(share({}, row, {3, 1, 3}, 7) == counts{3, 1, 3});
    CHECK(share({}, row, {3, 1, 3}, 99) == counts{3, 1, 3});
    CHECK(share({}, row, {3, 1, 3}, 0) == counts{0, 0, 0});
    CHECK(share({}, {}, {0, 0}, 3) == counts{0, 0});
    // The authors' form mixes in a floor that a short head cannot take: it gives what it has.
    std::vector<float> const short_and_long = {9, 8, 1, 2, 3, 4, 5, 6, 7};
    CHECK(share({.floor = 1, .form = kvcache_factory}, short_and_long, {2, 7}, 8) == counts{2, 4});
    CHECK(share({.floor = .5, .form = kvcache_factory}, short_and_long, {2, 7}, 8) == counts{2, 5});
    CHECK(share({.floor = .5, .form = kvcache_factory}, short_and_long, {0, 9}, 8) == counts{0, 6});
}

TEST_CASE("normalised scores count by how concentrated a head is", "[budget][heads]") {
    // Two of the first head's four have 3 / 4 of its mass; of the second's, 7 / 8.
    std::vector<float> const two = {3, 3, 1, 1, 2.9F, 2.9F, .4F, .4F};
    for (auto const form : {exact, kvcache_factory}) {
        CHECK(share({.floor = 0, .least = 0, .form = form}, two, {4, 4}, 4) == counts{2, 2});
        CHECK(share({.floor = 0, .least = 0, .form = form}, two, {4, 4}, 2) == counts{2, 0});
        CHECK(share({.floor = 0, .least = 0, .normalise = true, .form = form}, two, {4, 4}, 2) == counts{0, 2});
    }
    CHECK(share({.floor = 0, .least = 0, .normalise = true}, {0, 0, 0, 0}, {2, 2}, 2) == counts{2, 0});
    // The best of the first head has 3 of 9, as if NaN were not there; that of the second all: 1 against 2.
    CHECK(share({.floor = 0, .least = 0, .normalise = true}, {not_a_number, 3, 3, 3, 2, 0, 0, 0}, {4, 4}, 2) ==
          counts{1, 1});
    CHECK(share({.floor = 0, .least = 0, .normalise = true}, {4, 1, 1, 1, 1, 1}, {1, 5}, 4) == counts{1, 3});
    // Of two highest one is NaN; where there is no sum, scores stay what they are.
    CHECK(share({.floor = 0, .least = 0, .normalise = true}, {not_a_number, not_a_number, 3, 2, 2, 2, 2}, {3, 4}, 4) ==
          counts{1, 3});
    CHECK(share({.floor = 0, .least = 0, .normalise = true}, {not_a_number, not_a_number, 0, 0}, {2, 2}, 2) ==
          counts{0, 2});
}

TEST_CASE("shares of heads agree with sorting", "[budget][heads]") {
    for (unsigned seed = 0; seed < 40; ++seed) {
        auto const random = uniform(3, seed, 0, 1);
        index const heads = 1 + static_cast<index>(random[0] * 7), n = 1 + static_cast<index>(random[1] * 90);
        index const mean = static_cast<index>(random[2] * static_cast<float>(n));
        auto const scores = uniform(heads * n, seed + 100);
        across_heads const rule{.floor = seed % 4 * 0.25, .least = seed % 3};
        auto const got = share(rule, scores, counts(static_cast<std::size_t>(heads), n), mean * heads);
        index const safe =
            std::min(std::max<index>(static_cast<index>(static_cast<double>(mean) * rule.floor), rule.least), mean);
        CAPTURE(seed, heads, n, mean, safe);
        std::vector<std::pair<float, index>> contest;
        counts want(static_cast<std::size_t>(heads), safe);
        for (index h = 0; h < heads; ++h) {
            std::vector<float> row(scores.begin() + h * n, scores.begin() + (h + 1) * n);
            std::sort(row.rbegin(), row.rend());
            for (index i = safe; i < n; ++i) contest.emplace_back(row[static_cast<std::size_t>(i)], h);
        }
        std::sort(contest.rbegin(), contest.rend());
        for (index i = 0; i < (mean - safe) * heads; ++i)
            ++want[static_cast<std::size_t>(contest[static_cast<std::size_t>(i)].second)];
        CHECK(got == want);
        CHECK(std::accumulate(got.begin(), got.end(), index{0}) == mean * heads);
    }
}

TEST_CASE("shares of heads say what does not fit", "[budget][heads]") {
    std::vector<float> const row = {5, 4, 3};
    arena memory;
    counts got = {-7, -7};
    auto const error = [&](across_heads const& rule, counts const& sizes, index total) {
        return rule(row, sizes, total, got, memory);
    };
    CHECK(error({.floor = -0.1}, {1, 2}, 2) == errc::bad_budget);
    CHECK(error({.floor = 1.1}, {1, 2}, 2) == errc::bad_budget);
    CHECK(error({.floor = static_cast<double>(not_a_number)}, {1, 2}, 2) == errc::bad_budget);
    CHECK(error({.least = -1}, {1, 2}, 2) == errc::bad_budget);
    CHECK(error({}, {1, 2}, -1) == errc::bad_budget);
    CHECK(error({}, {1, 1}, 2) == errc::bad_shape);
    CHECK(error({}, {3}, 2) == errc::bad_shape);
    CHECK(across_heads{}({}, {}, 2, {}, memory) == errc::bad_shape);
    CHECK(got == counts{-7, -7});
    fixed_memory little{64};
    arena small{little.bytes()};
    CHECK(across_heads{}(row, counts{1, 2}, 2, got, small) == errc::out_of_memory);
    CHECK(small.used() == 0);
}
}  // namespace terse::test
