#include <terse/select/two_stage.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
scores of(std::vector<float> const& values, index rows) {
    index const scored = std::ssize(values) / rows;
    return {values, rows, scored, scored};
}

struct chosen {
    errc error = errc::ok;
    std::vector<tokens_list> kept;
};

/// `by_first` of those that are free by the first score.
chosen choose(scores const& first, scores const& second, index tokens, std::vector<select::row> const& rows,
              index by_first, std::size_t room = 99) {
    arena memory;
    std::vector<plan> items(rows.size());
    tokens_list kept(room);
    auto const count = [by_first](index, index free) {
        CHECK(free >= 0);
        return std::min(by_first, free);
    };
    errc const error = select::two_stage(first, second, tokens, rows, count, items, kept, memory);
    CHECK(memory.used() == 0);
    if (error != errc::ok) return {error, {}};
    chosen c;
    for (plan const& p : items) c.kept.push_back(list(p.sources));
    return c;
}
}  // namespace

TEST_CASE("the highest by one score, then of the others the highest by another", "[select][two-stage]") {
    using lists = std::vector<tokens_list>;
    std::vector<float> const x = {5, 4, 1, 2, 3}, y = {0, 0, 9, 0, 7};
    CHECK(choose(of(x, 1), of(y, 1), 5, {{5, {.keep = 3}}}, 2).kept == lists{{0, 1, 2}});
    CHECK(choose(of(x, 1), of(y, 1), 5, {{5, {.keep = 3}}}, 1).kept == lists{{0, 2, 4}});
    CHECK(choose(of(x, 1), of(y, 1), 5, {{5, {.keep = 3, .trailing = 1}}}, 1).kept == lists{{0, 2, 4}});
    // The last tokens that the first score leaves out stay; the second may have more.
    CHECK(choose(of({5, 4, 1, 2}, 1), of(y, 1), 5, {{5, {.keep = 2}}}, 0).kept == lists{{2, 4}});
    // Rows of their own lengths and counts, whatever stands behind them.
    CHECK(choose(of({1, 2, 3, 3, 1, 9}, 2), of({1, 9, 2, 1, 2, 99}, 2), 3, {{3, {.keep = 2}}, {2, {.keep = 1}}}, 0)
              .kept == lists{{1, 2}, {1}});
}

TEST_CASE("two stages say what does not fit", "[select][two-stage]") {
    std::vector<float> const x = {5, 4, 1, 2, 3, 1};
    std::vector<select::row> const rows = {{3, {.keep = 2}}, {3, {.keep = 2}}};
    CHECK(choose(of(x, 2), of({1, 2, 3}, 1), 3, rows, 1).error == errc::bad_shape);
    CHECK(choose(of(x, 2), of({1, 2, 3, 4}, 2), 3, rows, 1).error == errc::bad_shape);
    CHECK(choose(of(x, 2), of(x, 2), 3, {{3, {.keep = 2}}, {3, {.keep = 2, .leading = 3}}}, 1).error ==
          errc::bad_budget);
    CHECK(choose(of(x, 2), of(x, 2), 3, {{3, {.keep = 2}}, {2, {.keep = 3}}}, 1).error == errc::bad_budget);
    CHECK(choose(of(x, 2), of(x, 2), 3, rows, 1, 3).error == errc::bad_budget);
    CHECK(choose(of(x, 2), of(x, 2), 3, rows, 1, 4).error == errc::ok);
}
}  // namespace terse::test
