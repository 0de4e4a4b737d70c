#include <terse/select/threshold.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
/// As a layer is to selectors: what it guards, and how long its heads are.
struct input {
    std::vector<float> values;
    index rows = 1, width = 0;
    std::vector<index> held{};
    std::vector<range> guarded{};

    [[nodiscard]] index length(index h) const { return held.empty() ? width : held[static_cast<std::size_t>(h)]; }
};

auto const given = [](input const& in, arena&, serial const&) noexcept -> result<scores> {
    auto const count = std::ssize(in.values) / in.rows;
    return scores{in.values, in.rows, count, count};
};

result<plans> keep(input const& in, float least, select::quota q, arena& memory) {
    return select::at_least(least, given, in, std::max<index>(std::ssize(in.held), in.rows), in.width, q, memory);
}
}  // namespace

TEST_CASE("what is not below the threshold stays, and what is protected", "[select][threshold]") {
    struct row {
        char const* name;
        input in;
        float least;
        select::quota q;
        errc error;
        std::vector<tokens_list> kept;
    };
    std::vector<float> const x = {3, -1, 2, 2.5F, not_a_number, -infinity, 2, 0};
    auto const r = GENERATE_COPY(values<row>({
        {"equal stays", {x, 1, 8}, 2, {}, errc::ok, {{0, 2, 3, 6}}},
        {"none", {x, 1, 8}, 4, {}, errc::ok, {{}}},
        {"all but NaN", {x, 1, 8}, -infinity, {}, errc::ok, {{0, 1, 2, 3, 5, 6, 7}}},
        {"-0 is 0", {x, 1, 8}, -0.0F, {}, errc::ok, {{0, 2, 3, 6, 7}}},
        {"sinks and recent", {x, 1, 8}, 9, {.leading = 2, .trailing = 1}, errc::ok, {{0, 1, 7}}},
        {"they meet", {x, 1, 8}, 9, {.leading = 5, .trailing = 4}, errc::ok, {{0, 1, 2, 3, 4, 5, 6, 7}}},
        {"more than there are", {x, 1, 8}, 9, {.trailing = 99}, errc::ok, {{0, 1, 2, 3, 4, 5, 6, 7}}},
        {"guarded", {x, 1, 8, {}, {{1, 2}, {4, 6}}}, 2.5F, {}, errc::ok, {{0, 1, 3, 4, 5}}},
        {"guarded within protected",
         {x, 1, 8, {}, {{0, 2}, {5, 9}}},
         9,
         {.leading = 3, .trailing = 2},
         errc::ok,
         {{0, 1, 2, 5, 6, 7}}},
        {"unscored stay", {{1, 5, 1}, 1, 5}, 3, {}, errc::ok, {{1, 3, 4}}},
        {"rows of their own counts", {{1, 5, 3, 2, 1, 1}, 2, 3}, 3, {}, errc::ok, {{1, 2}, {}}},
        {"rows of their own lengths",
         {{1, 5, 3, 2, 9, 7, 9, 9, 9}, 3, 3, {3, 2, 0}},
         3,
         {.trailing = 1},
         errc::ok,
         {{1, 2}, {1}, {}}},
        {"unscored stay in rows of their own lengths",
         {{9, 9, 9, 2, 9, 0}, 2, 4, {4, 3}},
         6,
         {},
         errc::ok,
         {{0, 1, 2, 3}, {1, 2}}},
        {"one row for all", {{1, 5}, 1, 2, {2, 2}}, 3, {}, errc::ok, {{1}}},
        {"nothing", {{}, 1, 0}, 3, {.leading = 2}, errc::ok, {{}}},
        {"NaN threshold", {x, 1, 8}, not_a_number, {}, errc::bad_setting, {}},
        {"negative sinks", {x, 1, 8}, 1, {.leading = -1}, errc::bad_budget, {}},
        {"negative recent", {x, 1, 8}, 1, {.trailing = -1}, errc::bad_budget, {}},
        {"ranges that overlap", {x, 1, 8, {}, {{1, 3}, {2, 4}}}, 1, {}, errc::bad_shape, {}},
        {"more scores than tokens", {x, 1, 7}, 1, {}, errc::bad_shape, {}},
        {"one row for lengths that differ", {{1, 5}, 1, 2, {2, 1}}, 3, {}, errc::bad_shape, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const got = keep(r.in, r.least, r.q, memory);
    REQUIRE(got.error() == r.error);
    if (!got) {
        CHECK(memory.used() == 0);
        return;
    }
    REQUIRE(got->items.size() == r.kept.size());
    for (std::size_t h = 0; h < r.kept.size(); ++h) {
        CHECK(list(got->items[h].sources) == r.kept[h]);
        CHECK(list(got->items[h].anchor) == r.kept[h]);
        CHECK(is_valid(got->items[h]));
        CHECK(got->items[h].tokens == (got->items.size() > 1 ? r.in.length(static_cast<index>(h)) : r.in.width));
    }
}

TEST_CASE("a threshold that fails gives its memory back", "[select][threshold]") {
    input const in{uniform(60, 1), 3, 20};
    require_exact_peak([&](arena& m) { return keep(in, 0, {.leading = 1}, m); });
    auto const fails = [](input const&, arena& m, serial const&) noexcept -> result<scores> {
        (void)m.take<float>(999);
        return errc::bad_setting;
    };
    arena memory;
    CHECK(select::at_least(0, fails, in, 3, 20, {}, memory).error() == errc::bad_setting);
    CHECK(memory.used() == 0);
    CHECK(select::at_least(0, given, in, 0, 20, {}, memory).error() == errc::bad_shape);
    CHECK(select::at_least(0, given, in, 3, -1, {}, memory).error() == errc::bad_shape);
}
}  // namespace terse::test
