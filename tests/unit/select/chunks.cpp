#include <numeric>

#include <terse/select/best_chunks.hpp>
#include <terse/select/per_chunk.hpp>

#include "support.hpp"

namespace terse::test {
namespace {

scores of(std::vector<float> const& values, index rows = 1) {
    index const tokens = std::ssize(values) / rows;
    return {values, rows, tokens, tokens};
}

struct chosen {
    errc error = errc::ok;
    tokens_list kept;
};

chosen best(scores const& s, index tokens, std::vector<select::row> const& rows, index keep, index chunk, bool exact) {
    arena memory;
    tokens_list kept(static_cast<std::size_t>(std::min(std::max(keep, chunk), tokens)));
    auto const got = select::best_chunks(s, tokens, rows, keep, chunk, exact, kept, memory);
    CHECK(memory.used() == 0);
    if (!got) return {got.error(), {}};
    kept.resize(static_cast<std::size_t>(*got));
    return {errc::ok, kept};
}

}  // namespace

TEST_CASE("the best chunks, whole or trimmed", "[select][chunks]") {
    //                                 0  1  2  3  4  5  6  7  8  9 10
    std::vector<float> const values = {1, 1, 1, 9, 0, 0, 2, 2, 2, 5, 2};
    struct row {
        char const* name;
        index keep, chunk;
        bool exact;
        select::quota q;
        errc error;
        tokens_list kept;
    };
    static std::vector<range> const middle = {{1, 2}};  // which the rows refer to
    auto const r = GENERATE_COPY(Catch::Generators::values<row>({
        {"whole ones", 6, 3, false, {}, errc::ok, {3, 4, 5, 9, 10}},
        {"at least one", 2, 3, false, {}, errc::ok, {9, 10}},
        {"a mean is of what a short chunk has", 3, 3, false, {}, errc::ok, {9, 10}},
        {"the worst kept is trimmed", 6, 3, true, {}, errc::ok, {3, 4, 5, 6, 9, 10}},
        {"to its best", 3, 3, true, {}, errc::ok, {3, 9, 10}},
        {"the best of one", 1, 3, true, {}, errc::ok, {9}},
        {"chunks of one", 3, 1, true, {}, errc::ok, {3, 6, 9}},
        {"one chunk", 3, 11, true, {}, errc::ok, {3, 6, 9}},
        {"what is protected brings its chunk", 6, 3, false, {.leading = 1}, errc::ok, {0, 1, 2, 9, 10}},
        {"and when trimmed too", 6, 3, true, {.leading = 1}, errc::ok, {0, 1, 2, 3, 9, 10}},
        {"as far as there is room", 2, 3, true, {.leading = 1}, errc::ok, {0, 1}},
        {"first, last and guarded",
         4,
         3,
         true,
         {.leading = 1, .trailing = 1, .guarded = middle},
         errc::ok,
         {0, 1, 9, 10}},
        {"nothing but the protected", 2, 3, true, {.leading = 2}, errc::ok, {0, 1}},
        {"a whole one, though fewer were asked for", 2, 3, false, {.leading = 1}, errc::ok, {0, 1, 2}},
        {"more chunks protected than kept", 5, 3, false, {.leading = 4}, errc::bad_budget, {}},
        {"more protected than kept", 2, 3, true, {.leading = 3}, errc::bad_budget, {}},
    }));
    CAPTURE(r.name);
    auto const got = best(of(values), 11, {{11, r.q}}, r.keep, r.chunk, r.exact);
    REQUIRE(got.error == r.error);
    CHECK(got.kept == r.kept);
}

TEST_CASE("chunks by the sum over rows; ties, NaN, tokens without a score", "[select][chunks]") {
    CHECK(best(of({5, 0, 0, 3, 0, 0, 3, 3}, 2), 4, {{4}, {4}}, 2, 2, true).kept == tokens_list{2, 3});
    CHECK(best(of({1, 1, 1, 1, 1, 1}), 6, {{6}}, 3, 2, true).kept == tokens_list{0, 1, 2});
    CHECK(best(of({not_a_number, 9, 1, 1}), 4, {{4}}, 2, 2, true).kept == tokens_list{2, 3});
    // Two tokens without a score stay, and bring the scored one of their chunk.
    CHECK(best(of({9, 9, 9, 1}), 6, {{6}}, 3, 3, true).kept == tokens_list{3, 4, 5});
    // Both chunks have one that stays: their scored means are 4 and 5, not 10 of three.
    CHECK(best(of({3, 4, 5, 5, 5}), 6, {{6, {.leading = 1}}}, 3, 3, true).kept == tokens_list{0, 3, 5});
    CHECK(best(of({}), 0, {{0}}, 0, 3, false).kept.empty());
    CHECK(best(of({1, 2, 3, 4}), 4, {{4}, {3}}, 2, 2, true).error == errc::ok);  // the row that is scored
    CHECK(best(of({1, 2, 3, 4}), 4, {{3}}, 2, 2, true).error == errc::bad_shape);
    // What one head protects, all keep.
    std::vector<range> const one = {{2, 3}};
    CHECK(best(of({9, 0, 0, 0, 9, 0, 0, 0}, 2), 4, {{4}, {4, {.guarded = one}}}, 2, 2, true).kept == tokens_list{2, 3});
    CHECK(best(of({9, 0, 0, 0, 9, 0, 0, 0}, 2), 4, {{4}, {4, {.guarded = one}}}, 2, 1, true).kept == tokens_list{0, 2});
}

TEST_CASE("chunks agree with sorting", "[select][chunks]") {
    for (unsigned seed = 0; seed < 60; ++seed) {
        auto const random = uniform(4, seed, 0, 1);
        index const n = 1 + static_cast<index>(random[0] * 60), chunk = 1 + static_cast<index>(random[1] * 9);
        index const leading = static_cast<index>(random[3] * 4) % (n + 1);
        index const keep =
            std::clamp<index>(static_cast<index>(random[2] * static_cast<float>(n)), std::max<index>(leading, 1), n);
        auto const row = uniform(n, seed + 50);
        CAPTURE(seed, n, chunk, keep, leading);
        std::vector<std::pair<double, index>> order;
        for (index begin = 0; begin < n; begin += chunk) {
            index const end = std::min(begin + chunk, n);
            double sum = 0;
            for (index t = begin; t < end; ++t) sum += static_cast<double>(row[static_cast<std::size_t>(t)]);
            order.emplace_back((begin < leading ? 1e6 : 0) + sum / static_cast<double>(end - begin), begin);
        }
        std::sort(order.rbegin(), order.rend());
        tokens_list want(static_cast<std::size_t>(leading));
        std::iota(want.begin(), want.end(), 0);
        for (auto const& [score, begin] : order) {
            tokens_list more;
            for (index t = std::max(begin, leading); t < std::min(begin + chunk, n); ++t)
                more.push_back(static_cast<token>(t));
            std::sort(more.begin(), more.end(), [&](token a, token b) {
                return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
            });
            for (token const t : more)
                if (std::ssize(want) < keep) want.push_back(t);
        }
        std::sort(want.begin(), want.end());
        CHECK(best(of(row), n, {{n, {.leading = leading}}}, keep, chunk, true).kept == want);
    }
}

TEST_CASE("every chunk keeps its own", "[select][chunks]") {
    std::vector<float> const values = {1, 3, 2, 9, 8, 7, 0, 1, 5, 5, 4, 3, 2, 1, 0, 1};
    auto const half = [](index tokens, index) { return std::max<index>(tokens / 2, 1); };
    auto const run = [&](std::vector<select::row> const& rows, index chunk, index workers, std::size_t room = 99) {
        arena memory;
        std::vector<plan> items(rows.size());
        tokens_list kept(room);
        errc const error =
            select::per_chunk(of(values, 2), 8, rows, chunk, half, items, kept, memory, threads{workers});
        CHECK(memory.used() == 0);
        std::vector<tokens_list> all;
        for (plan const& p : items) all.push_back(list(p.sources));
        return std::pair{error, all};
    };
    using lists = std::vector<tokens_list>;
    for (index const workers : {1, 2}) {
        CHECK(run({{8}, {8}}, 3, workers).second == lists{{1, 3, 7}, {0, 3, 7}});
        CHECK(run({{8}, {8}}, 8, workers).second == lists{{1, 3, 4, 5}, {0, 1, 2, 3}});
        CHECK(run({{8}, {8}}, 100, workers).second == lists{{1, 3, 4, 5}, {0, 1, 2, 3}});
        CHECK(run({{8}, {8, {.trailing = 1}}}, 4, workers).second == lists{{1, 3, 4, 5}, {0, 1, 4, 7}});
        CHECK(run({{8}, {5}}, 3, workers).second == lists{{1, 3, 7}, {0, 3}});
        CHECK(run({{8, {.leading = 1}}, {8, {.trailing = 1}}}, 3, workers).second == lists{{0, 3, 7}, {0, 3, 7}});
    }
    std::vector<range> const guarded = {{2, 3}, {5, 6}};
    CHECK(run({{8, {.guarded = guarded}}, {8}}, 3, 1).second == lists{{2, 5, 7}, {0, 3, 7}});
    CHECK(run({{8, {.guarded = guarded}}, {8}}, 4, 1).second == lists{{2, 3, 4, 5}, {0, 1, 4, 5}});
    CHECK(run({{8, {.leading = 2}}, {8}}, 3, 1).first == errc::bad_budget);
    CHECK(run({{8}, {8}}, 3, 1, 5).first == errc::bad_budget);
}

TEST_CASE("what is not cut into chunks stays", "[select][chunks]") {
    std::vector<float> const values = {1, 3, 2, 9, 8, 7, 0, 1, 5, 5, 4, 3, 2, 1, 0, 1};
    auto const cut = [](index h, index tokens) { return h == 0 ? range{1, 7} : range{tokens, tokens}; };
    auto const run = [&](std::span<range const> guarded, index workers) {
        arena memory;
        std::vector<plan> items(2);
        tokens_list kept(16);
        std::vector<select::row> const rows = {{8, {.guarded = guarded}}, {5}};
        auto const one_or_protected = [](index, index fixed) { return std::max<index>(fixed, 1); };
        REQUIRE(select::per_chunk(of(values, 2), 8, rows, 3, one_or_protected, items, kept, memory, threads{workers},
                                  cut) == errc::ok);
        CHECK(list(items[1].sources) == tokens_list{0, 1, 2, 3, 4});
        return list(items[0].sources);
    };
    std::vector<range> const guarded = {{0, 3}, {6, 8}};
    for (index const workers : {1, 2}) {
        CHECK(run({}, workers) == tokens_list{0, 3, 4, 7});
        CHECK(run(guarded, workers) == tokens_list{0, 1, 2, 6, 7});
    }
}

TEST_CASE("the last tokens of each row have no score and stay, in whatever chunks", "[select][chunks]") {
    // Three of each row: 5, 6 and 7 of the first, 3, 4 and 5 of the second.
    std::vector<float> const values = {1, 3, 2, 9, 8, 7, 0, 5, 5, 4};
    arena memory;
    std::vector<plan> items(2);
    tokens_list kept(14);
    auto const run = [&](index chunk, auto const& keep) {
        std::vector<select::row> const rows = {{8}, {6}};
        REQUIRE(select::per_chunk(of(values, 2), 8, rows, chunk, keep, items, kept, memory) == errc::ok);
        return std::vector<tokens_list>{list(items[0].sources), list(items[1].sources)};
    };
    using lists = std::vector<tokens_list>;
    auto const one_or_protected = [](index, index fixed) { return std::max<index>(fixed, 1); };
    CHECK(run(2, one_or_protected) == lists{{1, 3, 5, 6, 7}, {0, 3, 4, 5}});
    auto const more_than_there_are = [](index, index) { return index{99}; };
    CHECK(run(3, more_than_there_are) == lists{{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5}});
}
}  // namespace terse::test
