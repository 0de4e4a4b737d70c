#include <algorithm>
#include <cmath>
#include <numeric>

#include <terse/select/blocks.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
tokens_list highest(std::vector<double> const& scores, std::size_t count, bool last_wins = false) {
    tokens_list kept(count, -1);
    arena memory;
    CHECK(select::top_k(scores, last_wins, kept, memory) == errc::ok);
    CHECK(memory.used() == 0);
    return kept;
}

tokens_list leading(std::vector<double> const& scores, double share, std::size_t most, bool last_wins = false) {
    tokens_list kept(most, -1);
    arena memory;
    auto const count = select::leaders(scores, share, last_wins, kept, memory).value();
    kept.resize(static_cast<std::size_t>(count));
    return kept;
}

constexpr double nan = static_cast<double>(not_a_number), inf = static_cast<double>(infinity);
}  // namespace

TEST_CASE("the highest in double, the earlier or the later of equals", "[select][blocks]") {
    CHECK(highest({3, 1, 2}, 2) == tokens_list{0, 2});
    CHECK(highest({1, 1, 1}, 2) == tokens_list{0, 1});
    CHECK(highest({1, 1, 1}, 2, true) == tokens_list{1, 2});
    CHECK(highest({1, 1, 1}, 3, true) == tokens_list{0, 1, 2});
    CHECK(highest({5, 6}, 0).empty());
    CHECK(highest({}, 0).empty());
    CHECK(highest({nan, 1, -inf, nan}, 3) == tokens_list{0, 1, 2});
    CHECK(highest({nan, 1, -inf, nan}, 3, true) == tokens_list{1, 2, 3});
    CHECK(highest(std::vector<double>(99, nan), 3) == tokens_list{0, 1, 2});
    // Float does not tell these from each other.
    CHECK(highest({1, 1 + 1e-12, 1 + 2e-12, 5}, 2) == tokens_list{2, 3});
    CHECK(highest({1, 1 + 1e-12, 1, 5}, 3) == tokens_list{0, 1, 3});
    CHECK(highest({1, 1 + 1e-12, 1, 5}, 3, true) == tokens_list{1, 2, 3});
    CHECK(highest({1e300, 2e300, -1e300}, 1) == tokens_list{1});
}

TEST_CASE("the highest of many agree with sorting", "[select][blocks]") {
    for (index const n : {1, 7, 64, 501}) {
        for (int const kind : {0, 1, 2}) {
            auto const random = uniform(n, static_cast<unsigned>(n));
            std::vector<double> x(random.begin(), random.end());
            for (std::size_t i = 0; i < x.size(); ++i) {
                if (kind == 1) x[i] = std::round(3 * x[i]);    // ties
                if (kind == 2) x[i] = 1 + x[i] * 1e-9;         // equal in float
                if (kind == 2 && i % 5 == 0) x[i] = x[i / 2];  // and some in double
            }
            for (bool const last_wins : {false, true}) {
                tokens_list order(x.size());
                std::iota(order.begin(), order.end(), 0);
                std::sort(order.begin(), order.end(), [&](token a, token b) {
                    auto const p = x[static_cast<std::size_t>(a)], q = x[static_cast<std::size_t>(b)];
                    return p != q ? p > q : last_wins ? a > b : a < b;
                });
                for (index const k : {index{0}, index{1}, n / 3, n / 2, n - 1, n}) {
                    CAPTURE(n, kind, last_wins, k);
                    tokens_list expected(order.begin(), order.begin() + k);
                    std::sort(expected.begin(), expected.end());
                    CHECK(highest(x, static_cast<std::size_t>(k), last_wins) == expected);
                }
            }
        }
    }
}

TEST_CASE("leaders reach a share of the sum, or their number", "[select][blocks]") {
    std::vector<double> const x = {1, 4, 0, 3, 2};
    CHECK(leading(x, 0.4, 3) == tokens_list{1});
    CHECK(leading(x, 0.41, 3) == tokens_list{1, 3});
    CHECK(leading(x, 0.7, 3) == tokens_list{1, 3});
    CHECK(leading(x, 0.71, 3) == tokens_list{1, 3, 4});
    CHECK(leading(x, 1, 3) == tokens_list{1, 3, 4});
    CHECK(leading(x, 1, 5) == tokens_list{0, 1, 3, 4});
    CHECK(leading(x, 0, 3).empty());
    CHECK(leading({0, 0}, 0.9, 1).empty());
    CHECK(leading({2, 2}, 0.5, 1) == tokens_list{0});
    CHECK(leading({2, 2}, 0.5, 1, true) == tokens_list{1});
    CHECK(leading({2, 2}, 0.5, 2) == tokens_list{0});
    CHECK(leading({2, 2}, 0.5, 2, true) == tokens_list{1});
    CHECK(leading({nan, 3, inf, 1}, 0.9, 3) == tokens_list{1, 2, 3});  // neither counts towards the share
    CHECK(leading({nan, nan}, 0.9, 1).empty());
}

TEST_CASE("a complement is what is not there", "[select][blocks]") {
    tokens_list const some = {0, 2, 5};
    tokens_list rest(3);
    select::complement(some, 6, rest);
    CHECK(rest == tokens_list{1, 3, 4});
    select::complement({}, 3, rest);
    CHECK(rest == tokens_list{0, 1, 2});
}
}  // namespace terse::test
