// The policies that choose one set of slots for all heads, on a cache whose heads hold different numbers of slots.
#include <terse/kv/block_eviction.hpp>
#include <terse/kv/chunkkv.hpp>
#include <terse/kv/compresskv.hpp>
#include <terse/kv/deep_forcing.hpp>
#include <terse/kv/prompt_distill.hpp>
#include <terse/kv/tova.hpp>
#include <terse/kv/zipvl.hpp>
#include <terse/score/attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {

TEST_CASE("one set for all heads is refused where heads hold different numbers of slots", "[kv]") {
    random_layer<> const r{4, 2, 40, 8, 6, 1};
    uneven const held{40, {40, 25}}, even{40, {40, 40}}, shorter_first{40, {25, 40}};
    auto const refuses = [&](auto const& policy) {
        arena memory;
        CHECK(policy(r.view(held), memory).error() == errc::bad_shape);
        CHECK(policy(r.view(shorter_first), memory).error() == errc::bad_shape);
        CHECK(memory.used() == 0);
        CHECK(policy(r.view(even), memory));
    };
    static constexpr index voting[] = {0, 2};
    // With a budget below the slots, between the heads' and above: a set of all slots would not fit either.
    for (index const keep : {12, 30, 40, 50}) {
        CAPTURE(keep);
        refuses(kv::tova{.keep = keep});
        refuses(kv::compresskv{.heads = voting, .keep = keep, .window = 4});
        refuses(kv::prompt_distill{.keep = keep});
        refuses(kv::zipvl{.least = 1, .most = keep});
        refuses(kv::chunkkv<score::attention>{.score = {.across_heads = true}, .keep = keep, .chunk = 5});
        for (auto const how : {kv::block_aggregation::norm_sum, kv::block_aggregation::adaptive_rkv})
            refuses(kv::block_eviction{
                .keep = keep, .sinks = 2, .recent = 2, .block = 2, .aggregation = how, .snapkv_window = 4, .pool = 1});
        refuses(kv::deep_forcing{.frame = 1, .capacity = 40, .keep = keep, .sinks = 1, .recent = 2});
        refuses(kv::deep_forcing{.frame = 1, .capacity = 50, .keep = keep, .sinks = 1, .recent = 2});
    }
    refuses(kv::deep_forcing{.frame = 1, .capacity = 40, .keep = 5, .sinks = 3, .recent = 2});  // the ends alone
}

TEST_CASE("block_eviction refuses the scores of more slots than a head holds", "[kv][block_eviction]") {
    random_layer<> const r{4, 2, 40, 8, 6, 1};
    uneven const held{40, {25, 40}};
    std::vector<double> sums(40);
    std::vector<token> since(40), positions(80);
    for (std::size_t i = 0; i < 80; ++i) positions[i] = static_cast<token>(i % 40);
    kv::block_scores state{.sums = sums, .since = since, .capacity = 40};
    REQUIRE(state.add(std::vector<float>(40, 1.0F)) == errc::ok);
    kv::block_eviction const policy{.keep = 20, .sinks = 2, .recent = 2, .block = 2};
    std::vector<range> const guarded = {{30, 33}};
    arena memory;
    auto l = r.view(held);
    l.guarded = guarded;
    l.positions = {positions.data(), 2, 40, 40};
    CHECK(policy.choose(state, l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}
}  // namespace terse::test
