#include <array>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/kv/compact.hpp>

namespace kv = terse::kv;
using terse::errc;
using terse::plan;
using terse::plans;
using terse::token;

namespace {

constexpr terse::index heads = 3, tokens = 29, dim = 12;
constexpr auto size = static_cast<std::size_t>(heads * tokens * dim);

struct backwards {
    [[nodiscard]] static constexpr terse::index workers() noexcept { return 1; }
    template <class Body>
    void operator()(terse::index count, Body&& body) const noexcept {
        for (terse::index i = count; i-- > 0;) body(i, i + 1, terse::index{0});
    }
};

// A head keeps a fifth, one a run with a gap, one all.
struct choice {
    std::vector<token> few{0, 4, 5, 11, 27}, run, all;
    std::vector<plan> each;

    choice() {
        for (token t = 0; t < tokens; ++t) {
            all.push_back(t);
            if (t < 2 || t > 5) run.push_back(t);
        }
        for (auto const* kept : {&few, &run, &all}) each.push_back(terse::select_rows(*kept, tokens));
    }
};

// A cache whose element says where it was.
template <class T, class Cache>
void fill(Cache const& cache) {
    for (terse::index h = 0; h < heads; ++h)
        for (terse::index t = 0; t < tokens; ++t)
            for (terse::index c = 0; c < dim; ++c) cache.row(h, t)[c] = static_cast<T>(h * 7 + t * 3 + c);
}

// Rows are where the plans put them, and what follows is as it was or free.
template <class T, class Cache>
bool compacted(Cache const& cache, plans p) {
    for (terse::index h = 0; h < heads; ++h)
        for (terse::index i = 0; i < p[h].kept(); ++i)
            for (terse::index c = 0; c < dim; ++c)
                if (cache.row(h, i)[c] != static_cast<T>(h * 7 + p[h].sources[static_cast<std::size_t>(i)] * 3 + c))
                    return false;
    return true;
}

}  // namespace

TEMPLATE_TEST_CASE("every layout compacts in place, each head by its own plan", "[kv][compact]", float, terse::half,
                   terse::bfloat16, std::int8_t, double) {
    choice const chosen;
    for (plans const p : {plans{chosen.each}, plans{std::span{chosen.each}.first(1)},
                          plans{std::span{chosen.each}.subspan(1, 1)}, plans{std::span{chosen.each}.last(1)}}) {
        auto const check = [&](auto const& cache) {
            fill<TestType>(cache);
            CHECK(kv::compact(cache, p) == errc::ok);
            CHECK(compacted<TestType>(cache, p));
            fill<TestType>(cache);
            CHECK(kv::compact(cache, p, backwards{}) == errc::ok);
            CHECK(compacted<TestType>(cache, p));
        };
        std::vector<TestType> memory(2 * size);
        check(terse::head_major(memory.data(), heads, tokens, dim));
        check(terse::token_major(memory.data(), heads, tokens, dim));
        check(terse::heads_span<TestType>{memory.data(), heads, tokens, dim, tokens * (dim + 3), dim + 3});
        check(terse::transposed_span<TestType>{memory.data(), heads, tokens, dim, dim * (tokens + 2), tokens + 2});
        std::array<token, 8> const blocks{9, 2, 7, 0, 1, 4, 8, 3};
        check(terse::paged_span<TestType>{memory.data(), blocks, heads, tokens, dim, 4, 4 * heads * dim, 4 * dim, dim});
        check(terse::paged_span<TestType>{memory.data(), blocks, heads, tokens, dim, 4, 4 * heads * dim, dim,
                                          heads * dim});
    }
}

TEST_CASE("compaction writes nothing outside the kept rows", "[kv][compact]") {
    choice const chosen;
    std::vector<int> memory(size + 40, -1);
    auto const cache = terse::heads_span<int>{memory.data() + 20, heads, tokens, dim, tokens * dim, dim};
    fill<int>(cache);
    auto const before = memory;
    CHECK(kv::compact(cache, plans{chosen.each}) == errc::ok);
    for (terse::index h = 0; h < heads; ++h)
        for (terse::index i = chosen.each[static_cast<std::size_t>(h)].kept(); i < tokens; ++i)
            for (terse::index c = 0; c < dim; ++c)
                CHECK(cache.row(h, i)[c] == before[static_cast<std::size_t>(20 + (h * tokens + i) * dim + c)]);
    CHECK(std::equal(memory.begin(), memory.begin() + 20, before.begin()));
    CHECK(std::equal(memory.end() - 20, memory.end(), before.end() - 20));
}

TEST_CASE("what is stored once a token compacts by the same plan", "[kv][compact]") {
    choice const chosen;
    std::vector<std::int64_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), 100);
    CHECK(kv::compact(std::span{positions}, chosen.each[0]) == errc::ok);
    CHECK(std::vector<std::int64_t>(positions.begin(), positions.begin() + 5) ==
          std::vector<std::int64_t>{100, 104, 105, 111, 127});
    CHECK(positions[5] == 105);
    auto const before = positions;
    CHECK(kv::compact(std::span{positions}.first(28), chosen.each[0]) == errc::bad_shape);
    CHECK(positions == before);

    std::vector<float> none;
    CHECK(kv::compact(std::span{none}, plan{}) == errc::ok);
}

TEST_CASE("blocks in use follow the head that keeps most", "[kv][compact]") {
    choice const chosen;
    CHECK(kv::blocks_in_use(plans{std::span{chosen.each}.first(1)}, 4) == 2);
    CHECK(kv::blocks_in_use(plans{std::span{chosen.each}.first(1)}, 5) == 1);
    CHECK(kv::blocks_in_use(plans{chosen.each}, 4) == 8);
    CHECK(kv::blocks_in_use(plans{}, 4) == 0);
}

TEST_CASE("a plan that cannot move a cache leaves it alone", "[kv][compact]") {
    choice const chosen;
    std::vector<float> memory(2 * size);
    auto const rejected = [&](plans p) {
        std::array<token, 8> const blocks{0, 1, 2, 3, 4, 5, 6, 7};
        auto const head_major = terse::head_major(memory.data(), heads, tokens, dim);
        terse::transposed_span<float> const transposed{memory.data(), heads, tokens, dim, dim * tokens, tokens};
        terse::paged_span<float> const paged{memory.data(),   blocks,  heads, tokens, dim, 4,
                                             4 * heads * dim, 4 * dim, dim};
        fill<float>(head_major);
        auto const before = memory;
        std::vector<errc> const errors{kv::compact(head_major, p), kv::compact(transposed, p), kv::compact(paged, p)};
        CHECK(memory == before);
        CHECK(errors == std::vector<errc>(3, errors[0]));
        return errors[0];
    };
    CHECK(rejected(plans{}) == errc::bad_shape);
    CHECK(rejected(plans{std::span{chosen.each}.first(2)}) == errc::bad_shape);

    auto const with_last = [&](plan const& last) {
        auto each = chosen.each;
        each[2] = last;
        return rejected(plans{each});
    };
    std::vector<token> const back{0, 3, 2}, twice{1, 1}, offsets{0, 1, 2}, below{-1, 2}, beyond{0, tokens};
    std::vector<float> const weights{1, 2};
    CHECK(with_last(terse::select_rows(back, tokens + 1)) == errc::bad_shape);
    CHECK(with_last(terse::select_rows(back, tokens)) == errc::bad_plan);
    CHECK(with_last(terse::select_rows(twice, tokens)) == errc::bad_plan);
    CHECK(with_last(terse::select_rows(below, tokens)) == errc::bad_plan);
    CHECK(with_last(terse::select_rows(beyond, tokens)) == errc::bad_plan);
    CHECK(with_last({.tokens = tokens, .sources = chosen.few, .offsets = offsets}) == errc::bad_plan);
    CHECK(with_last({.tokens = tokens, .sources = std::span{chosen.few}.first(2), .weights = weights}) ==
          errc::bad_plan);
}

TEST_CASE("gather copies out of a paged cache", "[kv][compact]") {
    choice chosen;
    std::swap(chosen.few[0], chosen.few[4]);  // any order
    std::vector<float> memory(2 * size, -1), out(size, -1);
    std::array<token, 8> const blocks{9, 2, 7, 0, 1, 4, 8, 3};
    terse::paged_span<float> const paged{memory.data(), blocks, heads, tokens, dim, 4, 4 * heads * dim, 4 * dim, dim};
    fill<float>(paged);
    auto const to = terse::head_major(out.data(), heads, tokens, dim);
    CHECK(kv::gather(paged, to, plans{chosen.each}) == errc::ok);
    CHECK(compacted<float>(to, plans{chosen.each}));
    CHECK(to.row(0, 5)[0] == -1);  // past the first head's count

    out.assign(size, -1);
    CHECK(kv::gather(paged, terse::head_major(out.data(), heads, tokens - 1, dim), plans{chosen.each}) ==
          errc::bad_shape);
    CHECK(kv::gather(paged, terse::head_major(out.data(), heads, tokens, dim - 1), plans{chosen.each}) ==
          errc::bad_shape);
    CHECK(kv::gather(paged, to, plans{std::span{chosen.each}.first(2)}) == errc::bad_shape);
    std::vector<token> const offsets{0, 2};
    plan const pooled{.tokens = tokens, .sources = std::span{chosen.all}.first(2), .offsets = offsets};
    CHECK(kv::gather(paged, to, plans{{&pooled, 1}}) == errc::bad_plan);
    auto const before = memory;
    terse::index const block = 4 * heads * dim;
    plans const few{std::span{chosen.each}.first(1)};
    CHECK(kv::gather(paged, terse::head_major(memory.data() + 9 * block, heads, 5, dim), few) == errc::aliased);
    CHECK(memory == before);
    CHECK(kv::gather(paged, terse::head_major(memory.data() + 5 * block, heads, 5, dim), few) ==
          errc::ok);  // free ones
}
