#include <numeric>

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
