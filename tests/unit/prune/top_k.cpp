#include <terse/prune/top_k.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::prune::top_k;
using terse::test::list;
using terse::test::not_a_number;
using terse::test::tokens_list;

namespace {

struct row_t {
    char const* name;
    top_k<> policy;
    std::vector<float> scores;
    errc error;
    tokens_list kept, owner;
};

// A scorer over tokens: the first channel.
struct first_channel {
    template <class T, terse::executor Run = terse::serial>
    terse::result<terse::scores> operator()(terse::tokens_view<T> x, arena& memory, Run const& = {}) const noexcept {
        auto const values = memory.take<float>(x.tokens);
        if (!terse::taken(values)) return errc::out_of_memory;
        for (terse::index t = 0; t < x.tokens; ++t) values[static_cast<std::size_t>(t)] = static_cast<float>(*x.row(t));
        return terse::scores{values, 1, x.tokens, x.tokens};
    }
};

}  // namespace

TEST_CASE("prune::top_k keeps the highest scores", "[prune][top_k]") {
    auto const r = GENERATE(values<row_t>({
        {"highest", {.keep = 2}, {1, 9, 3, 8}, errc::ok, {1, 3}, {-1, 0, -1, 1}},
        {"class token", {.keep = 2, .leading = 1}, {0, 1, 2, 3}, errc::ok, {0, 3}, {0, -1, -1, 1}},
        {"class token last", {.keep = 2, .trailing = 1}, {3, 4, 2, 0}, errc::ok, {1, 3}, {-1, 0, -1, 1}},
        {"NaN and a tie", {.keep = 2}, {not_a_number, 2, 2, 2}, errc::ok, {1, 2}, {-1, 0, 1, -1}},
        {"all", {.keep = 3}, {not_a_number, 2, 2}, errc::ok, {0, 1, 2}, {0, 1, 2}},
        {"more than all", {.keep = 4}, {1, 2}, errc::ok, {0, 1}, {0, 1}},
        {"of one", {.keep = 1}, {not_a_number}, errc::ok, {0}, {0}},
        {"of none", {.keep = 1}, {}, errc::ok, {}, {}},
        {"none", {.keep = 0}, {1, 2}, errc::bad_budget, {}, {}},
        {"protected above the budget", {.keep = 1, .leading = 2}, {1, 2, 3}, errc::bad_budget, {}, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = r.policy(std::span<float const>{r.scores}, memory);
    REQUIRE(p.error() == r.error);
    if (!p) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list(p->sources) == r.kept);
    CHECK(list(p->owner) == r.owner);
    CHECK(p->kept() == r.policy.count(std::ssize(r.scores)));
    CHECK(p->is_partition());
    CHECK(terse::is_valid(*p));
}

TEST_CASE("prune::top_k takes any scorer", "[prune][top_k]") {
    auto const x = terse::test::random_tokens(40, 3, 5);
    std::vector<float> scores;
    for (terse::index t = 0; t < 40; ++t) scores.push_back(*x.row(t));
    arena memory;
    auto const scored = top_k<first_channel>{.keep = 13}(x.view(), memory);
    auto const by_hand = top_k<>{.keep = 13}(std::span<float const>{scores}, memory);
    REQUIRE(scored);
    REQUIRE(by_hand);
    terse::test::require_same_plan(*scored, *by_hand);
    for (terse::index workers : terse::test::worker_counts) {
        auto const same = top_k<first_channel>{.keep = 13}(x.view(), memory, terse::test::threads{workers});
        REQUIRE(same);
        terse::test::require_same_plan(*same, *scored);
    }
    terse::test::require_exact_peak([&](arena& a) { return top_k<first_channel>{.keep = 13}(x.view(), a); });
}
