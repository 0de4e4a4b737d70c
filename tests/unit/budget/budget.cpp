#include <terse/budget/budget.hpp>

#include "support.hpp"

using terse::errc;
using terse::budget::fixed;
using terse::budget::ratio;
using terse::budget::rounding;

TEST_CASE("a fixed budget", "[budget]") {
    static_assert(terse::budget::rule<fixed>);
    CHECK(fixed{7}.count(100).value() == 7);
    CHECK(fixed{7}.count(3).value() == 7);
    CHECK(fixed{0}.count(3).error() == errc::bad_budget);
    CHECK(fixed{-1}.count(3).error() == errc::bad_budget);
}

TEST_CASE("a share of the tokens, rounded as published codes do", "[budget]") {
    static_assert(terse::budget::rule<ratio>);
    struct row_t {
        double keep;
        terse::index tokens, floor, even, nearest, ceil;
    };
    auto const r = GENERATE(values<row_t>({
        {0.5, 10, 5, 5, 5, 5},
        {0.5, 5, 2, 2, 3, 3},
        {0.5, 7, 3, 4, 4, 4},
        {0.3, 10, 3, 3, 3, 3},
        {0.1, 3, 1, 1, 1, 1},
        {0.098, 576, 56, 56, 56, 57},
        {0.25, 6, 1, 2, 2, 2},
        {0.7, 10, 7, 7, 7, 7},
        {0.07, 100, 7, 7, 7, 7},
        {1, 9, 9, 9, 9, 9},
        {0.01, 9, 1, 1, 1, 1},
        {1e-12, 1000, 1, 1, 1, 1},
        {1, 0, 1, 1, 1, 1},
    }));
    CAPTURE(r.keep, r.tokens);
    CHECK(ratio{r.keep}.count(r.tokens).value() == r.floor);
    CHECK(ratio{r.keep, rounding::nearest_even}.count(r.tokens).value() == r.even);
    CHECK(ratio{r.keep, rounding::nearest}.count(r.tokens).value() == r.nearest);
    CHECK(ratio{r.keep, rounding::ceil}.count(r.tokens).value() == r.ceil);
}

TEST_CASE("truncation takes no account of what a product falls short by", "[budget]") {
    CHECK(ratio{1 - 0.9}.count(100).value() == 10);
    CHECK(ratio{1 - 0.9, rounding::truncate}.count(100).value() == 9);
    CHECK(ratio{1 - 0.9, rounding::truncate}.count(10).value() == 1);
    CHECK(ratio{0.55, rounding::truncate}.count(9).value() == 4);
}

TEST_CASE("a share that is none", "[budget]") {
    for (double keep : {0.0, -0.5, 1.0001, static_cast<double>(terse::test::not_a_number),
                        static_cast<double>(terse::test::infinity)}) {
        CAPTURE(keep);
        CHECK(ratio{keep}.count(10).error() == errc::bad_budget);
    }
}

TEST_CASE("what a budget keeps of chunks", "[budget]") {
    using terse::budget::count_chunks;
    CHECK(count_chunks(ratio{0.5}, 10, 4).value() == 2 + 2 + 1);
    CHECK(count_chunks(fixed{3}, 10, 4).value() == 3 + 3 + 2);  // no more than a chunk has
    CHECK(count_chunks(fixed{3}, 0, 4).value() == 0);
    CHECK(count_chunks(fixed{3}, 10, 0).value() == 0);
    CHECK(count_chunks(fixed{0}, 10, 4).error() == errc::bad_budget);
}
