#include <terse/kv/compactor.hpp>
#include <terse/kv/expected_attention.hpp>
#include <terse/kv/leverage.hpp>
#include <terse/kv/non_causal_attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {
TEST_CASE("expected_attention keeps what queries like those so far would attend to", "[kv][expected_attention]") {
    // Queries that look along the first channel, and at the second with either sign; unturned.
    std::vector<float> const queries = {2, 3, 2, -3}, ones(10, 1);
    std::vector<float> const keys = {0, 0, 1, 0, -1, 0, 0, 2, 0, 1};
    std::vector<float> mean(2), covariance(4);
    kv::query_moments moments{.mean = mean, .covariance = covariance, .heads = 1, .dim = 2};
    arena memory;
    REQUIRE(moments.add(head_major(queries.data(), 1, 2, 2), memory) == errc::ok);
    layer<float> const l{.keys = head_major(keys.data(), 1, 5, 2), .values = head_major(ones.data(), 1, 5, 2)};
    kv::expected_attention policy{.keep = 2, .sinks = 0, .moments = moments};
    CHECK(kept(policy(l, memory)) == tokens_list{3, 4});  // 0, 1.41, -1.41, 9 and 2.25
    policy.use_covariance = false;
    CHECK(kept(policy(l, memory)) == tokens_list{0, 1});
    policy.sinks = 1, policy.recent = 1, policy.keep = 3;
    CHECK(kept(policy(l, memory)) == tokens_list{0, 1, 4});
    CHECK(policy.count(9) == 3);
    CHECK(policy.count(2) == 2);

    policy.keep = 1;
    CHECK(policy(l, memory).error() == errc::bad_budget);
    policy.keep = 3, policy.future = 0;
    CHECK(policy(l, memory).error() == errc::bad_setting);
    policy.future = 1, policy.moments = {};
    CHECK(policy(l, memory).error() == errc::bad_shape);
}

TEST_CASE("leverage keeps keys that stand out", "[kv][leverage]") {
    auto keys = random_heads(1, 40, 8, 2);
    for (float& x : keys.values) x *= 0.1F;
    for (index const t : {7, 20}) keys.row(t)[t % 8] = static_cast<float>(t);
    layer<float> const l{.keys = keys.by_head()};
    arena memory;
    CHECK(kept(kv::leverage{.keep = 2, .columns = 8}(l, memory)) == tokens_list{7, 20});
    CHECK(kept(kv::leverage{.keep = 4, .sinks = 1, .recent = 1, .columns = 8}(l, memory)) == tokens_list{0, 7, 20, 39});
    CHECK(kept(kv::leverage{.keep = 9, .sinks = 8, .columns = 8}(l, memory)) ==
          tokens_list{0, 1, 2, 3, 4, 5, 6, 7, 20});
    CHECK(kv::leverage{.keep = 1, .sinks = 8}(l, memory).error() == errc::bad_budget);
    CHECK(kv::leverage{.keep = 2, .columns = 0}(l, memory).error() == errc::bad_setting);
}

TEST_CASE("non_causal_attention keeps what its chunk looks at", "[kv][non_causal_attention]") {
    // All queries look along the first channel; one key in each chunk answers. Neighbours share.
    std::vector<float> keys(32), queries(32), values(32);
    for (std::size_t t = 0; t < 16; ++t) queries[2 * t] = 4, values[2 * t] = 1;
    keys[2 * 2] = keys[2 * 13] = 3;
    layer<float> const l{.keys = head_major<float const>(keys.data(), 1, 16, 2),
                         .values = head_major<float const>(values.data(), 1, 16, 2),
                         .queries = head_major<float const>(queries.data(), 1, 16, 2)};
    arena memory;
    CHECK(kept(kv::non_causal_attention{.keep = 6, .chunk = 8}(l, memory)) == tokens_list{1, 2, 3, 12, 13, 14});
    CHECK(kept(kv::non_causal_attention{.keep = 8, .sinks = 1, .recent = 1, .chunk = 8}(l, memory)) ==
          tokens_list{0, 1, 2, 3, 12, 13, 14, 15});
    CHECK(kv::non_causal_attention{.keep = 6, .chunk = 0}(l, memory).error() == errc::bad_setting);
}

TEST_CASE("compactor blends both, and sees nothing of its sinks", "[kv][compactor]") {
    random_layer<> r{4, 2, 60, 8, 60, 3};
    layer<float> const l = r.view();
    arena memory;
    kv::compactor policy{.keep = 30, .columns = 6, .chunk = 16};
    auto const blend = policy.scorer(60);
    CHECK(blend.weight == 0.5F);
    auto const plans = policy(l, memory).value();
    auto const a = blend.first(l, memory).value(), b = blend.second(l, memory).value();
    for (index h = 0; h < 2; ++h) {
        std::vector<float> sum;
        for (std::size_t t = 0; t < 60; ++t) sum.push_back(0.5F * a.row(h)[t] + b.row(h)[t]);
        CHECK(list(plans[h].sources) == highest(sum, 30));  // sinks are infinite
    }
    for (index t = 0; t < 8; ++t) CHECK(plans[0].sources[static_cast<std::size_t>(t)] == t);
    for (index t = 0; t < 4; ++t) CHECK(plans[0].sources[static_cast<std::size_t>(26 + t)] == 56 + t);

    // What the sinks hold changes nothing between them.
    auto const before = list(policy.scorer(60)(l, memory).value().row(1));
    for (index const t : {0, 7, 56, 59}) std::fill_n(r.keys.row(t, 1), 8, 100.0F);
    CHECK(list(policy.scorer(60)(r.view(), memory).value().row(1)) == before);

    policy.blending = 0;
    for (index h = 0; h < 2; ++h) CHECK(kept(policy(l, memory), h) == highest(blend.second(l, memory)->row(h), 30));
    policy.blending = 1e6F;
    for (index h = 0; h < 2; ++h) CHECK(kept(policy(l, memory), h) == highest(blend.first(l, memory)->row(h), 30));
    policy.blending = -1;
    CHECK(policy(l, memory).error() == errc::bad_setting);
    policy.blending = not_a_number;
    CHECK(policy(l, memory).error() == errc::bad_setting);
    policy.blending = {}, policy.keep = 11;
    CHECK(policy(l, memory).error() == errc::bad_budget);
    policy.keep = 12;
    CHECK(kept(policy(l, memory)) == tokens_list{0, 1, 2, 3, 4, 5, 6, 7, 56, 57, 58, 59});
    policy.keep = 100;
    CHECK(policy(l, memory).value()[0].kept() == 60);
}

TEST_CASE("compactor takes keys before encoding beside those of the cache", "[kv][compactor]") {
    random_layer<> const r{4, 2, 40, 8, 40, 3};
    auto const other = random_heads(2, 40, 8, 77);
    arena memory;
    kv::compactor policy{.keep = 20, .pre_rope_keys = other.by_head(), .columns = 6, .chunk = 16};
    auto const got = policy.scorer(40)(r.view(), memory).value();
    layer<float> raw = r.view();
    raw.keys = other.by_head();
    policy.pre_rope_keys = {};
    auto const blend = policy.scorer(40);
    auto const a = blend.first(raw, memory).value(), b = blend.second(r.view(), memory).value();
    for (std::size_t i = 0; i < got.values.size(); ++i)
        CHECK(got.values[i] == blend.weight * a.values[i] + b.values[i]);
}

}  // namespace terse::test
