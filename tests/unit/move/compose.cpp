#include <cmath>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/move/apply.hpp>
#include <terse/move/compose.hpp>

using terse::errc;
using terse::plan;
using terse::token;

namespace {

// A plan that holds its own memory.
struct owned {
    std::vector<token> sources{}, offsets{}, anchor{}, owner{};
    std::vector<float> weights{};

    [[nodiscard]] plan of(terse::index tokens) const { return {tokens, sources, offsets, weights, anchor, owner}; }
};

template <class T>
std::vector<T> list(std::span<T const> x) {
    return {x.begin(), x.end()};
}

// R as a dense matrix in double.
std::vector<double> dense(plan const& p) {
    std::vector<double> r(static_cast<std::size_t>(p.kept() * p.tokens));
    for (terse::index i = 0; i < p.kept(); ++i) {
        auto const row = p.row(i);
        for (std::size_t k = 0; k < row.sources.size(); ++k)
            r[static_cast<std::size_t>(i * p.tokens + row.sources[k])] += static_cast<double>(row.weight(k));
    }
    return r;
}

owned draw(terse::index rows, terse::index tokens, bool weighted, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    owned p;
    p.offsets.push_back(0);
    for (terse::index i = 0; i < rows; ++i) {
        for (token j = 0; j < tokens; ++j) {
            if (random() % 4 != 0) continue;
            p.sources.push_back(j);
            if (weighted) p.weights.push_back(normal(random));
        }
        p.offsets.push_back(static_cast<token>(p.sources.size()));
        p.anchor.push_back(static_cast<token>(random() % static_cast<unsigned>(tokens + 1)) - 1);
    }
    for (terse::index j = 0; j < tokens; ++j)
        p.owner.push_back(static_cast<token>(random() % static_cast<unsigned>(rows + 1)) - 1);
    return p;
}

}  // namespace

TEST_CASE("two selections compose to a selection", "[move][compose]") {
    terse::arena memory;
    std::vector<token> const first{1, 3, 4}, second{0, 2};
    plan const earlier = *with_owner(terse::select_rows(first, 6), memory);
    plan const later = *with_owner(terse::select_rows(second, 3), memory);
    auto const p = compose(later, earlier, memory);
    REQUIRE(p);
    CHECK(p->is_selection());
    CHECK(is_valid(*p));
    CHECK(p->tokens == 6);
    CHECK(list(p->sources) == std::vector<token>{1, 4});
    CHECK(list(p->anchor) == std::vector<token>{1, 4});
    CHECK(list(p->owner) == std::vector<token>{-1, 0, -1, -1, 1, -1});
}

TEST_CASE("a source that comes in two ways has the sum of its weights", "[move][compose]") {
    terse::arena memory;
    owned const both{.sources = {0, 1, 1, 2}, .offsets = {0, 2, 4}};  // rows {0, 1} and {1, 2}
    owned const one{.sources = {0, 1}, .offsets = {0, 2}};
    auto const p = compose(one.of(2), both.of(3), memory);
    REQUIRE(p);
    CHECK(list(p->sources) == std::vector<token>{0, 1, 2});
    CHECK(list(p->weights) == std::vector<float>{1, 2, 1});
    CHECK(p->anchor.empty());
    CHECK(p->owner.empty());

    owned const apart{.sources = {1, 2, 0}, .offsets = {0, 2, 3}};
    auto const q = compose(one.of(2), apart.of(3), memory);
    REQUIRE(q);
    CHECK(list(q->sources) == std::vector<token>{0, 1, 2});
    CHECK(q->weights.empty());  // all ones
}

TEST_CASE("a composed plan is the matrices' product", "[move][compose]") {
    for (unsigned seed = 0; seed < 40; ++seed) {
        CAPTURE(seed);
        terse::index const tokens = 1 + seed % 13, middle = 1 + seed % 7, kept = seed % 5;
        auto const earlier_memory = draw(middle, tokens, seed % 2 == 0, seed),
                   later_memory = draw(kept, middle, seed % 3 == 0, seed + 100);
        plan const earlier = earlier_memory.of(tokens), later = later_memory.of(middle);
        REQUIRE(is_valid(earlier));
        REQUIRE(is_valid(later));
        terse::arena memory;
        auto const p = compose(later, earlier, memory);
        REQUIRE(p);
        CHECK(is_valid(*p));
        CHECK(p->kept() == kept);
        auto const a = dense(later), b = dense(earlier), c = dense(*p);
        for (terse::index i = 0; i < kept; ++i) {
            for (terse::index j = 0; j < tokens; ++j) {
                double sum = 0;
                for (terse::index k = 0; k < middle; ++k)
                    sum += a[static_cast<std::size_t>(i * middle + k)] * b[static_cast<std::size_t>(k * tokens + j)];
                CHECK(c[static_cast<std::size_t>(i * tokens + j)] == Approx(sum).margin(1e-5));
            }
            token const through = later.anchor[static_cast<std::size_t>(i)];
            CHECK(p->anchor[static_cast<std::size_t>(i)] ==
                  (through < 0 ? -1 : earlier.anchor[static_cast<std::size_t>(through)]));
        }
        for (std::size_t j = 0; j < static_cast<std::size_t>(tokens); ++j)
            CHECK(p->owner[j] == (earlier.owner[j] < 0 ? -1 : later.owner[static_cast<std::size_t>(earlier.owner[j])]));
    }
}

TEST_CASE("lift leaves the rest of the sequence alone", "[move][compose]") {
    terse::arena memory;
    std::vector<token> const picked{0, 2};
    plan const selection = *with_owner(terse::select_rows(picked, 3), memory);
    auto const p = lift(selection, 2, 7, memory);
    REQUIRE(p);
    CHECK(is_valid(*p));
    CHECK(p->is_selection());
    CHECK(p->tokens == 7);
    CHECK(list(p->sources) == std::vector<token>{0, 1, 2, 4, 5, 6});
    CHECK(list(p->anchor) == list(p->sources));
    CHECK(list(p->owner) == std::vector<token>{0, 1, 2, -1, 3, 4, 5});

    owned const pooled{.sources = {0, 1, 2}, .offsets = {0, 2, 3}, .anchor = {1, -1}, .weights = {0.5F, 0.25F, 2}};
    auto const q = lift(pooled.of(3), 1, 5, memory);
    REQUIRE(q);
    CHECK(is_valid(*q));
    CHECK(list(q->sources) == std::vector<token>{0, 1, 2, 3, 4});
    CHECK(list(q->offsets) == std::vector<token>{0, 1, 3, 4, 5});
    CHECK(list(q->weights) == std::vector<float>{1, 0.5F, 0.25F, 2, 1});
    CHECK(list(q->anchor) == std::vector<token>{0, 2, -1, 4});
    CHECK(q->owner.empty());

    // At both ends, of everything, and of nothing.
    CHECK(list(lift(selection, 0, 4, memory).value().sources) == std::vector<token>{0, 2, 3});
    CHECK(list(lift(selection, 1, 4, memory).value().sources) == std::vector<token>{0, 1, 3});
    CHECK(list(lift(selection, 0, 3, memory).value().sources) == picked);
    CHECK(list(lift(plan{}, 1, 2, memory).value().sources) == std::vector<token>{0, 1});
}

TEST_CASE("composing and lifting fail without a trace", "[move][compose]") {
    terse::arena memory;
    std::vector<token> const picked{0, 2};
    plan const selection = terse::select_rows(picked, 3);
    auto const used = memory.used();
    CHECK(compose(selection, selection, memory).error() == errc::bad_shape);
    CHECK(lift(selection, -1, 7, memory).error() == errc::bad_shape);
    CHECK(lift(selection, 5, 7, memory).error() == errc::bad_shape);
    CHECK(lift(selection, 8, 7, memory).error() == errc::bad_shape);
    CHECK(lift(selection, 0, terse::index{terse::max_tokens} + 1, memory).error() == errc::bad_shape);
    CHECK(memory.used() == used);

    // Whatever the size of a fixed arena: the plan, or out_of_memory and the arena as it was.
    auto const earlier = draw(6, 30, true, 1), later = draw(4, 6, true, 2);
    int failures = 0;
    for (std::size_t size = 0; size < 4096; size += 64) {
        std::vector<std::byte> bytes(size + 64);
        terse::arena fixed{std::span{bytes}.first(size)};
        auto const check = [&](terse::result<plan> const& p) {
            if (p) {
                CHECK(is_valid(*p));
            } else {
                CHECK(p.error() == errc::out_of_memory);
                CHECK(fixed.used() == 0);
                ++failures;
            }
            fixed.rewind();
        };
        check(compose(later.of(6), earlier.of(30), fixed));
        check(lift(earlier.of(30), 3, 50, fixed));
    }
    CHECK(failures > 10);
    CHECK(failures < 128);
}
