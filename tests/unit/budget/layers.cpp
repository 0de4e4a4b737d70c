#include <cmath>
#include <functional>
#include <numeric>

#include <terse/budget/layers.hpp>
#include <terse/budget/proportional.hpp>
#include <terse/budget/pyramid.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
using counts = std::vector<index>;

template <class Rule>
counts all(Rule const& rule, index layers, index tokens) {
    counts c(static_cast<std::size_t>(layers));
    REQUIRE(budget::fill(rule, tokens, c) == errc::ok);
    return c;
}

index sum(counts const& c) { return std::accumulate(c.begin(), c.end(), index{0}); }

/// Every list of `parts` shares in [low, high] that sum to `total`.
void for_each_split(index parts, index total, index low, index high, counts& prefix,
                    std::function<void(counts const&)> const& use) {
    if (parts == 0) {
        if (total == 0) use(prefix);
        return;
    }
    for (index x = low; x <= std::min(high, total); ++x) {
        prefix.push_back(x);
        for_each_split(parts - 1, total - x, low, high, prefix, use);
        prefix.pop_back();
    }
}
}  // namespace

TEST_CASE("shares are whole, within bounds, of the total, and the nearest such", "[budget][apportion]") {
    for (unsigned seed = 0; seed < 60; ++seed) {
        auto const random = uniform(8, seed, 0, 1);
        index const parts = 1 + static_cast<index>(random[0] * 4), low = static_cast<index>(random[1] * 3);
        index const high = low + static_cast<index>(random[2] * 6);
        index const total = low * parts + static_cast<index>(random[3] * static_cast<float>((high - low) * parts + 1));
        auto const ideal = [&](index i) { return static_cast<double>(random[static_cast<std::size_t>(4 + i)]) * 9; };
        budget::apportion const share{.parts = parts, .total = total, .low = low, .high = high};
        CAPTURE(seed, parts, total, low, high);
        REQUIRE(share.possible());
        counts got;
        for (index i = 0; i < parts; ++i) got.push_back(share(i, ideal));
        CHECK(sum(got) == total);
        auto const distance = [&](counts const& c) {
            double d = 0;
            for (index i = 0; i < parts; ++i) {
                double const apart = static_cast<double>(c[static_cast<std::size_t>(i)]) - ideal(i);
                d += apart * apart;
            }
            return d;
        };
        double nearest = INFINITY;
        counts prefix;
        for_each_split(parts, total, low, high, prefix,
                       [&](counts const& c) { nearest = std::min(nearest, distance(c)); });
        CHECK(distance(got) == Approx(nearest).margin(1e-4));
    }
    CHECK_FALSE(budget::apportion{.parts = 3, .total = 2, .low = 1, .high = 4}.possible());
    CHECK_FALSE(budget::apportion{.parts = 3, .total = 13, .low = 1, .high = 4}.possible());
    CHECK_FALSE(budget::apportion{.parts = 0, .total = 0, .low = 0, .high = 4}.possible());
    CHECK_FALSE(budget::apportion{.parts = 3, .total = 2, .low = -1, .high = 4}.possible());
    index const beyond = index{max_tokens} + 1;
    CHECK_FALSE(budget::apportion{.parts = 3, .total = 2, .low = 0, .high = beyond}.possible());
    CHECK_FALSE(budget::apportion{.parts = beyond, .total = 2, .low = 0, .high = 4}.possible());
    auto const same = [](index) { return 2.5; };
    budget::apportion const ties{.parts = 4, .total = 10, .low = 0, .high = 9};
    CHECK(counts{ties(0, same), ties(1, same), ties(2, same), ties(3, same)} == counts{3, 3, 2, 2});
}

TEST_CASE("a pyramid as its authors' code has it, and ours to the last slot", "[budget][pyramid]") {
    using enum budget::pyramid_form;
    budget::pyramid p{.keep = 40, .window = 8, .form = kvcache_factory};
    CHECK(all(p, 4, 100) == counts{71, 51, 31, 11});
    CHECK(all(p, 4, 39) == counts{39, 39, 39, 39});
    CHECK(all(p, 4, 40) == counts{40, 40, 40, 40});
    CHECK(all(p, 4, 63) == counts{40, 40, 40, 40});
    CHECK(all(p, 4, 64) == counts{64, 48, 32, 16});  // most = 64 - 8
    CHECK(all(p, 1, 100) == counts{40});

    p.form = exact;
    CHECK(all(p, 4, 100) == counts{70, 50, 30, 10});  // ideal: 62.4, 42.13.., 21.87.., 1.6, and the window
    CHECK(all(p, 4, 40) == counts{40, 40, 40, 40});
    CHECK(all(p, 1, 100) == counts{40});
    CHECK(all(p, 4, 64) == counts{64, 48, 32, 16});  // a line from all that there is
    for (index const tokens : {41, 47, 60, 63, 64, 65, 100, 5000})
        for (index const layers : {2, 3, 7, 32, 80}) {
            CAPTURE(tokens, layers);
            auto const c = all(p, layers, tokens);
            CHECK(sum(c) == 40 * layers);
            CHECK(std::is_sorted(c.rbegin(), c.rend()));
            CHECK(c.front() <= tokens);
            CHECK(c.back() >= 8);
        }
    CHECK(all(budget::pyramid{.keep = 1, .window = 0}, 5, 100) == counts{1, 1, 1, 1, 1});

    // 500 a layer: 25 for the last and 975 for the first, the window among them.
    budget::pyramid const press{.window = 16, .form = kvpress, .mean_keep = 500};
    CHECK(all(press, 3, 1000) == counts{975, 500, 25});
    CHECK(all(budget::pyramid{.window = 64, .form = kvpress, .mean_keep = 30}, 3, 300) == counts{30, 30, 30});
    CHECK(all(budget::pyramid{.keep = 30, .window = 64, .form = kvpress}, 3, 300) == counts{30, 30, 30});
    CHECK(all(budget::pyramid{.window = 25, .form = kvpress, .mean_keep = 500}, 3, 1000) == counts{975, 500, 25});
    CHECK(all(budget::pyramid{.window = 16, .form = kvpress, .mean_keep = 500}, 3, 600) == counts{584, 500, 416});
    // 84 are left besides the window, fewer than the mean; nor can a layer keep more than there is, or none of some.
    CHECK(all(budget::pyramid{.window = 16, .form = kvpress, .mean_keep = 95}, 3, 100) == counts{95, 95, 95});
    CHECK(all(budget::pyramid{.window = 16, .form = kvpress, .mean_keep = 900}, 3, 100) == counts{100, 100, 100});
    CHECK(all(budget::pyramid{.window = 0, .form = kvpress, .mean_keep = .3}, 3, 5) == counts{1, 1, 1});
    CHECK(all(budget::pyramid{.form = kvpress}, 3, 0) == counts{0, 0, 0});
    CHECK(all(budget::pyramid{.window = 0, .form = kvpress, .mean_keep = 2.5}, 1, 100) == counts{2});

    // The authors' code would leave the last layer empty.
    CHECK(all(budget::pyramid{.keep = 10, .window = 0, .form = kvcache_factory}, 2, 100) == counts{20, 1});
}

TEST_CASE("layers along a line, the same, and by a table", "[budget][layers]") {
    CHECK(all(budget::uniform{7}, 3, 100) == counts{7, 7, 7});
    CHECK(all(budget::uniform{7}, 3, 5) == counts{5, 5, 5});
    CHECK(all(budget::uniform{7}, 3, 0) == counts{0, 0, 0});

    CHECK(all(budget::linear{.keep = 10, .first = 1.5}, 3, 100) == counts{15, 10, 5});
    CHECK(all(budget::linear{.keep = 10, .first = 0}, 3, 100) == counts{1, 10, 19});  // the least, and what that takes
    CHECK(all(budget::linear{.keep = 10, .first = 2}, 3, 16) == counts{16, 12, 2});
    CHECK(all(budget::linear{.keep = 10}, 1, 100) == counts{10});
    CHECK(all(budget::linear{.keep = 10, .first = 2}, 4, 9) == counts{9, 9, 9, 9});
    for (double const first : {0.0, 0.3, 1.0, 1.7})
        for (index const layers : {1, 2, 5, 32})
            CHECK(sum(all(budget::linear{.keep = 33, .first = first, .least = 4}, layers, 50)) == 33 * layers);

    counts const found = {4, 9, 2};
    CHECK(all(budget::table{found}, 3, 100) == found);
    CHECK(all(budget::table{found}, 3, 3) == counts{3, 3, 2});
    budget::of_layer<budget::table> const second{{found}, 1, 3};
    static_assert(budget::rule<budget::of_layer<budget::pyramid>>);
    CHECK(second.count(100).value() == 9);
}

TEST_CASE("budgets over layers say what does not fit, before they write", "[budget][layers]") {
    auto const error = [](auto const& rule, index layer = 0, index layers = 3, index tokens = 100) {
        return rule.count(layer, layers, tokens).error();
    };
    CHECK(error(budget::uniform{1}, 3) == errc::bad_shape);
    CHECK(error(budget::uniform{1}, -1) == errc::bad_shape);
    CHECK(error(budget::uniform{1}, 0, 0) == errc::bad_shape);
    CHECK(error(budget::uniform{1}, 0, 3, -1) == errc::bad_shape);
    CHECK(error(budget::uniform{1}, 0, 3, index{max_tokens} + 1) == errc::bad_shape);
    CHECK(error(budget::uniform{1}, 0, index{max_tokens} + 1) == errc::bad_shape);
    CHECK(error(budget::uniform{0}) == errc::bad_budget);
    CHECK(error(budget::linear{}) == errc::bad_budget);
    CHECK(error(budget::linear{.keep = 4, .first = 2.1}) == errc::bad_budget);
    CHECK(error(budget::linear{.keep = 4, .first = -0.1}) == errc::bad_budget);
    CHECK(error(budget::linear{.keep = 4, .first = static_cast<double>(not_a_number)}) == errc::bad_budget);
    CHECK(error(budget::linear{.keep = 4, .least = 5}) == errc::bad_budget);
    CHECK(error(budget::linear{.keep = 4, .least = 0}) == errc::bad_budget);
    CHECK(error(budget::pyramid{.keep = 4, .window = 5}) == errc::bad_budget);
    CHECK(error(budget::pyramid{.keep = 0, .window = 0}) == errc::bad_budget);
    CHECK(error(budget::pyramid{.window = -1}) == errc::bad_budget);
    CHECK(error(budget::pyramid{.beta = 0}) == errc::bad_budget);
    CHECK(error(budget::pyramid{.mean_keep = -1}) == errc::bad_budget);
    counts const found = {4, 0, 2};
    CHECK(error(budget::table{found}, 0, 2) == errc::bad_shape);
    CHECK(error(budget::table{found}, 1) == errc::bad_budget);
    counts untouched = {-7, -7, -7};
    CHECK(budget::fill(budget::table{found}, 100, untouched) == errc::bad_budget);
    CHECK(untouched == counts{-7, -7, -7});
}

TEST_CASE("in proportion to what layers lose, within bounds, to the last slot", "[budget][proportional]") {
    auto const fill = [](budget::proportional const& rule, std::vector<float> const& importance, index tokens = 9999) {
        counts c(importance.size());
        REQUIRE(rule(importance, tokens, c) == errc::ok);
        return c;
    };
    CHECK(fill({.keep = 64, .least = 32, .most = 192}, {.4F, .3F, .2F, .1F}) == counts{83, 70, 58, 45});
    // What rounding leaves goes to the most important; what it takes comes from the least.
    CHECK(fill({.keep = 4, .least = 1, .most = 9, .total = 11}, {.3F, .35F, .35F}) == counts{3, 4, 4});
    CHECK(fill({.keep = 4, .least = 1, .most = 9, .total = 12}, {0, 0, 0}) == counts{4, 4, 4});
    CHECK(fill({.keep = 4, .least = 1, .most = 9, .total = 14}, {0, 0, 0}) == counts{5, 5, 4});
    CHECK(fill({.keep = 4, .least = 1, .most = 9, .total = 13}, {1, 1, 1}) == counts{5, 4, 4});
    // Halves become even: 1, 0 and 0 besides the least, and the one that is left.
    CHECK(fill({.least = 1, .most = 9, .total = 5}, {.5F, .25F, .25F}) == counts{3, 1, 1});
    CHECK(fill({.keep = 4, .least = 1, .most = 6}, {3e38F, 0}) == counts{6, 2});
    // Bounds win over the total.
    CHECK(fill({.keep = 50, .least = 2, .most = 6}, {.9F, .1F}) == counts{6, 6});
    CHECK(fill({.least = 5, .most = 6, .total = 3}, {.9F, .1F}) == counts{5, 5});
    CHECK(fill({.keep = 50, .least = 2, .most = 60}, {.9F, .1F}, 20) == counts{20, 20});
    CHECK(fill({.keep = 50, .least = 2, .most = 60}, {.9F, .1F}, 1) == counts{1, 1});
    // One slot at a time, by the book, on any importance.
    for (unsigned seed = 0; seed < 50; ++seed) {
        auto const random = uniform(12, seed, 0, 1);
        index const layers = 1 + static_cast<index>(random[0] * 9), least = 1 + static_cast<index>(random[1] * 20);
        index const most = least + static_cast<index>(random[2] * 90);
        index const total = static_cast<index>(static_cast<float>(layers * (most + 5)) * random[3]) + 1;
        std::vector<float> importance(random.begin() + 3, random.begin() + 3 + layers);
        for (float& x : importance) x /= static_cast<float>(layers) * (seed % 3 == 0 ? 0.5F : seed % 3 == 1 ? 1.0F : 2);
        counts want;
        for (float const e : importance)
            want.push_back(std::clamp<index>(
                least + std::lrint(static_cast<double>(e) * static_cast<double>(total - layers * least)), least, most));
        std::vector<std::size_t> order(importance.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return importance[a] > importance[b]; });
        bool const up = sum(want) < total;
        if (!up) std::reverse(order.begin(), order.end());
        for (bool moved = true; moved && sum(want) != total;) {
            moved = false;
            for (auto const l : order) {
                if (sum(want) == total || want[l] == (up ? most : least)) continue;
                want[l] += up ? 1 : -1;
                moved = true;
            }
        }
        CAPTURE(seed, layers, least, most, total);
        CHECK(fill({.least = least, .most = most, .total = total}, importance) == want);
    }
}

TEST_CASE("a proportional budget says what does not fit, before it writes", "[budget][proportional]") {
    counts c = {-7, -7};
    auto const error = [&](budget::proportional const& rule, std::vector<float> const& importance, index tokens = 99) {
        return rule(importance, tokens, c);
    };
    CHECK(error({}, {1}) == errc::bad_shape);
    CHECK(error({}, {1, 1}, -1) == errc::bad_shape);
    CHECK(budget::proportional{}({}, 9, {}) == errc::bad_shape);
    CHECK(error({}, {1, -0.1F}) == errc::bad_setting);
    CHECK(error({}, {1, not_a_number}) == errc::bad_setting);
    CHECK(error({}, {infinity, 1}) == errc::bad_setting);
    CHECK(error({.least = 0}, {1, 1}) == errc::bad_budget);
    CHECK(error({.least = 4, .most = 3}, {1, 1}) == errc::bad_budget);
    CHECK(error({.keep = -1}, {1, 1}) == errc::bad_budget);
    CHECK(error({.keep = index{max_tokens} + 1}, {1, 1}) == errc::bad_budget);
    CHECK(error({.most = index{max_tokens} + 1}, {1, 1}) == errc::bad_budget);
    CHECK(error({.total = -1}, {1, 1}) == errc::bad_budget);
    CHECK(c == counts{-7, -7});
}
}  // namespace terse::test
