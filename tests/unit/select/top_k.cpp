#include <numeric>
#include <random>

#include <terse/select/top_k.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::scores;
using terse::token;
using terse::select::quota;
using terse::test::list;
using terse::test::not_a_number;
using terse::test::tokens_list;

namespace {

scores of(std::vector<float> const& values, terse::index heads = 1) {
    auto const tokens = std::ssize(values) / heads;
    return {values, heads, tokens, tokens};
}

// A whole sort, where selection picks.
tokens_list reference(std::span<float const> row, quota q, terse::index tokens) {
    q.trailing = std::max(q.trailing, tokens - std::ssize(row));
    tokens_list order(static_cast<std::size_t>(tokens));
    std::iota(order.begin(), order.end(), 0);
    auto const first = order.begin() + q.leading, last = order.end() - q.trailing;
    std::stable_sort(first, last, [&](token a, token b) {
        float const x = row[static_cast<std::size_t>(a)], y = row[static_cast<std::size_t>(b)];
        return std::isnan(y) ? !std::isnan(x) : x > y;
    });
    order.erase(first + (q.keep - q.leading - q.trailing), last);
    std::sort(order.begin(), order.end());
    return order;
}

auto const given = terse::score::given{};

struct row_t {
    char const* name;
    quota q;
    std::vector<float> scores;
    errc error;
    tokens_list kept;
};

}  // namespace

TEST_CASE("a quota protects no more than it keeps", "[select][quota]") {
    auto const huge = std::numeric_limits<terse::index>::max();
    CHECK(quota{.keep = 1}.check() == errc::ok);
    CHECK(quota{.keep = 3, .leading = 1, .trailing = 2}.check() == errc::ok);
    CHECK(quota{.keep = huge, .leading = huge}.check() == errc::ok);
    CHECK(quota{.keep = 0}.check() == errc::bad_budget);
    CHECK(quota{.keep = -1}.check() == errc::bad_budget);
    CHECK(quota{.keep = 3, .leading = -1}.check() == errc::bad_budget);
    CHECK(quota{.keep = 3, .trailing = -1}.check() == errc::bad_budget);
    CHECK(quota{.keep = 3, .leading = 2, .trailing = 2}.check() == errc::bad_budget);
    CHECK(quota{.keep = 3, .leading = huge, .trailing = huge}.check() == errc::bad_budget);

    auto const fitted = [](quota q) { return std::pair{q.fitted().leading, q.fitted().trailing}; };
    CHECK(fitted({9, 4, 5}) == std::pair<terse::index, terse::index>{4, 5});
    CHECK(fitted({6, 4, 5}) == std::pair<terse::index, terse::index>{4, 2});
    CHECK(fitted({3, 4, 5}) == std::pair<terse::index, terse::index>{2, 1});
    CHECK(fitted({1, 4, 5}) == std::pair<terse::index, terse::index>{0, 1});
    CHECK(fitted({6, 2, 1}) == std::pair<terse::index, terse::index>{2, 1});
}

TEST_CASE("the highest scores, and what is protected", "[select][top_k]") {
    auto const r = GENERATE(values<row_t>({
        {"the highest, by position", {.keep = 2}, {1, 9, 3, 8}, errc::ok, {1, 3}},
        {"ties: the earlier", {.keep = 2}, {5, 7, 5, 5}, errc::ok, {0, 1}},
        {"all equal", {.keep = 3}, {0, 0, 0, 0, 0}, errc::ok, {0, 1, 2}},
        {"the two zeros are equal", {.keep = 1}, {-0.0F, 0.0F}, errc::ok, {0}},
        {"first and last", {.keep = 3, .leading = 1, .trailing = 1}, {0, 5, 9, 7, 0}, errc::ok, {0, 2, 4}},
        {"nothing but the protected", {.keep = 2, .leading = 1, .trailing = 1}, {1, 9, 1}, errc::ok, {0, 2}},
        {"NaN goes first", {.keep = 2}, {not_a_number, -9, 1, not_a_number}, errc::ok, {1, 2}},
        {"NaN where nothing else is left", {.keep = 2}, {not_a_number, 1, not_a_number}, errc::ok, {0, 1}},
        {"infinities", {.keep = 2}, {-terse::test::infinity, 0, terse::test::infinity}, errc::ok, {1, 2}},
        {"negative", {.keep = 1}, {-3, -1, -2}, errc::ok, {1}},
        {"keep all", {.keep = 3}, {1, 2, 3}, errc::ok, {0, 1, 2}},
        {"more than there are", {.keep = 9, .leading = 4}, {1, 2, 3}, errc::ok, {0, 1, 2}},
        {"no tokens", {.keep = 1}, {}, errc::ok, {}},
        {"keep none", {.keep = 0}, {1, 2, 3}, errc::bad_budget, {}},
        {"protected above the budget", {.keep = 1, .leading = 1, .trailing = 1}, {1, 2, 3}, errc::bad_budget, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = terse::select::highest(given, of(r.scores), 1, std::ssize(r.scores), r.q, memory);
    REQUIRE(p.error() == r.error);
    if (!p) {
        CHECK(memory.used() == 0);
        return;
    }
    REQUIRE(p->shared());
    CHECK(list((*p)[0].sources) == r.kept);
    CHECK((*p)[0].is_selection());
    CHECK((*p)[0].keeps_order());
    CHECK((*p)[0].tokens == std::ssize(r.scores));
}

TEST_CASE("rows keep no more than they have, and no more than there is room for", "[select][top_k]") {
    std::vector<float> const x = {5, 4, 1, 2, 3, 1};
    auto const error = [&](terse::index keep, std::size_t room) {
        std::vector<terse::select::row> const rows = {{3, {.keep = 2}}, {2, {.keep = keep}}};
        std::vector<terse::plan> items(2);
        tokens_list kept(room);
        arena memory;
        return terse::select::highest_of_rows({x, 2, 3, 3}, 3, rows, items, kept, memory);
    };
    CHECK(error(3, 9) == errc::bad_budget);
    CHECK(error(2, 3) == errc::bad_budget);
    CHECK(error(2, 4) == errc::ok);
}

TEST_CASE("tokens without a score are kept", "[select][top_k]") {
    std::vector<float> const row{1, 3, 2};
    arena memory;
    auto const p = terse::select::highest(given, of(row), 1, 5, {.keep = 3, .trailing = 1}, memory);
    REQUIRE(p);
    CHECK(list((*p)[0].sources) == tokens_list{1, 3, 4});
    CHECK(terse::select::highest(given, of(row), 1, 5, {.keep = 1}, memory).error() == errc::bad_budget);
    CHECK(terse::select::highest(given, of(row), 1, 2, {.keep = 1}, memory).error() == errc::bad_shape);
}

TEST_CASE("a plan for each row of scores", "[select][top_k]") {
    std::vector<float> const two{1, 2, 3, 3, 2, 1};
    arena memory;
    auto const p = terse::select::highest(given, of(two, 2), 2, 3, {.keep = 1}, memory);
    REQUIRE(p);
    REQUIRE(p->items.size() == 2);
    CHECK(list((*p)[0].sources) == tokens_list{2});
    CHECK(list((*p)[1].sources) == tokens_list{0});

    // The scorer may return fewer rows than announced, not more.
    CHECK(terse::select::highest(given, of(two, 2), 4, 3, {.keep = 1}, memory)->items.size() == 2);
    CHECK(terse::select::highest(given, of(two, 2), 1, 3, {.keep = 1}, memory).error() == errc::bad_shape);
    CHECK(terse::select::highest(given, of(two, 2), 0, 3, {.keep = 1}, memory).error() == errc::bad_shape);
    CHECK(terse::select::highest(given, of(two, 2), 2, -1, {.keep = 1}, memory).error() == errc::bad_shape);

    scores const padded{std::span{two}, 2, 2, 4};  // rows {1, 2} and {2, 1}
    auto const strided = terse::select::highest(given, padded, 2, 2, {.keep = 1}, memory);
    REQUIRE(strided);
    CHECK(list((*strided)[0].sources) == tokens_list{1});
    CHECK(list((*strided)[1].sources) == tokens_list{0});
}

TEST_CASE("the scorer is asked only if something must go, and its errors are passed on", "[select][top_k]") {
    auto const failing = [](int, arena& a, terse::serial const&) noexcept -> terse::result<scores> {
        (void)a.take<float>(1000);
        return errc::bad_setting;
    };
    arena memory;
    CHECK(terse::select::highest(failing, 0, 1, 4, {.keep = 4}, memory)->shared());
    memory.rewind();
    CHECK(terse::select::highest(failing, 0, 1, 4, {.keep = 3}, memory).error() == errc::bad_setting);
    CHECK(memory.used() == 0);
}

TEST_CASE("selection agrees with sorting, on any number of threads", "[select][top_k]") {
    terse::index const heads = 5;
    auto const tokens = GENERATE(terse::index{2}, terse::index{31}, terse::index{256}, terse::index{1000});
    auto values = terse::test::uniform(heads * tokens, 11);
    for (std::size_t i = 0; i < values.size(); i += 3) values[i] = std::round(values[i] * 4);  // ties
    for (std::size_t i = 1; i < values.size(); i += 17) values[i] = not_a_number;

    for (terse::index keep : {terse::index{1}, tokens / 3, tokens - 1})
        for (terse::index leading : {0, 1, 4})
            for (terse::index trailing : {0, 3}) {
                quota const q{keep, leading, trailing};
                if (q.check() != errc::ok) continue;
                CAPTURE(tokens, keep, leading, trailing);
                arena memory;
                auto const p = terse::select::highest(given, of(values, heads), heads, tokens, q, memory);
                REQUIRE(p);
                for (terse::index h = 0; h < heads; ++h)
                    REQUIRE(list((*p)[h].sources) == reference(of(values, heads).row(h), q, tokens));
                for (terse::index workers : terse::test::worker_counts) {
                    auto const same = terse::select::highest(given, of(values, heads), heads, tokens, q, memory,
                                                             terse::test::threads{workers});
                    REQUIRE(same);
                    for (terse::index h = 0; h < heads; ++h) terse::test::require_same_plan((*same)[h], (*p)[h]);
                }
            }
}

TEST_CASE("selection needs its peak of memory and no less", "[select][top_k]") {
    auto const values = terse::test::uniform(300, 12);
    terse::test::require_exact_peak(
        [&](arena& a) { return terse::select::highest(given, of(values, 3), 3, 100, {.keep = 40}, a); });
}

namespace {

/// Scores of heads that differ in length, and what must stay in all of them.
struct ragged {
    std::vector<float> values;
    std::vector<terse::index> lengths;
    std::vector<terse::range> guarded{};

    [[nodiscard]] terse::index tokens() const { return *std::max_element(lengths.begin(), lengths.end()); }
};

/// What `highest` asks of an input.
struct ragged_input {
    ragged const* of;
    std::span<terse::range const> guarded;
    [[nodiscard]] terse::index length(terse::index h) const noexcept {
        return of->lengths[static_cast<std::size_t>(h)];
    }
};

terse::result<terse::plans> choose(ragged const& r, quota const& q, arena& memory,
                                   terse::test::threads const& run = {1}) {
    auto const rows = std::ssize(r.lengths), tokens = r.tokens();
    auto const score = [&](ragged_input const&, arena&, auto const&) noexcept -> terse::result<scores> {
        return scores{r.values, rows, tokens, tokens};
    };
    return terse::select::highest(score, ragged_input{&r, r.guarded}, rows, tokens, q, memory, run);
}

}  // namespace

TEST_CASE("guarded tokens stay, and count", "[select][top_k][guarded]") {
    struct row {
        char const* name;
        std::vector<terse::range> guarded;
        quota q;
        errc error;
        tokens_list kept;
    };
    // The highest are 7, 5, 1, 3.
    std::vector<float> const scored{0, 7, 1, 6, 2, 8, 3, 9};
    auto const r = GENERATE(values<row>({
        {"a range in the middle", {{2, 4}}, {.keep = 4}, errc::ok, {2, 3, 5, 7}},
        {"at both ends", {{0, 1}, {6, 8}}, {.keep = 4}, errc::ok, {0, 5, 6, 7}},
        {"over first and last tokens", {{0, 2}, {6, 8}}, {5, 1, 1}, errc::ok, {0, 1, 5, 6, 7}},
        {"two that touch", {{2, 3}, {3, 5}}, {.keep = 4}, errc::ok, {2, 3, 4, 7}},
        {"an empty one", {{4, 4}}, {.keep = 2}, errc::ok, {5, 7}},
        {"nothing else fits", {{2, 5}}, {.keep = 3}, errc::ok, {2, 3, 4}},
        {"past the end", {{6, 20}}, {.keep = 3}, errc::ok, {5, 6, 7}},
        {"all of them", {{0, 8}}, {.keep = 8}, errc::ok, {0, 1, 2, 3, 4, 5, 6, 7}},
        {"more than the budget", {{2, 5}}, {.keep = 2}, errc::bad_budget, {}},
        {"more than the budget with the first", {{2, 5}}, {.keep = 3, .leading = 1}, errc::bad_budget, {}},
        {"backwards", {{5, 2}}, {.keep = 4}, errc::bad_shape, {}},
        {"out of order", {{4, 5}, {1, 2}}, {.keep = 4}, errc::bad_shape, {}},
        {"overlapping", {{1, 3}, {2, 4}}, {.keep = 4}, errc::bad_shape, {}},
        {"negative", {{-1, 3}}, {.keep = 4}, errc::bad_shape, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = choose({scored, {8}, r.guarded}, r.q, memory);
    REQUIRE(p.error() == r.error);
    if (p) CHECK(list((*p)[0].sources) == r.kept);
}

TEST_CASE("rows of different length keep their own highest", "[select][top_k][ragged]") {
    // The second row has two tokens; what stands behind them is not its own.
    ragged const r{{5, 1, 4, 2, /**/ 1, 2, 9, 9, /**/ 1, 2, 3, 9}, {4, 2, 3}};
    arena memory;
    auto const p = choose(r, {.keep = 2}, memory).value();
    CHECK(list(p[0].sources) == tokens_list{0, 2});
    CHECK(list(p[1].sources) == tokens_list{0, 1});
    CHECK(list(p[2].sources) == tokens_list{1, 2});
    CHECK(p[1].tokens == 2);
    CHECK(p[2].tokens == 3);
    auto const last = choose(r, {.keep = 2, .trailing = 1}, memory).value();
    CHECK(list(last[0].sources) == tokens_list{0, 3});
    CHECK(list(last[2].sources) == tokens_list{1, 2});
    auto const all = choose(r, {.keep = 4}, memory).value();
    CHECK(list(all[0].sources) == tokens_list{0, 1, 2, 3});
    CHECK(list(all[2].sources) == tokens_list{0, 1, 2});

    // One row of scores cannot stand for heads of different lengths.
    auto const one = [&](ragged_input const&, arena&, auto const&) noexcept -> terse::result<scores> {
        return scores{r.values, 1, 4, 4};
    };
    CHECK(terse::select::highest(one, ragged_input{&r, {}}, 3, 4, {.keep = 2}, memory).error() == errc::bad_shape);
}

TEST_CASE("guarded and ragged selections agree with sorting, on any number of threads", "[select][top_k][ragged]") {
    std::mt19937 random{7};
    auto const below = [&](terse::index n) { return static_cast<terse::index>(random() % static_cast<unsigned>(n)); };
    for (int trial = 0; trial < 300; ++trial) {
        ragged r;
        terse::index const rows = 1 + below(4), most = 1 + below(60);
        for (terse::index h = 0; h < rows; ++h) r.lengths.push_back(1 + below(most));
        terse::index const tokens = r.tokens();
        r.values = terse::test::uniform(rows * tokens, static_cast<unsigned>(trial));
        for (float& x : r.values) x = std::round(x * 8);  // ties
        for (terse::index at = below(9); at < tokens; at += 1 + below(20))
            r.guarded.push_back({at, std::min(at + below(3), tokens)}), at = r.guarded.back().end;
        quota const q{1 + below(tokens), below(3), below(3), r.guarded};
        arena memory;
        auto const p = choose(r, q, memory);
        bool possible = q.check() == errc::ok;
        for (auto const n : r.lengths) possible = possible && q.fixed(n) <= std::min(q.keep, n);
        CAPTURE(trial, tokens, q.keep, q.leading, q.trailing);
        bool const all = q.keep >= tokens && *std::min_element(r.lengths.begin(), r.lengths.end()) == tokens;
        REQUIRE(static_cast<bool>(p) == (possible || (all && q.check() == errc::ok)));
        if (!p) continue;
        for (terse::index h = 0; h < rows; ++h) {
            auto const n = r.lengths[static_cast<std::size_t>(h)];
            auto const score = [&](token t) { return r.values[static_cast<std::size_t>(h * tokens + t)]; };
            auto const stays = [&](token t) {
                return t < q.leading || t >= n - q.trailing ||
                       std::any_of(r.guarded.begin(), r.guarded.end(),
                                   [&](terse::range g) { return g.begin <= t && t < g.end; });
            };
            tokens_list order(static_cast<std::size_t>(n));
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](token a, token b) {
                return stays(a) != stays(b) ? stays(a) : !stays(a) && score(a) > score(b);
            });
            order.resize(static_cast<std::size_t>(std::min(n, q.keep)));
            std::sort(order.begin(), order.end());
            REQUIRE(list((*p)[h].sources) == order);
        }
        for (terse::index const workers : terse::test::worker_counts) {
            auto const same = choose(r, q, memory, {workers});
            for (terse::index h = 0; h < rows; ++h) terse::test::require_same_plan((*same)[h], (*p)[h]);
        }
    }
    ragged const r{terse::test::uniform(90, 3), {30, 20, 25}, {{3, 6}}};
    terse::test::require_exact_peak([&](arena& a) { return choose(r, {.keep = 9}, a); });
}
