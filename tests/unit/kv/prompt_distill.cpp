#include <terse/kv/prompt_distill.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// One head of one channel: a token's logit is its key.
layer<float> by_keys(std::vector<float> const& keys) {
    static float const one = 1;
    return {.keys = head_major(keys.data(), 1, std::ssize(keys), 1), .queries = head_major(&one, 1, 1, 1)};
}

constexpr auto none = score::pooling::none;

std::vector<tokens_list> kept_by_layers(result<plans> const& p) {
    std::vector<tokens_list> all;
    for (plan const& each : p.value().items) all.push_back(list(each.sources));
    return all;
}
}  // namespace

TEST_CASE("prompt_distill keeps the highest logits and what follows the prompt", "[kv][prompt_distill]") {
    std::vector<float> const keys = {-1, 5, 3, -7, 4, 9, -9};
    arena memory;
    auto const kept = [&](kv::prompt_distill const& policy) {
        auto const plans = policy(by_keys(keys), memory).value();
        CHECK(plans.shared());
        CHECK(plans[0].kept() == policy.count(7));
        return list(plans[0].sources);
    };
    CHECK(kept({.keep = 4, .recent = 2, .pool = none}) == tokens_list{1, 4, 5, 6});
    CHECK(kept({.keep = 3, .recent = 1, .pool = none}) == tokens_list{1, 5, 6});
    CHECK(kept({.keep = 2, .recent = 2}) == tokens_list{5, 6});
    CHECK(kept({.keep = 7, .recent = 2}) == tokens_list{0, 1, 2, 3, 4, 5, 6});
    CHECK(kept({.keep = 9, .recent = 8}) == tokens_list{0, 1, 2, 3, 4, 5, 6});
    // Means of three neighbours among the first five: 4/3, 7/3, 1/3, 0, -1.
    CHECK(kept({.keep = 4, .recent = 2, .kernel = 3}) == tokens_list{0, 1, 5, 6});
}

TEST_CASE("pooling that counts what follows as zeros lifts the border", "[kv][prompt_distill]") {
    // Means of three: -6, -6.33, -4.33, -2.67 and, of two, -3.5, or with a zero -2.33.
    std::vector<float> const keys = {-9, -9, -1, -3, -4, 0};
    arena memory;
    auto const best = [&](score::pooling pool) {
        kv::prompt_distill const policy{.keep = 2, .recent = 1, .pool = pool, .kernel = 3};
        return policy(by_keys(keys), memory).value()[0].sources[0];
    };
    CHECK(best(score::pooling::average) == 4);
    CHECK(best(score::pooling::average_inside) == 3);
}

TEST_CASE("prompt_distill goes by the last of the queries and by all heads", "[kv][prompt_distill]") {
    random_layer<> const r{4, 2, 40, 16, 6, 2};
    kv::prompt_distill const policy{.keep = 12, .recent = 3, .pool = none};
    std::vector<double> logits(37, 0.0);
    for (index h = 0; h < 4; ++h)
        for (index t = 0; t < 37; ++t)
            for (index c = 0; c < 16; ++c)
                logits[static_cast<std::size_t>(t)] +=
                    static_cast<double>(r.queries.row(5, h)[c]) * static_cast<double>(r.keys.row(t, h / 2)[c]);
    tokens_list expected(37);
    for (token t = 0; t < 37; ++t) expected[static_cast<std::size_t>(t)] = t;
    std::sort(expected.begin(), expected.end(), [&](token a, token b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
    });
    expected.resize(9);
    expected.insert(expected.end(), {37, 38, 39});
    std::sort(expected.begin(), expected.end());
    arena memory;
    CHECK(list(policy(r.view(), memory).value()[0].sources) == expected);
}

TEST_CASE("prompt_distill says what does not fit", "[kv][prompt_distill]") {
    random_layer<> const r{2, 2, 20, 8, 1, 1};
    arena memory;
    auto const error = [&](kv::prompt_distill const& p) { return p(r.view(), memory).error(); };
    CHECK(error({.keep = 0, .recent = 0}) == errc::bad_budget);
    CHECK(error({.keep = 4, .recent = 5}) == errc::bad_budget);
    CHECK(error({.keep = 4, .recent = -1}) == errc::bad_budget);
    CHECK(error({.keep = 4, .kernel = 2}) == errc::bad_setting);
    layer<float> l = r.view();
    l.queries = {};
    CHECK(kv::prompt_distill{.keep = 4}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}

TEST_CASE("caches keep what the stages above them let through", "[kv][prompt_distill]") {
    tokens_list const first = {0, 2, 3, 5, 6}, second = {1, 3, 4}, third = {0, 2};
    std::vector<plan> const stages = {select_rows(first, 7), select_rows(second, 5), select_rows(third, 3)};
    std::vector<index> const after = {1, 2, 4};
    arena memory;
    auto const caches = [&](index truncated) {
        return kept_by_layers(kv::truncate_caches(stages, after, 6, truncated, memory));
    };
    tokens_list const all = {0, 1, 2, 3, 4, 5, 6}, five = {0, 1, 2, 3, 4}, three = {0, 1, 2}, two = {0, 1};
    using layers = std::vector<tokens_list>;
    CHECK(caches(0) == layers{all, all, five, three, three, two});
    CHECK(caches(1) == layers{first, first, five, three, three, two});
    CHECK(caches(2) == layers{{2, 5, 6}, {2, 5, 6}, second, three, three, two});
    CHECK(caches(3) == layers{{2, 6}, {2, 6}, {1, 4}, third, third, two});
    CHECK(caches(-1) == caches(3));
    auto const whole = kv::truncate_caches(stages, after, 6, -1, memory).value();
    for (plan const& p : whole.items) CHECK(is_valid(p));

    memory.rewind();
    auto const error = [&](std::vector<plan> const& s, std::vector<index> const& a, index n, index truncated) {
        return kv::truncate_caches(s, a, n, truncated, memory).error();
    };
    CHECK(error({}, {}, 6, 0) == errc::bad_shape);
    CHECK(error(stages, {1, 2}, 6, 0) == errc::bad_shape);
    CHECK(error(stages, {1, 1, 2}, 6, 0) == errc::bad_setting);
    CHECK(error(stages, {-1, 1, 2}, 6, 0) == errc::bad_setting);
    CHECK(error(stages, after, 5, 0) == errc::bad_setting);  // after the last layer
    CHECK(error(stages, after, 6, 4) == errc::bad_setting);
    CHECK(error(stages, after, 6, -2) == errc::bad_setting);
    CHECK(error({stages[0], stages[2]}, {1, 2}, 6, 0) == errc::bad_shape);
    plan merging = stages[0];
    std::vector<float> const halves(5, 0.5F);
    merging.weights = halves;
    CHECK(error({merging}, {1}, 6, 0) == errc::bad_plan);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::truncate_caches(stages, after, 6, 2, m); });
}
}  // namespace terse::test
