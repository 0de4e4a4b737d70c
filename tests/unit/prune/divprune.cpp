#include <numeric>

#include <terse/prune/divprune.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::prune::divprune;
using terse::test::list;
using terse::test::tokens_list;

namespace {
// Nearest distances .006, .006, .139, .005, .007, .005, .007.
std::vector<float> const seven{1, 0, 0.9F, 0.1F, 0.8F, 0.6F, 0, 1, -1, 0.1F, 0.1F, 1, -0.9F, 0.2F};
}  // namespace

TEST_CASE("divprune by hand", "[prune][divprune]") {
    struct row_t {
        char const* name;
        divprune policy;
        terse::index tokens;
        errc error;
        tokens_list kept;
    };
    auto const r = GENERATE(values<row_t>({
        {"in the order picked", {.keep = 4, .pick_order = true}, 7, errc::ok, {2, 4, 3, 0}},
        {"ascending", {.keep = 4}, 7, errc::ok, {0, 2, 3, 4}},
        {"the first pick", {.keep = 1}, 7, errc::ok, {2}},
        {"all", {.keep = 7}, 7, errc::ok, {0, 1, 2, 3, 4, 5, 6}},
        {"more than all", {.keep = 100}, 7, errc::ok, {0, 1, 2, 3, 4, 5, 6}},
        {"all in order", {.keep = 7, .pick_order = true}, 7, errc::ok, {2, 4, 3, 0, 6, 1, 5}},
        {"all of two in order", {.keep = 9, .pick_order = true}, 2, errc::ok, {0, 1}},
        {"of one", {.keep = 1}, 1, errc::ok, {0}},
        {"of one in order", {.keep = 1, .pick_order = true}, 1, errc::ok, {0}},
        {"of none", {.keep = 1}, 0, errc::ok, {}},
        {"of none in order", {.keep = 1, .pick_order = true}, 0, errc::ok, {}},
        {"none", {.keep = 0}, 7, errc::bad_budget, {}},
        {"fewer", {.keep = -3}, 7, errc::bad_budget, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = r.policy(terse::view(seven.data(), r.tokens, 2), memory);
    REQUIRE(p.error() == r.error);
    if (!p) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list(p->sources) == r.kept);
    CHECK(list(p->anchor) == r.kept);
    CHECK(p->kept() == r.policy.count(r.tokens));
    CHECK(p->is_selection());
    CHECK(p->is_partition());
    CHECK(terse::is_valid(*p));
    for (std::size_t i = 0; i < r.kept.size(); ++i) CHECK(p->owner[static_cast<std::size_t>(r.kept[i])] == int(i));
}

TEST_CASE("divprune keeps the same tokens in either order, on any number of threads", "[prune][divprune]") {
    auto const x = terse::test::clustered_tokens(500, 65, 12, 9);
    arena memory;
    auto const sorted = divprune{.keep = 40}(x.view(), memory);
    auto const ordered = divprune{.keep = 40, .pick_order = true}(x.view(), memory);
    REQUIRE(sorted);
    REQUIRE(ordered);
    CHECK(sorted->keeps_order());
    CHECK_FALSE(ordered->keeps_order());
    auto order = list(ordered->sources);
    std::sort(order.begin(), order.end());
    CHECK(order == list(sorted->sources));
    for (terse::index workers : terse::test::worker_counts) {
        auto const same = divprune{.keep = 40}(x.view(), memory, terse::test::threads{workers});
        REQUIRE(same);
        terse::test::require_same_plan(*same, *sorted);
    }
}

TEST_CASE("divprune finds one token of every cluster", "[prune][divprune]") {
    auto const x = terse::test::clustered_tokens(120, 64, 10, 5, 0.01F);
    arena memory;
    auto const p = divprune{.keep = 10}(x.view(), memory);
    REQUIRE(p);
    std::vector<int> found(10);
    for (terse::token t : p->sources) ++found[static_cast<std::size_t>(t % 10)];
    CHECK(found == std::vector<int>(10, 1));
}

TEST_CASE("divprune keeps no token twice, whatever is equal", "[prune][divprune]") {
    auto x = terse::test::random_tokens(30, 17, 2);
    for (terse::index t = 1; t < 30; ++t)
        if (t % 3 != 0) std::copy_n(x.row(t - t % 3), 17, x.row(t));  // ten tokens, each three times
    arena memory;
    auto const p = divprune{.keep = 25}(x.view(), memory);
    REQUIRE(p);
    CHECK(p->kept() == 25);
    CHECK(p->keeps_order());
    std::vector<int> found(10);
    for (terse::token t : p->sources) ++found[static_cast<std::size_t>(t / 3)];
    CHECK(std::all_of(found.begin(), found.end(), [](int f) { return f >= 1; }));
}

TEST_CASE("divprune takes tokens that can be written", "[prune][divprune]") {
    auto x = seven;
    arena memory;
    auto const p = divprune{.keep = 4}(terse::view(x.data(), 7, 2), memory);
    REQUIRE(p);
    CHECK(list(p->sources) == tokens_list{0, 2, 3, 4});
    CHECK(x == seven);
}

TEST_CASE("divprune needs its peak of memory and no less", "[prune][divprune]") {
    auto const x = terse::test::random_tokens(50, 10, 6);
    terse::test::require_exact_peak([&](arena& a) { return divprune{.keep = 20}(x.view(), a); });
    terse::test::require_exact_peak([&](arena& a) { return divprune{.keep = 50}(x.view(), a); });
    terse::test::require_exact_peak(
        [&](arena& a) { return divprune{.keep = 20}(x.view(), a, terse::test::threads{3}); });
}
