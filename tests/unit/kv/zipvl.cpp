#include <terse/kv/zipvl.hpp>

#include "attention_reference.hpp"

namespace terse::test {
TEST_CASE("zipvl counts by sums and chooses by means", "[kv][zipvl]") {
    // Three probes at the end of five tokens. Sums 1.5, .5, .25, .5, .25; means .5, .1667, .0833, .25, .25.
    std::vector<float> const a = {.75F, .25F, 0,    0,    0,  //
                                  .5F,  .25F, 0,    .25F, 0,  //
                                  .25F, 0,    .25F, .25F, .25F};
    arena memory;
    auto const kept = [&](kv::zipvl const& p) {
        auto const plans = p(given(a, 1, 3), memory).value();
        CHECK(plans.shared());
        CHECK(is_valid(plans[0]));
        return list(plans[0].sources);
    };
    CHECK(kept({.share = 0.5}) == tokens_list{0});
    CHECK(kept({.share = 0.6}) == tokens_list{0, 3});
    CHECK(kept({.share = 0.8}) == tokens_list{0, 3, 4});
    CHECK(kept({.share = 0.9}) == tokens_list{0, 1, 3, 4});
    CHECK(kept({.share = 1}) == tokens_list{0, 1, 2, 3, 4});
    CHECK(kept({.share = 0.5, .least = 2}) == tokens_list{0, 3});
    CHECK(kept({.share = 0.5, .least = 9}) == tokens_list{0, 1, 2, 3, 4});
    CHECK(kept({.share = 1, .most = 2}) == tokens_list{0, 3});
    CHECK(kept({.share = 0.5, .sinks = 2, .recent = 1}) == tokens_list{0, 1, 4});
    CHECK(kept({.share = 0.8, .recent = 1}) == tokens_list{0, 3, 4});
    CHECK(kept({.share = 0.1, .sinks = 4, .recent = 4}) == tokens_list{0, 1, 2, 3, 4});

    // Where all stay no attention is needed.
    CHECK(kv::zipvl{.least = 5}(bare_layer(1, 5), memory).value()[0].kept() == 5);

    std::vector<range> const guarded = {{2, 3}};
    layer<float> l = given(a, 1, 3);
    l.guarded = guarded;
    CHECK(list(kv::zipvl{.share = 0.6}(l, memory).value()[0].sources) == tokens_list{0, 2});
}

TEST_CASE("zipvl keeps what is protected of attention that is all zero or broken", "[kv][zipvl]") {
    arena memory;
    for (float const x : {0.0F, not_a_number}) {
        std::vector<float> const a(12, x);
        CHECK(list(kv::zipvl{.sinks = 1, .recent = 2}(given(a, 1, 2), memory).value()[0].sources) ==
              tokens_list{0, 4, 5});
        CHECK(kv::zipvl{}(given(a, 1, 2), memory).value()[0].kept() == 1);
    }
}

TEMPLATE_TEST_CASE("zipvl agrees with the whole attention matrix", "[kv][zipvl]", float, half, bfloat16) {
    struct shape {
        index heads, kv_heads, tokens, dim, window;
    };
    auto const s = GENERATE(values<shape>({{1, 1, 2, 1, 1},
                                           {4, 4, 9, 16, 5},
                                           {4, 1, 19, 33, 19},
                                           {8, 2, 65, 20, 16},
                                           {2, 1, 300, 64, 40},
                                           {6, 2, 1000, 8, 7}}));
    CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
    random_layer<TestType> const r{s.heads, s.kv_heads, s.tokens, s.dim, s.window, 11};
    layer<TestType> l = r.view();
    l.scale = 3;
    std::vector<double> sums(static_cast<std::size_t>(s.tokens), 0.0);
    for (auto const& head : attention_matrix(l))
        for (auto const& row : head)
            for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += row[j];
    std::vector<double> means = sums, sorted = sums;
    for (std::size_t j = 0; j < means.size(); ++j)
        means[j] /= static_cast<double>(std::min(s.window, s.tokens - static_cast<index>(j)));
    std::sort(sorted.begin(), sorted.end(), std::greater<>{});
    for (double const share : {0.5, 0.9, 0.975}) {
        double const wanted = share * static_cast<double>(s.heads * s.window);
        std::size_t count = 0;
        for (double sum = 0; sum < wanted && count < sorted.size();) sum += sorted[count++];
        CAPTURE(share);
        arena memory;
        kv::zipvl const policy{.share = share};
        auto const plans = policy(l, memory).value();
        REQUIRE(list(plans[0].sources) == highest(means, count));
        for (index const workers : worker_counts)
            require_same_plan(policy(l, memory, threads{workers}).value()[0], plans[0]);
    }
}

TEST_CASE("zipvl says what does not fit", "[kv][zipvl]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const error = [&](kv::zipvl const& p) { return p(r.view(), memory).error(); };
    CHECK(error({.share = 0}) == errc::bad_budget);
    CHECK(error({.share = 1.5}) == errc::bad_budget);
    CHECK(error({.least = 0}) == errc::bad_budget);
    CHECK(error({.most = 0}) == errc::bad_budget);
    CHECK(error({.least = 5, .most = 4}) == errc::bad_budget);
    CHECK(error({.most = 4, .sinks = 3, .recent = 2}) == errc::bad_budget);
    CHECK(error({.sinks = -1}) == errc::bad_budget);
    CHECK(error({.share = 2, .least = 99}) == errc::bad_budget);  // also where nothing must go
    layer<float> l = r.view();
    l.queries = {};
    CHECK(kv::zipvl{}(l, memory).error() == errc::bad_shape);
    std::vector<range> const guarded = {{2, 12}};
    l = r.view();
    l.guarded = guarded;
    CHECK(kv::zipvl{.most = 9}(l, memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::zipvl{}(r.view(), m, threads{2}); });
}
}  // namespace terse::test
