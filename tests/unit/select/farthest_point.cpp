#include <cmath>
#include <numeric>

#include <terse/select/farthest_point.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::test::tensor;
using terse::test::tokens_list;

namespace {

template <class T, class Run = terse::serial>
tokens_list picks(terse::tokens_view<T> x, terse::index count, terse::index start = -1, Run const& run = {}) {
    tokens_list order(static_cast<std::size_t>(count), -7);
    arena memory;
    REQUIRE(terse::select::farthest_point(x, order, start, memory, run) == errc::ok);
    CHECK(memory.used() == 0);
    return order;
}

// The picks by definition, in double precision, up to the first whose lead is within rounding.
template <class T>
tokens_list clear_picks(tensor<T> const& x, terse::index count, terse::index start) {
    auto const distance = [&x](terse::index a, terse::index b) {
        double ab = 0, aa = 0, bb = 0;
        for (terse::index c = 0; c < x.dim; ++c) {
            double const u = static_cast<float>(x.row(a)[c]), v = static_cast<float>(x.row(b)[c]);
            ab += u * v, aa += u * u, bb += v * v;
        }
        return aa == 0 || bb == 0 ? 1.0 : 1 - ab / std::sqrt(aa * bb);
    };
    tokens_list picked;
    if (start >= 0) picked.push_back(static_cast<terse::token>(start));
    while (std::ssize(picked) < count) {
        double best = -1, second = -1;
        terse::token who = -1;
        for (terse::token i = 0; i < x.tokens; ++i) {
            if (std::find(picked.begin(), picked.end(), i) != picked.end()) continue;
            double nearest = 3;
            if (picked.empty()) {
                for (terse::token j = 0; j < x.tokens; ++j)
                    if (j != i) nearest = std::min(nearest, distance(i, j));
            }
            for (terse::token j : picked) nearest = std::min(nearest, distance(i, j));
            if (nearest > best)
                second = best, best = nearest, who = i;
            else
                second = std::max(second, nearest);
        }
        if (best - second < 1e-6) break;
        picked.push_back(who);
    }
    return picked;
}

}  // namespace

TEST_CASE("farthest points by hand", "[select][farthest_point]") {
    // At 0, 30, 60 and 180 degrees.
    float const h = std::sqrt(0.75F);
    std::vector<float> const x{1, 0, h, 0.5F, 0.5F, h, -1, 0};
    auto const rows = terse::view(x.data(), 4, 2);
    CHECK(picks(rows, 4) == tokens_list{3, 0, 2, 1});
    CHECK(picks(rows, 3, 1) == tokens_list{1, 3, 0});
    CHECK(picks(rows, 1, 2) == tokens_list{2});
    CHECK(picks(rows, 0).empty());
    CHECK(picks(terse::view(x.data(), 1, 2), 1) == tokens_list{0});
    CHECK(picks(terse::view(x.data(), 0, 2), 0).empty());
}

TEST_CASE("farthest points: ties, copies and zeros", "[select][farthest_point]") {
    std::vector<float> const copies(12, 1.0F);
    CHECK(picks(terse::view(copies.data(), 12, 1), 12) == [] {
        tokens_list all(12);
        std::iota(all.begin(), all.end(), 0);
        return all;
    }());

    std::vector<float> const zeros(12, 0.0F);
    CHECK(picks(terse::view(zeros.data(), 4, 3), 3) == tokens_list{0, 1, 2});

    // A zero row is at distance 1 from all: farther than 0 and 1 from each other, nearer than 0 and 3.
    std::vector<float> const x{1, 0, 1, 0, 0, 0, -1, 0};
    CHECK(picks(terse::view(x.data(), 4, 2), 4, 0) == tokens_list{0, 3, 2, 1});
    CHECK(picks(terse::view(x.data(), 4, 2), 1) == tokens_list{2});
}

TEST_CASE("farthest points: rows that are not finite come last", "[select][farthest_point]") {
    auto const bad = GENERATE(as<float>{}, terse::test::not_a_number, terse::test::infinity);
    auto x = terse::test::random_tokens(21, 9, 3);
    x.row(0)[4] = bad;
    x.row(13)[0] = bad;
    auto const order = picks(x.view(), 21);
    CHECK(tokens_list(order.end() - 2, order.end()) == tokens_list{0, 13});
    CHECK(picks(x.view(), 21, 13).front() == 13);
    auto sorted = picks(x.view(), 21, 13);
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());

    std::vector<float> const all(6, bad);
    CHECK(picks(terse::view(all.data(), 3, 2), 3) == tokens_list{0, 1, 2});
}

TEMPLATE_TEST_CASE("farthest points are those of the definition", "[select][farthest_point]", float, terse::half,
                   terse::bfloat16) {
    struct shape {
        terse::index tokens, dim, clusters;
    };
    auto const s = GENERATE(values<shape>({{3, 2, 3}, {17, 3, 17}, {64, 8, 64}, {65, 9, 65}, {90, 67, 9}}));
    auto const start = GENERATE(terse::index{-1}, terse::index{1});
    CAPTURE(s.tokens, s.dim, start);
    auto const x = terse::test::cast<TestType>(terse::test::clustered_tokens(s.tokens, s.dim, s.clusters, 21, 0.2F));
    auto const expected = clear_picks(x, s.tokens, start);
    REQUIRE(std::ssize(expected) == s.tokens);  // no two rows of these are within rounding
    auto order = picks(x.view(), s.tokens, start);
    CHECK(tokens_list(order.begin(), order.begin() + std::ssize(expected)) == expected);

    for (terse::index workers : terse::test::worker_counts)
        REQUIRE(picks(x.view(), s.tokens, start, terse::test::threads{workers}) == order);

    auto const fewer = picks(x.view(), s.tokens / 2, start);
    CHECK(std::equal(fewer.begin(), fewer.end(), order.begin()));

    std::sort(order.begin(), order.end());
    CHECK(std::adjacent_find(order.begin(), order.end()) == order.end());
}

TEST_CASE("farthest points of padded rows are those of packed ones", "[select][farthest_point]") {
    auto const x = terse::test::random_tokens(33, 20, 4);
    tensor<float> packed{{}, 1, 33, 11};
    for (terse::index t = 0; t < 33; ++t) packed.values.insert(packed.values.end(), x.row(t), x.row(t) + 11);
    CHECK(picks(terse::view(x.values.data(), 33, 11, 20), 33) == picks(packed.view(), 33));
}

TEST_CASE("farthest points do not depend on the rows' lengths", "[select][farthest_point]") {
    auto const x = terse::test::random_tokens(40, 12, 8);
    auto scaled = x;
    for (terse::index t = 0; t < 40; ++t)
        for (terse::index c = 0; c < 12; ++c) scaled.row(t)[c] *= std::ldexp(1.0F, static_cast<int>(t % 9) - 4);
    CHECK(picks(scaled.view(), 40) == picks(x.view(), 40));
}

TEST_CASE("farthest points by bounds and from all cosines are the same", "[select][farthest_point]") {
    // Few picks of many rows are made by bounds, many from stored cosines: the first ones must be the same.
    struct shape {
        terse::index tokens, dim, clusters;
        float spread;
    };
    auto const s = GENERATE(values<shape>({{200, 16, 200, 0.0F}, {200, 33, 11, 0.3F}, {260, 40, 7, 0.05F}}));
    auto const start = GENERATE(terse::index{-1}, terse::index{3});
    CAPTURE(s.tokens, s.dim, start);
    auto const x = terse::test::clustered_tokens(s.tokens, s.dim, s.clusters, 41, s.spread);
    auto const expected = clear_picks(x, 40, start);
    REQUIRE(std::ssize(expected) > 10);
    for (terse::index const count :
         {terse::index{1}, terse::index{2}, s.tokens / 20, s.tokens / 4, s.tokens / 2, s.tokens}) {
        CAPTURE(count);
        CHECK(terse::select::stores_cosines(s.tokens, count, start < 0) ==
              (count > s.tokens / 4 || (start < 0 && count == s.tokens / 4)));
        auto const order = picks(x.view(), count, start);
        auto const clear = std::min(std::ssize(order), std::ssize(expected));
        CHECK(std::equal(order.begin(), order.begin() + clear, expected.begin()));
        for (terse::index workers : terse::test::worker_counts)
            REQUIRE(picks(x.view(), count, start, terse::test::threads{workers}) == order);
    }
}

TEST_CASE("no more cosines are stored than fit 256 MiB", "[select][farthest_point]") {
    CHECK(terse::select::stores_cosines(8192, 8192, false));
    CHECK_FALSE(terse::select::stores_cosines(8193, 8193, false));
    CHECK_FALSE(terse::select::stores_cosines(8193, 8193, true));
}

TEST_CASE("farthest points of long rows do not depend on threads", "[select][farthest_point]") {
    auto x = terse::test::clustered_tokens(600, 2000, 30, 51, 0.4F);  // enough to share every step
    for (terse::index const copy : {100, 500}) std::copy_n(x.row(17), x.dim, x.row(copy));
    std::fill_n(x.row(33), x.dim, 0.0F);
    x.row(44)[1999] = terse::test::infinity;
    for (terse::index const count : {terse::index{25}, terse::index{210}}) {
        for (terse::index const start : {terse::index{-1}, terse::index{5}}) {
            auto const order = picks(x.view(), count, start);
            for (terse::index workers : terse::test::worker_counts)
                REQUIRE(picks(x.view(), count, start, terse::test::threads{workers}) == order);
        }
    }
}

TEST_CASE("farthest points of equal rows come in their order, whatever way they are found",
          "[select][farthest_point]") {
    // Orthogonal directions, each several times: ties everywhere, and exact ones.
    tensor<float> x{std::vector<float>(120 * 16), 1, 120, 16};
    for (terse::index t = 0; t < 120; ++t) x.row(t)[t * 7 % 16] = 2;
    tokens_list expected(120);
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_partition(expected.begin(), expected.end(), [](terse::token t) { return t < 16; });
    for (terse::index const count : {terse::index{5}, terse::index{16}, terse::index{39}, terse::index{120}}) {
        auto const order = picks(x.view(), count, 0);
        CHECK(std::equal(order.begin(), order.end(), expected.begin()));
    }
}
