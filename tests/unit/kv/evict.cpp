#include <terse/kv/evict.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/score/norm.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// Keys of one channel: a slot's norm is its absolute value, and the shortest stay.
layer<float> one_head(std::vector<float> const& keys) {
    return {.keys = head_major(keys.data(), 1, std::ssize(keys), 1)};
}

template <class Budget = budget::fixed>
using by_norm = kv::evict<score::norm, Budget>;
}  // namespace

TEST_CASE("evict keeps the best slots between sinks and recent ones", "[kv][evict]") {
    struct row {
        char const* name;
        by_norm<> policy;
        std::vector<float> keys;
        errc error;
        tokens_list kept;
    };
    auto const r = GENERATE(values<row>({
        {"best, in their order", {.budget = {2}}, {3, -1, 2, 4}, errc::ok, {1, 2}},
        {"of equals the earlier", {.budget = {2}}, {1, 1, 1}, errc::ok, {0, 1}},
        {"sinks and recent stay", {.budget = {3}, .sinks = 1, .recent = 1}, {9, 2, 1, 9}, errc::ok, {0, 2, 3}},
        {"all protected", {.budget = {2}, .sinks = 1, .recent = 1}, {9, 1, 9}, errc::ok, {0, 2}},
        {"keep all", {.budget = {3}}, {1, 2, 3}, errc::ok, {0, 1, 2}},
        {"more than there are", {.budget = {4}}, {1, 2, 3}, errc::ok, {0, 1, 2}},
        {"one slot", {.budget = {1}}, {7}, errc::ok, {0}},
        {"no slots", {.budget = {1}}, {}, errc::ok, {}},
        {"NaN goes first", {.budget = {2}}, {not_a_number, 5, 1}, errc::ok, {1, 2}},
        {"infinity is a long key", {.budget = {2}}, {infinity, 5, 1}, errc::ok, {1, 2}},
        {"zero keys stay", {.budget = {2}}, {1, 0, 2, 0}, errc::ok, {1, 3}},
        {"budget of none", {.budget = {0}}, {1, 2, 3}, errc::bad_budget, {}},
        {"negative budget", {.budget = {-1}}, {1, 2, 3}, errc::bad_budget, {}},
        {"protected above budget", {.budget = {1}, .sinks = 1, .recent = 1}, {1, 2, 3}, errc::bad_budget, {}},
        {"as many sinks as fit", {.budget = {2}, .sinks = 4, .recent = 4, .fit = true}, {1, 2, 3}, errc::ok, {0, 2}},
        {"a fit of one is the newest", {.budget = {1}, .sinks = 1, .recent = 1, .fit = true}, {1, 2, 3}, errc::ok, {2}},
        {"a fit of sums that would overflow",
         {.budget = {2}, .sinks = 1, .recent = std::numeric_limits<index>::max(), .fit = true},
         {1, 2, 3},
         errc::ok,
         {0, 2}},
        {"negative sinks", {.budget = {2}, .sinks = -1}, {1, 2, 3}, errc::bad_budget, {}},
        {"negative recent", {.budget = {2}, .recent = -1}, {1, 2, 3}, errc::bad_budget, {}},
        {"sums that would overflow",
         {.budget = {2}, .sinks = 1, .recent = std::numeric_limits<index>::max()},
         {1, 2, 3},
         errc::bad_budget,
         {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const plans = r.policy(one_head(r.keys), memory);
    REQUIRE(plans.error() == r.error);
    if (!plans) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list((*plans)[0].sources) == r.kept);
    CHECK(list((*plans)[0].anchor) == r.kept);
    CHECK(is_valid((*plans)[0]));
}

TEST_CASE("evict takes any budget", "[kv][evict]") {
    std::vector<float> const keys = {5, 4, 3, 2, 1, 6};
    arena memory;
    auto const kept = [&](double ratio) {
        return by_norm<budget::ratio>{.budget = {.keep = ratio}}(one_head(keys), memory);
    };
    CHECK(list(kept(0.5).value()[0].sources) == tokens_list{2, 3, 4});
    CHECK(list(kept(0.01).value()[0].sources) == tokens_list{4});
    CHECK(kept(0).error() == errc::bad_budget);
    CHECK(kept(1.5).error() == errc::bad_budget);
    CHECK(kept(static_cast<double>(not_a_number)).error() == errc::bad_budget);
}

TEST_CASE("a scorer's window is kept, and must fit the budget", "[kv][evict]") {
    // Scores the first three slots only.
    auto const scorer = [](layer<float> const&, arena& memory, serial const&) noexcept -> result<scores> {
        auto const values = memory.take<float>(3);
        values[0] = 1, values[1] = 3, values[2] = 2;
        return scores{values, 1, 3, 3};
    };
    std::vector<float> const keys(5);
    arena memory;
    auto const kept = [&](index keep) { return kv::evict<decltype(scorer)>{scorer, {keep}}(one_head(keys), memory); };
    CHECK(list(kept(3).value()[0].sources) == tokens_list{1, 3, 4});
    CHECK(list(kept(2).value()[0].sources) == tokens_list{3, 4});
    CHECK(kept(1).error() == errc::bad_budget);

    // What it leaves out gives way as recent slots do, where the policy fits what is protected to the budget.
    auto const fitted = [&](index keep, index sinks, std::span<range const> guarded = {}) {
        auto l = one_head(keys);
        l.guarded = guarded;
        return kv::evict<decltype(scorer)>{scorer, {keep}, sinks, 0, true}(l, memory);
    };
    CHECK(list(fitted(4, 1).value()[0].sources) == tokens_list{0, 1, 3, 4});
    CHECK(list(fitted(3, 1).value()[0].sources) == tokens_list{0, 3, 4});
    CHECK(list(fitted(2, 1).value()[0].sources) == tokens_list{0, 4});
    CHECK(list(fitted(2, 4).value()[0].sources) == tokens_list{0, 4});
    CHECK(list(fitted(1, 0).value()[0].sources) == tokens_list{4});
    CHECK(list(fitted(1, 1).value()[0].sources) == tokens_list{4});
    CHECK(list(fitted(5, 4).value()[0].sources) == tokens_list{0, 1, 2, 3, 4});
    std::vector<range> const newest = {{4, 5}}, inner = {{2, 3}};
    CHECK(list(fitted(1, 0, newest).value()[0].sources) == tokens_list{4});
    CHECK(list(fitted(4, 1, inner).value()[0].sources) == tokens_list{0, 2, 3, 4});
    CHECK(fitted(2, 1, inner).error() == errc::bad_budget);  // guarded slots give no way
}

TEST_CASE("a fit holds for a window of attention and for heads of different lengths", "[kv][evict]") {
    random_layer<> const r{4, 2, 30, 8, 16, 3};
    auto const scorer = kv::snapkv{.window = 16}.scorer();
    arena memory;
    kv::evict<score::attention> const p{scorer, {8}, 2, 16, true};
    auto const plans = p(r.view(), memory).value();
    for (index h = 0; h < 2; ++h) CHECK(list(plans[h].sources) == tokens_list{0, 1, 24, 25, 26, 27, 28, 29});
    auto const shorter = p(r.view(uneven{30, {30, 5}}), memory).value();
    CHECK(list(shorter[0].sources) == tokens_list{0, 1, 24, 25, 26, 27, 28, 29});
    CHECK(list(shorter[1].sources) == tokens_list{0, 1, 2, 3, 4});
    require_exact_peak([&](arena& a) { return p(r.view(), a); });
}

TEST_CASE("a scorer's error is evict's, and one row is one shared plan", "[kv][evict]") {
    auto const fails = [](layer<float> const&, arena& memory, serial const&) noexcept -> result<scores> {
        (void)memory.take<float>(1000);
        return errc::bad_setting;
    };
    auto const x = random_heads(3, 10, 4, 1);
    layer<float> const l{.keys = x.by_head()};
    arena memory;
    CHECK(kv::evict<decltype(fails)>{fails, {2}}(l, memory).error() == errc::bad_setting);
    CHECK(memory.used() == 0);

    std::vector<float> const row = uniform(10, 3);
    auto const shares = [&](layer<float> const&, arena&, serial const&) noexcept -> result<scores> {
        return scores{row, 1, 10, 10};
    };
    auto const plans = kv::evict<decltype(shares)>{shares, {2}}(l, memory).value();
    CHECK(plans.shared());
    CHECK(&plans[0] == &plans[2]);
    CHECK_FALSE(by_norm<>{.budget = {2}}(l, memory).value().shared());
}
}  // namespace terse::test
