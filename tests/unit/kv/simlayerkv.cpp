#include <terse/kv/simlayerkv.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using policy = kv::simlayerkv;
using enum kv::simlayerkv::judged_recent;

/// The share by the whole attention matrix.
double share(policy const& p, std::vector<matrix> const& a) {
    double total = 0;
    for (auto const& head : a)
        for (std::size_t i = head.size() - static_cast<std::size_t>(p.last); i < head.size(); ++i) {
            index const n = std::ssize(head[i]), own = n - std::ssize(head) + static_cast<index>(i);
            for (index j = 0; j < n; ++j) {
                bool const recent = p.judged == before_queries ? j < n - p.last && j >= n - p.last - p.recent
                                    : p.judged == newest       ? j >= n - p.recent
                                                               : j < own && own - j <= p.recent;
                bool const sink = j < p.sinks && (p.judged != before_queries || j < n - p.last);
                if (sink || recent) total += head[i][static_cast<std::size_t>(j)];
            }
        }
    return total / static_cast<double>(std::ssize(a) * p.last);
}
}  // namespace

TEST_CASE("a layer is lazy by its attention to sinks and recent slots", "[kv][simlayerkv]") {
    // Two heads, the two last queries, eight slots.
    std::vector<float> const a = {.25F, .125F, 0,     0, .25F,  .25F,  .125F, 0,     //
                                  .5F,  0,     .125F, 0, .125F, 0,     0,     .25F,  //
                                  0,    0,     .5F,   0, .25F,  .25F,  0,     0,     //
                                  .25F, 0,     .25F,  0, 0,     .125F, .25F,  .125F};
    arena memory;
    auto const judged = [&](policy const& p, index queries = 2) {
        layer<float> l = given(a, 2, 2);
        if (queries == 1) l.attention = {a.data() + 8, 2, 1, 8, 16, 8};
        return p.judge(l, memory).value().share;
    };
    // Sink 0, recent 4 and 5: .75, .625, .5, .375.
    CHECK(judged({.last = 2, .recent = 2, .sinks = 1}) == 0.5625F);
    CHECK(judged({.last = 1, .recent = 2, .sinks = 1}) == (0.5F + 0.625F) / 2);  // 5 and 6
    CHECK(judged({.last = 1, .recent = 2, .sinks = 0}) == 0.375F / 2);
    CHECK(judged({.last = 1, .recent = 2, .sinks = 1, .judged = newest}) == 0.6875F);  // 6 and 7
    CHECK(judged({.last = 1, .recent = 2, .sinks = 1, .judged = newest}, 1) == 0.6875F);
    // 4 and 5, 5 and 6: .75, .5, .5, .625.
    CHECK(judged({.last = 2, .recent = 2, .sinks = 1, .judged = before_each}) == 0.59375F);
    // No slot counts twice.
    CHECK(judged({.last = 1, .recent = 8, .sinks = 3, .judged = newest}) == 1);
    CHECK(judged({.last = 1, .recent = 0, .sinks = 9, .judged = newest}) == 1);
    CHECK(judged({.last = 1, .recent = 9, .sinks = 9}) == 0.8125F);
    CHECK(judged({.last = 1, .recent = 9, .sinks = 9, .judged = before_each}) == 1);

    CHECK(policy{.threshold = 0.5F, .last = 2, .recent = 2, .sinks = 1}.judge(given(a, 2, 2), memory)->lazy);
    CHECK_FALSE(policy{.threshold = 0.5625F, .last = 2, .recent = 2, .sinks = 1}.judge(given(a, 2, 2), memory)->lazy);
}

TEST_CASE("a lazy layer keeps sinks and recent slots, another all", "[kv][simlayerkv]") {
    std::vector<float> const a = {.5F, 0, .125F, 0, .125F, 0, 0, .25F};
    arena memory;
    auto const kept = [&](policy const& p) {
        auto const plans = p(given(a, 1, 1), memory).value();
        CHECK(plans.shared());
        return list(plans[0].sources);
    };
    tokens_list const all = {0, 1, 2, 3, 4, 5, 6, 7};
    CHECK(kept({.threshold = 0.4F, .recent = 3, .sinks = 2}) == tokens_list{0, 1, 6, 7});  // one fewer, as published
    CHECK(kept({.threshold = 0.4F, .recent = 3, .sinks = 2, .judged = newest}) == tokens_list{0, 1, 5, 6, 7});
    CHECK(kept({.threshold = 0.4F, .recent = 3, .sinks = 2, .judged = before_each}) == tokens_list{0, 1, 5, 6, 7});
    CHECK(kept({.threshold = 0.4F, .recent = 1, .sinks = 2}) == tokens_list{0, 1});
    CHECK(kept({.threshold = 0.9F, .recent = 3, .sinks = 2}) == all);
    CHECK(kept({.threshold = 1, .recent = 3, .sinks = 2}) == all);
    CHECK(kept({.threshold = 0.1F, .recent = 6, .sinks = 1}) == all);  // eight slots are not more than 6 + 1 + 1
    CHECK(kept({.threshold = 0.1F, .recent = 5, .sinks = 1}) == tokens_list{0, 4, 5, 6, 7});
    CHECK(policy{.threshold = 0.1F, .recent = 5, .sinks = 1}.count(8) == 5);
    CHECK(policy{.threshold = 0.1F, .recent = 6, .sinks = 1}.count(8) == 8);
    CHECK(policy{.threshold = 1, .recent = 5, .sinks = 1}.count(8) == 8);

    // What the layer guards stays.
    std::vector<range> const guarded = {{3, 4}};
    layer<float> l = given(a, 1, 1);
    l.guarded = guarded;
    CHECK(list(policy{.threshold = 0.4F, .recent = 3, .sinks = 2}(l, memory).value()[0].sources) ==
          tokens_list{0, 1, 3, 6, 7});
}

TEMPLATE_TEST_CASE("the share agrees with the whole attention matrix", "[kv][simlayerkv]", float, half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 3};
        layer<TestType> l = r.view();
        l.scale = s.tokens == 64 ? 0.9F : 0.0F;
        l.soft_cap = s.tokens == 65 ? 0.6F : 0.0F;
        auto const a = attention_matrix(l);
        auto const rows = packed(a), logs = logs_of_sums(l);
        auto const handed = given(rows, s.heads, s.window, s.kv_heads);
        layer<TestType> known = l;
        known.log_sum_exp = view(logs.data(), s.heads, s.window);
        for (auto const judged : {before_queries, newest, before_each})
            for (index const last : {index{1}, (s.window + 1) / 2, s.window}) {
                if (s.tokens * last > 20'000) continue;
                for (index const sinks : {0, 3})
                    for (index const recent : {last + 1, s.tokens / 3 + last + 1, 2 * s.tokens}) {
                        policy const p{.last = last, .recent = recent, .sinks = sinks, .judged = judged};
                        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
                        CAPTURE(static_cast<int>(judged), last, sinks, recent);
                        arena memory;
                        double const expected = share(p, a);
                        float const got = p.judge(l, memory).value().share, from_logs = p.judge(known, memory)->share;
                        bool const close = is_close(got, expected, 2e-5, 1e-6) &&
                                           is_close(p.judge(handed, memory)->share, expected, 2e-5, 1e-6) &&
                                           is_close(from_logs, expected, 4e-5, 1e-6);
                        REQUIRE(close);
                        if (sinks == 3 && recent == last + 1) {
                            index const workers = 2 + s.tokens % 6;
                            REQUIRE(p.judge(l, memory, threads{workers})->share == got);
                            REQUIRE(p.judge(known, memory, threads{workers})->share == from_logs);
                        }
                        REQUIRE(memory.used() == 0);
                    }
            }
    }
}

TEST_CASE("each head is judged by the slots that it holds", "[kv][simlayerkv]") {
    // Eight slots and five: the newest hold .75 and .5, with the sink, the two before the query's own .5 and .875.
    std::vector<float> const a = {.5F, 0, .125F, 0, .125F, 0, 0, .25F, .25F, 0, .5F, .125F, .125F, 9, 9, 9};
    uneven const held{8, {8, 5}};
    layer<float, ragged_view<float>> l{.keys = held.of<float>(nullptr, 2, 1),
                                       .attention = head_major(a.data(), 2, 1, 8)};
    arena memory;
    for (auto const& [judged, share] : {std::pair{newest, 0.625F}, {before_queries, 0.6875F}, {before_each, 0.6875F}})
        CHECK(policy{.last = 1, .recent = 2, .sinks = 1, .judged = judged}.judge(l, memory).value().share == share);
    auto const lazy = policy{.threshold = 0.6F, .recent = 2, .sinks = 1, .judged = newest}(l, memory).value();
    CHECK(list(lazy[0].sources) == tokens_list{0, 6, 7});
    CHECK(list(lazy[1].sources) == tokens_list{0, 3, 4});

    random_layer<> const r{6, 2, 40, 8, 4, 2};
    index const lengths[] = {40, 23};
    uneven const parts{40, {40, 23}};
    auto const logs = logs_of_sums(r.view(parts));
    auto known = r.view(parts);
    known.log_sum_exp = view(logs.data(), 6, 4);
    for (auto const judged : {before_queries, newest, before_each}) {
        policy const p{.last = 3, .recent = 7, .sinks = 2, .judged = judged};
        float mean = 0;
        for (index h = 0; h < 2; ++h) mean += p.judge(r.alone(h, lengths[h]), memory).value().share / 2;
        CHECK(p.judge(r.view(parts), memory).value().share == Approx(mean).epsilon(1e-5));
        CHECK(p.judge(known, memory).value().share == Approx(mean).epsilon(4e-5));
    }
}

TEST_CASE("with the engine's logs of sums no key but those of sinks and recent slots is read", "[kv][simlayerkv]") {
    index const n = 700;
    random_layer<> const r{6, 2, n, 24, 5, 29};
    auto logs = logs_of_sums(r.view());
    for (auto const judged : {before_queries, newest, before_each}) {
        policy const p{.last = 2, .recent = 20, .sinks = 3, .judged = judged};
        arena with, without;
        float const expected = p.judge(r.view(), without)->share;
        auto other = r;
        index const end = judged == before_queries ? n - 2 : judged == newest ? n : n - 1;
        index const first = judged == before_each ? end - 21 : end - 20;  // the first query's are one earlier
        for (index h = 0; h < 2; ++h)
            for (index t = 3; t < first; ++t) std::fill_n(other.keys.row(t, h), 24, 1e3F);
        layer<float> l = other.view();
        l.log_sum_exp = view<float const>(logs.data(), 6, 5);
        CHECK(p.judge(l, with)->share == Approx(expected).epsilon(2e-5));
        CHECK(with.peak() < without.peak() / 4);
        for (index h = 0; h < 2; ++h) std::fill_n(other.keys.row(first, h), 24, 1e3F);
        CHECK(p.judge(l, with)->share > 1.01F * expected);
    }
    for (float& x : logs) x += 1;  // it is the engine's that counts: all is exp(1) too small
    layer<float> l = r.view();
    l.log_sum_exp = view<float const>(logs.data(), 6, 5);
    policy const p{.last = 2, .recent = 20, .sinks = 3};
    arena memory;
    CHECK(p.judge(l, memory)->share * 2.7182818F == Approx(p.judge(r.view(), memory)->share).epsilon(1e-4));
}

TEST_CASE("simlayerkv says what does not fit", "[kv][simlayerkv]") {
    random_layer<> const r{4, 2, 40, 8, 3, 1};
    arena memory;
    auto const error = [&](policy const& p) {
        CHECK(p.judge(r.view(), memory).error() == p(r.view(), memory).error());
        return p(r.view(), memory).error();
    };
    CHECK(error({.threshold = not_a_number, .recent = 9}) == errc::bad_setting);
    CHECK(error({.threshold = infinity, .recent = 9}) == errc::bad_setting);
    CHECK(error({.last = 0, .recent = 9}) == errc::bad_setting);
    CHECK(error({.recent = -1, .judged = newest}) == errc::bad_budget);
    CHECK(error({.recent = 9, .sinks = -1}) == errc::bad_budget);
    CHECK(error({.last = 2, .recent = 1}) == errc::bad_budget);
    CHECK(error({.last = 1, .recent = 1, .sinks = 0}) == errc::bad_budget);
    CHECK(error({.last = 4, .recent = 9}) == errc::bad_shape);
    layer<float> l = r.view();
    l.queries = {};
    CHECK(policy{.recent = 9}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return policy{.threshold = 0, .recent = 9}(r.view(), m, threads{3}); });
    auto const logs = logs_of_sums(r.view());
    l = r.view();
    l.log_sum_exp = view(logs.data(), 4, 3);
    require_exact_peak([&](arena& m) { return policy{.threshold = 0, .recent = 9}(l, m, threads{3}); });
}

TEST_CASE("broken attention makes no layer lazy", "[kv][simlayerkv]") {
    std::vector<float> const a(20, not_a_number);
    arena memory;
    CHECK(policy{.threshold = 0, .recent = 5, .sinks = 1}(given(a, 1, 1), memory).value()[0].kept() == 20);
}
}  // namespace terse::test
