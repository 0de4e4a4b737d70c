#include <terse/kv/compact.hpp>
#include <terse/kv/threshold.hpp>
#include <terse/score/norm.hpp>

#include "key_layers.hpp"

namespace terse::test {

TEST_CASE("a threshold keeps by any scorer, each head its own", "[kv][threshold]") {
    random_layer<> const r{3, 3, 200, 8, 1, 7};
    kv::threshold<score::norm> const policy{.least = -1.6F, .sinks = 3, .recent = 20};
    arena memory;
    auto const one = policy(r.view(), memory).value();
    REQUIRE(one.items.size() == 3);
    CHECK(one[0].kept() != one[2].kept());
    for (index h = 0; h < 3; ++h) {
        tokens_list expected;
        auto const keys = head_rows(r.keys, h, 200);
        for (token t = 0; t < 200; ++t) {
            auto const& key = keys[static_cast<std::size_t>(t)];
            if (t < 3 || t >= 180 || product(key, key) <= 1.6 * 1.6) expected.push_back(t);
        }
        CHECK(list(one[h].sources) == expected);
        for (index const workers : worker_counts)
            require_same_plan(policy(r.view(), memory, threads{workers}).value()[h], one[h]);
    }
}

TEST_CASE("a threshold keeps what a layer guards, and ends where a head ends", "[kv][threshold]") {
    random_layer<> const r{2, 2, 40, 8, 1, 7};
    std::vector<range> const guarded = {{10, 12}, {30, 31}};
    uneven const held{40, {40, 25}};
    auto l = r.view(held);
    l.guarded = guarded;
    arena memory;
    auto const got = kv::threshold<score::norm>{.least = 1, .sinks = 1, .recent = 2}(l, memory).value();
    CHECK(list(got[0].sources) == tokens_list{0, 10, 11, 30, 38, 39});
    CHECK(list(got[1].sources) == tokens_list{0, 10, 11, 23, 24});
    CHECK(got[1].tokens == 25);
}

TEST_CASE("the caller's scores decide as tokens leave the window", "[kv][threshold]") {
    // Every step appends a slot with its mark, evicts, and compacts the marks: what stays is the marked and the recent.
    auto const marks = uniform(300, 5);
    kv::threshold<> const policy{.least = 0.5F, .recent = 16};
    std::vector<float> cache;
    arena memory;
    for (std::size_t t = 0; t < marks.size(); ++t) {
        cache.push_back(marks[t]);
        memory.rewind();
        auto const kept = policy(std::span<float const>{cache}, memory).value();
        REQUIRE(kept.items.size() == 1);
        REQUIRE(kv::compact(std::span{cache}, kept[0]) == errc::ok);
        cache.resize(static_cast<std::size_t>(kept[0].kept()));

        std::vector<float> expected;
        for (std::size_t i = 0; i <= t; ++i)
            if (i + 16 > t || marks[i] >= 0.5F) expected.push_back(marks[i]);
        REQUIRE(cache == expected);
    }
    // The same for several heads at once.
    auto const got = policy(scores{marks, 3, 100, 100}, memory).value();
    REQUIRE(got.items.size() == 3);
    CHECK(got[2].sources.back() == 99);
}

TEST_CASE("a threshold refuses what is no threshold", "[kv][threshold]") {
    random_layer<> const r{2, 2, 40, 8, 1, 7};
    arena memory;
    CHECK(kv::threshold<score::norm>{.least = not_a_number}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::threshold<score::norm>{.recent = -1}(r.view(), memory).error() == errc::bad_budget);
    CHECK(kv::threshold<score::norm>{.sinks = -1}(r.view(), memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::threshold<score::norm>{.recent = 2}(r.view(), m); });
}
}  // namespace terse::test
