#include <terse/kv/scissorhands.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
std::size_t at(index i) { return static_cast<std::size_t>(i); }
}  // namespace

TEST_CASE("scissorhands drops the slots that were hit least", "[kv][scissorhands]") {
    // Hits: 2, 0, 1, 1, 0, 1.
    std::vector<float> const a = {.5F,  .125F, .25F, .125F, 0, 0,  //
                                  .25F, 0,     0,    .375F, 0, .375F};
    arena memory;
    auto const keeps = [&](kv::scissorhands const& p) {
        auto const plans = p(given(a, 1, 2), memory);
        CHECK((*plans)[0].kept() == p.count(6));
        return kept(plans);
    };
    CHECK(keeps({.keep = 3, .recent = 0}) == tokens_list{0, 2, 3});  // of equal counts the older stay
    CHECK(keeps({.keep = 3, .recent = 1}) == tokens_list{0, 2, 5});
    CHECK(keeps({.keep = 3, .recent = 2}) == tokens_list{0, 4, 5});
    CHECK(keeps({.keep = 4, .recent = 1, .sinks = 2}) == tokens_list{0, 1, 2, 5});
    CHECK(keeps({.keep = 3, .history = 1, .recent = 0}) == tokens_list{0, 3, 5});
    // Means of those that saw a slot: 1, 0, .5, .5, 0, 1.
    CHECK(keeps({.keep = 2, .recent = 0, .per_visible = true}) == tokens_list{0, 5});
    CHECK(keeps({.keep = 2, .recent = 0, .counted = score::hit::attention}) == tokens_list{0, 3});
    // Once there are more than may be, several go; never what is protected.
    CHECK(keeps({.keep = 5, .drop = 3, .recent = 1}) == tokens_list{0, 2, 5});
    CHECK(keeps({.keep = 5, .drop = 9, .recent = 2, .sinks = 1}) == tokens_list{0, 4, 5});
    CHECK(keeps({.keep = 6, .drop = 3}) == tokens_list{0, 1, 2, 3, 4, 5});
    CHECK(keeps({.keep = 2, .drop = 3, .recent = 1}) == tokens_list{0, 5});
}

TEST_CASE("of what is protected the last stay where there is no room", "[kv][scissorhands]") {
    std::vector<float> const a(12, 0.0F);
    arena memory;
    auto const keeps = [&](kv::scissorhands const& p) {
        CHECK(p.count(12) == p.keep);
        return kept(p(given(a, 1, 1), memory));
    };
    CHECK(keeps({.keep = 5, .recent = 3, .sinks = 4}) == tokens_list{2, 3, 9, 10, 11});
    CHECK(keeps({.keep = 3, .recent = 3, .sinks = 4}) == tokens_list{9, 10, 11});
    CHECK(keeps({.keep = 2, .recent = 3, .sinks = 4}) == tokens_list{10, 11});
    CHECK(keeps({.keep = 7, .recent = 3, .sinks = 4}) == tokens_list{0, 1, 2, 3, 9, 10, 11});
    CHECK(keeps({.keep = 11, .recent = 6, .sinks = 9}) == tokens_list{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    CHECK(kept(kv::scissorhands{.keep = 12, .recent = 20, .sinks = 20}(given(a, 1, 1), memory)).size() == 12);

    std::vector<range> const guarded = {{5, 6}};
    layer<float> l = given(a, 1, 1);
    l.guarded = guarded;
    memory.rewind();
    CHECK(kv::scissorhands{.keep = 5, .recent = 3, .sinks = 4}(l, memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    CHECK(kept(kv::scissorhands{.keep = 5, .recent = 3}(l, memory)) == tokens_list{0, 5, 9, 10, 11});
}

TEST_CASE("scissorhands says what does not fit", "[kv][scissorhands]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const error = [&](kv::scissorhands const& p) { return p(r.view(), memory).error(); };
    CHECK(error({.keep = 0}) == errc::bad_budget);
    CHECK(error({.keep = 9, .drop = -1, .recent = 2}) == errc::bad_budget);
    CHECK(error({.keep = 9, .recent = -1}) == errc::bad_budget);
    CHECK(error({.keep = 9, .recent = 2, .sinks = -1}) == errc::bad_budget);
    CHECK(error({.keep = 9, .history = -1, .recent = 2}) == errc::bad_setting);
    CHECK(error({.keep = 9, .recent = 2, .quantile = 2}) == errc::bad_setting);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::scissorhands{.keep = 9, .recent = 2}(r.view(), m, threads{2}); });
}

TEST_CASE("counts that follow decoding are those of all attention at hand", "[kv][scissorhands][hit_counts]") {
    index const prompt = 24, steps = 12, heads = 4, kv_heads = 2, dim = 12, total = prompt + steps;
    auto const decay = GENERATE(1.0F, 0.5F);
    kv::scissorhands const policy{
        .keep = 16, .drop = 5, .history = 0, .recent = 4, .counted = score::hit::attention, .decay = decay};
    random_layer<> const r{heads, kv_heads, total, dim, total, 5};
    std::vector<float> cache(at(kv_heads * total * dim)), values(at(kv_heads * total)), visible(values.size());
    std::vector<tokens_list> positions(at(kv_heads));
    kv::hit_counts counts{.values = values, .visible = visible, .heads = kv_heads, .capacity = total};
    // By positions, in double precision.
    std::vector<std::vector<double>> sums(at(kv_heads), std::vector<double>(at(total), 0.0)), seen = sums;
    index used = 0, evictions = 0;
    for (index step = 0; step <= steps; ++step) {
        index const coming = step == 0 ? prompt : 1, first = step == 0 ? 0 : prompt + step - 1;
        for (index h = 0; h < kv_heads; ++h)
            for (index t = 0; t < coming; ++t) {
                std::copy_n(r.keys.row(first + t, h), dim, cache.data() + (h * total + used + t) * dim);
                positions[at(h)].push_back(static_cast<token>(first + t));
            }
        used += coming;
        layer<float> const l{.keys = {cache.data(), kv_heads, used, dim, total * dim, dim},
                             .queries = {r.queries.row(first), heads, coming, dim, total * dim, dim}};
        arena memory;
        REQUIRE(policy.observe(counts, l, memory) == errc::ok);
        CHECK(memory.used() == 0);
        auto const a = attention_matrix(l);
        for (auto* const rows : {&sums, &seen})
            for (auto& row : *rows)
                for (double& x : row) x *= static_cast<double>(decay);
        for (index h = 0; h < heads; ++h)
            for (index i = 0; i < coming; ++i)
                for (index s = 0; s < used; ++s) {
                    auto const position = at(positions[at(h / 2)][at(s)]);
                    sums[at(h / 2)][position] += a[at(h)][at(i)][at(s)];
                    if (h % 2 == 0 && s <= used - coming + i) seen[at(h / 2)][position] += 1;
                }
        for (index h = 0; h < kv_heads; ++h)
            for (index s = 0; s < used; ++s) {
                auto const position = at(positions[at(h)][at(s)]);
                REQUIRE(static_cast<double>(counts.row(h)[at(s)]) == Approx(sums[at(h)][position]).epsilon(1e-5));
                REQUIRE(static_cast<double>(counts.visible_row(h)[at(s)]) ==
                        Approx(seen[at(h)][position]).epsilon(1e-5));
            }

        auto const plans = policy(counts, memory).value();
        evictions += plans[0].kept() < used;
        REQUIRE(plans[0].kept() == policy.count(used));
        for (index h = 0; h < kv_heads; ++h) {
            auto& own = positions[at(h)];
            tokens_list order(own.size() - 4), left;
            for (std::size_t s = 0; s < order.size(); ++s) order[s] = static_cast<token>(s);
            std::stable_sort(order.begin(), order.end(), [&](token x, token y) {
                return sums[at(h)][at(own[at(x)])] > sums[at(h)][at(own[at(y)])];
            });
            order.resize(at(plans[h].kept() - 4));
            std::sort(order.begin(), order.end());
            for (index s = used - 4; s < used; ++s) order.push_back(static_cast<token>(s));
            REQUIRE(list(plans[h].sources) == order);
            index to = 0;
            for (token const s : order) {
                left.push_back(own[at(s)]);
                std::copy_n(cache.data() + (h * total + s) * dim, dim, cache.data() + (h * total + to++) * dim);
            }
            own = left;
        }
        REQUIRE(counts.compact(plans) == errc::ok);
        used = plans[0].kept();
        REQUIRE(counts.tokens() == used);
    }
    CHECK(evictions == 4);  // after the prompt, which leaves 16, and each time that there are 17, which leaves 12
}

TEMPLATE_TEST_CASE("hit counts of chunks agree with the whole attention matrix", "[kv][hit_counts]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
        random_layer<TestType> const r{s, 5};
        layer<TestType> l = r.view();
        auto const a = attention_matrix(l);
        auto const logs = logs_of_sums(l);
        if (s.dim % 2 != 0) l.log_sum_exp = view(logs.data(), s.heads, s.window);
        float const decay = s.tokens % 2 == 0 ? 1.0F : 0.75F;
        std::vector<float> values(at(s.kv_heads * s.tokens), not_a_number), visible = values;
        kv::hit_counts counts{.values = values, .visible = visible, .heads = s.kv_heads, .capacity = s.tokens};
        matrix sums(at(s.kv_heads), std::vector<double>(at(s.tokens), 0.0)), seen = sums;
        arena memory;
        index const middle = s.window / 2;
        for (auto const& [begin, end] : {std::pair{index{0}, middle}, std::pair{middle, s.window}}) {
            if (begin == end) continue;
            REQUIRE(counts.add(chunk_of(l, begin, end), memory, threads{2}, {.counted = score::hit::attention},
                               decay) == errc::ok);
            for (auto* const all : {&sums, &seen})
                for (auto& row : *all)
                    for (double& x : row) x *= static_cast<double>(decay);
            for (index h = 0; h < s.heads; ++h) {
                auto const own = column_sums_of(a[at(h)], begin, end);
                auto& row = sums[at(h / s.group())];
                for (std::size_t t = 0; t < own.size(); ++t) row[t] += own[t];
            }
            for (auto& row : seen)
                for (index i = begin; i < end; ++i)
                    for (index t = 0; t <= s.tokens - s.window + i; ++t) row[at(t)] += 1;
        }
        require_close({values, s.kv_heads, s.tokens, s.tokens}, sums, 4e-5, 1e-7);
        require_close({visible, s.kv_heads, s.tokens, s.tokens}, seen, 1e-6, 0);
    }
}

TEST_CASE("counts are divided by the steps that saw a slot", "[kv][scissorhands][hit_counts]") {
    std::vector<float> values = {6, 3, 2, 1}, visible = {8, 2, 2, 1};
    kv::hit_counts counts{.values = values, .visible = visible, .heads = 1, .capacity = 4, .used = 4};
    arena memory;
    kv::scissorhands const plain{.keep = 2, .recent = 0}, divided{.keep = 2, .recent = 0, .per_visible = true};
    CHECK(kept(plain(counts, memory)) == tokens_list{0, 1});
    CHECK(kept(divided(counts, memory)) == tokens_list{1, 2});
    counts.visible = {};
    CHECK(divided(counts, memory).error() == errc::bad_shape);
    CHECK(kept(plain(counts, memory)) == tokens_list{0, 1});
}

TEST_CASE("hit counts refuse what does not fit and stay as they were", "[kv][hit_counts]") {
    random_layer<> const r{2, 2, 10, 4, 10, 1};
    std::vector<float> values(2 * 12, 7.0F), visible = values;
    kv::hit_counts counts{.values = values, .visible = visible, .heads = 2, .capacity = 12};
    arena memory;
    REQUIRE(counts.add(r.view(), memory) == errc::ok);
    auto const before = values;
    auto const seen = visible;

    layer<float> l = r.view();
    l.keys.tokens = 9;
    l.queries.tokens = 1;  // which fits the layer
    CHECK(counts.add(l, memory) == errc::bad_shape);
    l.keys.tokens = 13;
    CHECK(counts.add(l, memory) == errc::bad_shape);
    l = r.view();
    l.keys.heads = 1;
    CHECK(counts.add(l, memory) == errc::bad_shape);
    uneven const held{10, {10, 7}};
    CHECK(counts.add(r.view(held), memory) == errc::bad_shape);
    l = r.view();
    l.queries.dim = 3;
    CHECK(counts.add(l, memory) == errc::bad_shape);
    for (float const decay : {-0.1F, 1.1F, not_a_number})
        CHECK(counts.add(r.view(), memory, serial{}, {}, decay) == errc::bad_setting);
    CHECK(counts.add(r.view(), memory, serial{}, {.queries = 11}, 0.5F) == errc::bad_shape);
    CHECK(counts.add(r.view(), memory, serial{}, {.queries = -1}, 0.5F) == errc::bad_setting);
    fixed_memory little{128};
    arena small{little.bytes()};
    CHECK(counts.add(r.view(), small, serial{}, {}, 0.5F) == errc::out_of_memory);
    kv::hit_counts too_little = counts;
    too_little.values = std::span{values}.first(23);
    CHECK(too_little.add(r.view(), memory) == errc::bad_shape);
    too_little = counts;
    too_little.visible = std::span{visible}.first(23);
    CHECK(too_little.add(r.view(), memory) == errc::bad_shape);

    tokens_list const three = {0, 4, 9}, two = {1, 2}, falling = {4, 0, 9};
    auto const compact = [&](std::vector<plan> const& items) { return counts.compact(plans{items}); };
    CHECK(compact({select_rows(three, 10), select_rows(two, 10)}) == errc::bad_plan);
    CHECK(compact({select_rows(falling, 10)}) == errc::bad_plan);
    CHECK(compact({select_rows(three, 11)}) == errc::bad_shape);
    CHECK(compact({select_rows(three, 10), select_rows(three, 10), select_rows(three, 10)}) == errc::bad_shape);
    CHECK(values == before);
    CHECK(visible == seen);
    CHECK(counts.tokens() == 10);

    REQUIRE(compact({select_rows(three, 10)}) == errc::ok);
    CHECK(counts.tokens() == 3);
    CHECK(counts.row(1)[2] == before[12 + 9]);
    CHECK(counts.visible_row(1)[1] == seen[12 + 4]);
}
}  // namespace terse::test
