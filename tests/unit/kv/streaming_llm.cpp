#include <terse/kv/streaming_llm.hpp>

#include "support.hpp"

namespace terse::test {
TEST_CASE("streaming_llm keeps sinks and recent slots", "[kv][streaming_llm]") {
    struct row {
        char const* name;
        kv::streaming_llm policy;
        index tokens;
        errc error;
        tokens_list kept;
    };
    constexpr index most = std::numeric_limits<index>::max();
    auto const r = GENERATE(values<row>({
        {"drops the middle", {.sinks = 2, .recent = 3}, 9, errc::ok, {0, 1, 6, 7, 8}},
        {"fits exactly", {.sinks = 2, .recent = 3}, 5, errc::ok, {0, 1, 2, 3, 4}},
        {"fits", {.sinks = 2, .recent = 3}, 3, errc::ok, {0, 1, 2}},
        {"makes room", {.sinks = 2, .recent = 3, .coming = 2}, 9, errc::ok, {0, 1, 8}},
        {"makes room where it was full", {.sinks = 1, .recent = 3, .coming = 1}, 4, errc::ok, {0, 2, 3}},
        {"room for more than the window", {.sinks = 2, .recent = 3, .coming = 8}, 9, errc::ok, {0, 1}},
        {"a coming flood leaves the sinks", {.sinks = 2, .recent = 3, .coming = most}, 9, errc::ok, {0, 1}},
        {"fewer tokens than sinks", {.sinks = 4, .recent = 0, .coming = 9}, 3, errc::ok, {0, 1, 2}},
        {"a window alone", {.sinks = 0, .recent = 2}, 4, errc::ok, {2, 3}},
        {"sinks alone", {.sinks = 2, .recent = 0}, 4, errc::ok, {0, 1}},
        {"endless window", {.sinks = 2, .recent = most}, 4, errc::ok, {0, 1, 2, 3}},
        {"nothing there", {.sinks = 2, .recent = 3}, 0, errc::ok, {}},
        {"nothing to keep", {.sinks = 0, .recent = 0}, 4, errc::bad_budget, {}},
        {"negative sinks", {.sinks = -1, .recent = 3}, 4, errc::bad_budget, {}},
        {"negative window", {.sinks = 1, .recent = -3}, 4, errc::bad_budget, {}},
        {"negative coming", {.sinks = 1, .recent = 3, .coming = -1}, 4, errc::bad_budget, {}},
        {"negative tokens", {.sinks = 1, .recent = 3}, -1, errc::bad_shape, {}},
        {"more tokens than a token counts", {.sinks = 1, .recent = 3}, max_tokens + 1, errc::bad_shape, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const plans = r.policy(r.tokens, memory);
    REQUIRE(plans.error() == r.error);
    if (!plans) return;
    CHECK(plans->shared());
    CHECK(list((*plans)[0].sources) == r.kept);
    CHECK((*plans)[0].tokens == r.tokens);
    CHECK(r.policy.count(r.tokens) == std::ssize(r.kept));

    layer<float> const l{.keys = {.heads = 3, .tokens = r.tokens}};
    require_same_plan(r.policy(l, memory).value()[2], (*plans)[0]);
}

TEST_CASE("streaming_llm keeps what a layer guards", "[kv][streaming_llm]") {
    std::vector<range> const guarded = {{1, 2}, {4, 6}};
    layer<float> l{.keys = {.heads = 2, .tokens = 12}};
    l.guarded = guarded;
    arena memory;
    auto const kept = kv::streaming_llm{.sinks = 2, .recent = 3}(l, memory).value();
    CHECK(kept.shared());
    CHECK(list(kept[0].sources) == tokens_list{0, 1, 4, 5, 9, 10, 11});
    // After an eviction they stand elsewhere, in each head.
    std::vector<token> const positions = {0, 1, 2, 5, 6, 7, 8, 9,  10, 11, 12, 13, /**/
                                          0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    l.positions = view(positions.data(), 2, 12);
    auto const moved = kv::streaming_llm{.sinks = 1, .recent = 2}(l, memory).value();
    CHECK(list(moved[0].sources) == tokens_list{0, 1, 3, 10, 11});
    CHECK(list(moved[1].sources) == tokens_list{0, 1, 2, 10, 11});
    l.positions.dim = 11;
    CHECK(kv::streaming_llm{}(l, memory).error() == errc::bad_shape);
    l.positions = {};
    std::vector<range> const backwards = {{4, 2}};
    l.guarded = backwards;
    CHECK(kv::streaming_llm{}(l, memory).error() == errc::bad_shape);
}

TEST_CASE("streaming_llm needs memory", "[kv][streaming_llm]") {
    require_exact_peak([](arena& memory) { return kv::streaming_llm{.sinks = 4, .recent = 100}(300, memory); });
}
}  // namespace terse::test
