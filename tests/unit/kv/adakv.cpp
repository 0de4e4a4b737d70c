#include <terse/kv/adakv.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/score/norm.hpp>

#include "attention_reference.hpp"
#include "scored.hpp"

namespace terse::test {
namespace {
using policy = kv::adakv<given_scores>;

/// Scores two heads of five slots but for the last, whose places hold anything.
struct all_but_last {
    std::vector<float> values;

    template <class Input, executor Run = serial>
    [[nodiscard]] result<scores> operator()(Input const&, arena&, Run const& = {}) const noexcept {
        return scores{values, 2, 4, 5};
    }
};
}  // namespace

TEST_CASE("adakv keeps the best slots of all heads", "[kv][adakv]") {
    std::vector<float> const falling = {.5F, .4F, .3F, .2F, .05F, .04F, .03F, .02F};
    struct row {
        char const* name;
        index keep;
        budget::across_heads share;
        index sinks, recent;
        errc error;
        std::vector<tokens_list> kept;
    };
    auto const r = GENERATE(values<row>({
        {"floor of half", 2, {.floor = .5}, 0, 0, errc::ok, {{0, 1, 2}, {0}}},
        {"no floor", 2, {.floor = 0, .least = 0}, 0, 0, errc::ok, {{0, 1, 2, 3}, {}}},
        {"the authors' form loses one",
         2,
         {.floor = .2, .form = budget::heads_form::kvcache_factory},
         0,
         0,
         errc::ok,
         {{0, 1, 2}, {}}},
        {"what is protected is in no contest", 3, {.floor = 0, .least = 0}, 1, 1, errc::ok, {{0, 1, 2, 3}, {0, 3}}},
        {"as many as there are", 4, {}, 0, 0, errc::ok, {{0, 1, 2, 3}}},
        {"none", 0, {}, 0, 0, errc::bad_budget, {}},
        {"more protected than kept", 2, {}, 2, 1, errc::bad_budget, {}},
        {"floor above one", 2, {.floor = 2}, 0, 0, errc::bad_budget, {}},
        {"floor above one, with nothing to do", 9, {.floor = 2}, 0, 0, errc::bad_budget, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const got = policy{{falling, 2}, r.keep, r.share, r.sinks, r.recent}(bare_layer(2, 4), memory);
    REQUIRE(got.error() == r.error);
    if (!got) {
        CHECK(memory.used() == 0);
        return;
    }
    REQUIRE(got->items.size() == r.kept.size());
    for (std::size_t h = 0; h < r.kept.size(); ++h) {
        CHECK(list(got->items[h].sources) == r.kept[h]);
        CHECK(is_valid(got->items[h]));
    }
}

TEST_CASE("adakv has room for what the authors' form keeps beyond the budget", "[kv][adakv]") {
    // Of the best twelve slots the heads have 7, 3 and 2: half of these and 2 each are 5.5, 3.5 and 3, rounded one
    // more.
    std::vector<float> const values = {9, 9, 9, 9, 9, 9, 9, 5, 5, 5, 0, 0, 0, 0, 4, 4, 0, 0, 0, 0, 0};
    budget::across_heads const share{.floor = 0.5, .form = budget::heads_form::kvcache_factory};
    arena memory;
    auto const plans = policy{{values, 3}, 4, share}(bare_layer(3, 7), memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 1, 2, 3, 4, 5});
    CHECK(list(plans[1].sources) == tokens_list{0, 1, 2, 3});
    CHECK(list(plans[2].sources) == tokens_list{0, 1, 2});
    CHECK(policy{.keep = 4}.count(7, 3) == 12);
    CHECK(policy{.keep = 9}.count(7, 3) == 21);
}

TEST_CASE("the authors' form serves heads of different lengths", "[kv][adakv]") {
    index const n = 20;
    uneven const held{n, {2, n}};
    auto const cache = held.of<float>(nullptr, 2, 1);
    layer<float, ragged_view<float>> const l{.keys = cache, .values = cache};
    auto const values = uniform(2 * n, 4);
    for (double const floor : {0.0, 0.2, 0.5, 1.0}) {
        CAPTURE(floor);
        arena memory;
        budget::across_heads const share{.floor = floor, .form = budget::heads_form::kvcache_factory};
        auto const plans = policy{{values, 2}, 8, share}(l, memory).value();
        for (index h = 0; h < 2; ++h) {
            CHECK(is_valid(plans[h]));
            CHECK(plans[h].kept() <= l.length(h));
            CHECK(plans[h].tokens == l.length(h));
        }
    }
}

TEST_CASE("adakv keeps what is guarded, and serves heads of different lengths", "[kv][adakv]") {
    std::vector<float> const values = {9, 8, 7, 6, 1, 2, 3, not_a_number};
    policy const p{{values, 2}, 3, {.floor = 0, .least = 0}};
    arena memory;
    std::vector<range> const guarded = {{1, 3}};
    auto l = bare_layer(2, 4);
    l.guarded = guarded;
    auto const plans = p(l, memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 1, 2, 3});
    CHECK(list(plans[1].sources) == tokens_list{1, 2});

    uneven const held{4, {4, 3}};
    auto const cache = held.of<float>(nullptr, 2, 1);
    layer<float, ragged_view<float>> const shorter{.keys = cache, .values = cache};
    auto const less = p(shorter, memory).value();
    CHECK(list(less[0].sources) == tokens_list{0, 1, 2, 3});
    CHECK(list(less[1].sources) == tokens_list{1, 2});
    CHECK(less[1].tokens == 3);
    auto const all = policy{{values, 2}, 5}(shorter, memory).value();
    CHECK(list(all[0].sources) == tokens_list{0, 1, 2, 3});
    CHECK(list(all[1].sources) == tokens_list{0, 1, 2});
}

TEST_CASE("adakv shares what is left besides the protected and the unscored", "[kv][adakv]") {
    // A slot without a score stays, and has no part in the contest.
    budget::across_heads const by_score{.floor = 0, .least = 0};
    arena memory;
    kv::adakv<all_but_last> const scored{{{9, 8, 7, 6, 0, 1, 2, 3, 4, 0}}, 2, by_score};
    auto const plans = scored(bare_layer(2, 5), memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 1, 4});
    CHECK(list(plans[1].sources) == tokens_list{4});

    // Of a head of one slot one sink is protected: five are left for the other.
    uneven const held{6, {6, 1}};
    auto const cache = held.of<float>(nullptr, 2, 1);
    layer<float, ragged_view<float>> const shorter{.keys = cache, .values = cache};
    std::vector<float> const values = {0, 0, 9, 8, 7, 1, 0, 0, 0, 0, 0, 0};
    auto const less = policy{{values, 2}, 3, by_score, 2}(shorter, memory).value();
    CHECK(list(less[0].sources) == tokens_list{0, 1, 2, 3, 4});
    CHECK(list(less[1].sources) == tokens_list{0});
}

TEST_CASE("adakv meets its budget with any scorer, on any number of threads", "[kv][adakv]") {
    for (index const n : {5, 31, 64, 257}) {
        random_layer<> const r{8, 4, n, 16, std::min<index>(n, 8), static_cast<unsigned>(n)};
        for (index const keep : {index{4}, n / 2, n - 1}) {
            CAPTURE(n, keep);
            if (keep < 4) continue;
            kv::adakv<score::attention> const by_attention{
                .score = kv::snapkv{.window = 4}.scorer(), .keep = keep, .recent = 4};
            kv::adakv<score::norm> const by_norm{.keep = keep, .sinks = 2};
            auto const check = [&](auto const& adaptive) {
                arena memory;
                auto const got = adaptive(r.view(), memory).value();
                index total = 0;
                for (plan const& p : got.items) total += p.kept();
                CHECK(total == adaptive.count(n, 4));
                for (index const workers : worker_counts) {
                    auto const again = adaptive(r.view(), memory, threads{workers}).value();
                    for (index h = 0; h < 4; ++h) require_same_plan(again[h], got[h]);
                }
                require_exact_peak([&](arena& a) { return adaptive(r.view(), a); });
            };
            check(by_attention);
            check(by_norm);
        }
    }
}

TEST_CASE("a scorer's one row for all heads is one selection", "[kv][adakv]") {
    std::vector<float> const row = {1, 4, 2, 3};
    arena memory;
    auto const plans = policy{{row, 1}, 2}(bare_layer(3, 4), memory).value();
    CHECK(plans.shared());
    CHECK(list(plans[2].sources) == tokens_list{1, 3});
}
}  // namespace terse::test
