#include <terse/kv/h2o.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/tova.hpp>

#include "attention_reference.hpp"

namespace terse::test {
TEST_CASE("snapkv keeps what the window attends to, its neighbours, and the window", "[kv][snapkv]") {
    // Two window queries over six tokens; token 1 is looked at.
    std::vector<float> const a = {.1F, .6F, .1F, .1F, .1F, 0, .1F, .5F, .1F, .1F, .1F, .1F};
    arena memory;
    CHECK(kept(kv::snapkv{.keep = 3, .window = 2, .pool = score::pooling::none, .kernel = 1}(given(a, 1, 2), memory)) ==
          tokens_list{1, 4, 5});
    CHECK(kept(kv::snapkv{.keep = 5, .window = 2, .pool = score::pooling::max, .kernel = 3}(given(a, 1, 2), memory)) ==
          tokens_list{0, 1, 2, 4, 5});
    CHECK(kept(kv::snapkv{.keep = 4, .window = 2, .sinks = 1, .pool = score::pooling::none, .kernel = 1}(
              given(a, 1, 2), memory)) == tokens_list{0, 1, 4, 5});
    CHECK(kept(kv::snapkv{.keep = 6, .window = 2}(given(a, 1, 2), memory)) == tokens_list{0, 1, 2, 3, 4, 5});
    CHECK(kept(kv::snapkv{.keep = 9, .window = 9}(given(a, 1, 2), memory)) == tokens_list{0, 1, 2, 3, 4, 5});
}

TEST_CASE("snapkv keeps a head's own tokens, its group reduced", "[kv][snapkv]") {
    random_layer<> const r{6, 2, 90, 20, 8, 21};
    auto const a = attention_matrix(r.view());
    kv::snapkv const policy{.keep = 30, .window = 8, .pool = score::pooling::none, .kernel = 1};
    arena memory;
    auto const plans = policy(r.view(), memory).value();
    for (std::size_t g = 0; g < 2; ++g) {
        std::vector<double> sums(82, 0.0);
        for (std::size_t h = 3 * g; h < 3 * g + 3; ++h)
            for (auto const& row : a[h])
                for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += row[j];
        tokens_list expected = highest(sums, 22);
        for (token t = 82; t < 90; ++t) expected.push_back(t);
        CHECK(list(plans[static_cast<index>(g)].sources) == expected);
    }
}

TEST_CASE("snapkv says what does not fit", "[kv][snapkv]") {
    random_layer<> const r{2, 2, 20, 8, 4, 1};
    arena memory;
    CHECK(kv::snapkv{.keep = 8, .window = 0}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::snapkv{.keep = 8, .window = -4}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::snapkv{.keep = 8, .window = 4, .kernel = 2}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::snapkv{.keep = 3, .window = 4}(r.view(), memory).error() == errc::bad_budget);
    CHECK(kv::snapkv{.keep = 8, .window = 5}(r.view(), memory).error() == errc::bad_shape);
    CHECK(kv::snapkv{.keep = 8, .window = 4, .sinks = 5}(r.view(), memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::snapkv{.keep = 8, .window = 4}(r.view(), m); });
}

TEST_CASE("tova keeps what the last query attends to, in all heads alike", "[kv][tova]") {
    std::vector<float> const a = {.1F, .5F, .2F, .2F, .4F, .1F, .4F, .1F};  // two heads, one query, four tokens
    arena memory;
    auto const plans = kv::tova{.keep = 2, .recent = 0}(given(a, 2, 1, 2), memory);
    CHECK(plans->shared());
    CHECK(kept(plans) == tokens_list{1, 2});
    CHECK(kept(kv::tova{.keep = 2, .recent = 1}(given(a, 2, 1, 2), memory)) == tokens_list{1, 3});
    CHECK(kept(kv::tova{.keep = 3, .sinks = 1, .recent = 1}(given(a, 2, 1, 2), memory)) == tokens_list{0, 1, 3});

    // Of several queries the last one decides.
    std::vector<float> const two = {.7F, .1F, .1F, .1F, .1F, .1F, .7F, .1F};
    CHECK(kept(kv::tova{.keep = 1, .recent = 0}(given(two, 1, 2), memory)) == tokens_list{2});
}

TEST_CASE("h2o keeps heavy hitters and recent slots", "[kv][h2o]") {
    // Causal attention of five queries: sums 2.2, 1.3, 1.1, 0.3, 0.1.
    std::vector<float> const a = {1,   0,   0,   0,   0,  //
                                  .5F, .5F, 0,   0,   0,  //
                                  .2F, .2F, .6F, 0,   0,  //
                                  .3F, .3F, .2F, .2F, 0,  //
                                  .2F, .3F, .3F, .1F, .1F};
    arena memory;
    CHECK(kept(kv::h2o{.keep = 3, .recent = 1}(given(a, 1, 5), memory)) == tokens_list{0, 1, 4});
    CHECK(kept(kv::h2o{.keep = 3, .recent = 3}(given(a, 1, 5), memory)) == tokens_list{2, 3, 4});
    CHECK(kept(kv::h2o{.keep = 2, .recent = 0}(given(a, 1, 5), memory)) == tokens_list{0, 1});
    // A mean over the queries that saw a slot: .44, .325, .367, .15, .1.
    CHECK(kept(kv::h2o{.keep = 2, .recent = 0, .per_visible = true}(given(a, 1, 5), memory)) == tokens_list{0, 2});
    CHECK(kv::h2o{.keep = 2, .recent = 3}(given(a, 1, 5), memory).error() == errc::bad_budget);
}

TEST_CASE("h2o's sums follow decoding as if all attention were at hand", "[kv][h2o][column_sums]") {
    index const prompt = 24, steps = 9, heads = 4, kv_heads = 2, dim = 12, total = prompt + steps;
    random_layer<> const r{heads, kv_heads, total, dim, total, 5};
    kv::h2o const policy{.keep = 16, .recent = 6};

    // The engine: its cache, the original position of every slot, and the sums.
    std::vector<float> cache(static_cast<std::size_t>(kv_heads * total * dim)),
        state_memory(static_cast<std::size_t>(kv_heads * total));
    std::vector<tokens_list> positions(static_cast<std::size_t>(kv_heads));
    kv::column_sums sums{.values = state_memory, .heads = kv_heads, .capacity = total};
    // The reference: the same in double precision, by positions.
    std::vector<std::vector<double>> acc(static_cast<std::size_t>(kv_heads),
                                         std::vector<double>(static_cast<std::size_t>(total), 0.0));

    index used = 0;
    for (index step = 0; step <= steps; ++step) {
        index const coming = step == 0 ? prompt : 1, first = step == 0 ? 0 : prompt + step - 1;
        for (index h = 0; h < kv_heads; ++h)
            for (index t = 0; t < coming; ++t) {
                std::copy_n(r.keys.row(first + t, h), dim, cache.data() + (h * total + used + t) * dim);
                positions[static_cast<std::size_t>(h)].push_back(static_cast<token>(first + t));
            }
        used += coming;
        layer<float> const l{.keys = {cache.data(), kv_heads, used, dim, total * dim, dim},
                             .queries = {r.queries.row(first), heads, coming, dim, total * dim, dim}};
        arena memory;
        REQUIRE(sums.add(l, memory) == errc::ok);
        CHECK(memory.used() == 0);

        auto const a = attention_matrix(l);
        for (std::size_t g = 0; g < static_cast<std::size_t>(kv_heads); ++g)
            for (std::size_t h = 2 * g; h < 2 * g + 2; ++h)
                for (auto const& row : a[h])
                    for (std::size_t j = 0; j < row.size(); ++j)
                        acc[g][static_cast<std::size_t>(positions[g][j])] += row[j] / 2;

        auto const plans = policy(sums, memory).value();
        for (index h = 0; h < kv_heads; ++h) {
            auto& own = positions[static_cast<std::size_t>(h)];
            auto const candidates = own.size() - 6;
            std::vector<double> of_slots;
            for (std::size_t s = 0; s < candidates; ++s)
                of_slots.push_back(acc[static_cast<std::size_t>(h)][static_cast<std::size_t>(own[s])]);
            tokens_list expected = own.size() > 16 ? highest(of_slots, 10) : tokens_list{};
            if (own.size() > 16) {
                for (std::size_t s = candidates; s < own.size(); ++s) expected.push_back(static_cast<token>(s));
                REQUIRE(list(plans[h].sources) == expected);
            }
            tokens_list left;
            index to = 0;
            for (token const s : plans[h].sources) {
                left.push_back(own[static_cast<std::size_t>(s)]);
                std::copy_n(cache.data() + (h * total + s) * dim, dim, cache.data() + (h * total + to++) * dim);
            }
            own = left;
        }
        REQUIRE(sums.compact(plans) == errc::ok);
        used = plans[0].kept();
        REQUIRE(sums.tokens() == used);
        for (index h = 0; h < kv_heads; ++h)
            for (index s = 0; s < used; ++s) {
                auto const position = positions[static_cast<std::size_t>(h)][static_cast<std::size_t>(s)];
                REQUIRE(static_cast<double>(sums.row(h)[static_cast<std::size_t>(s)]) ==
                        Approx(acc[static_cast<std::size_t>(h)][static_cast<std::size_t>(position)]).epsilon(1e-5));
            }
    }
}

TEMPLATE_TEST_CASE("column sums of chunks agree with the whole attention matrix", "[kv][column_sums]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 5};
        layer<TestType> l = r.view();
        auto const a = attention_matrix(l);
        auto const logs = logs_of_sums(l);
        if (s.dim % 2 != 0) l.log_sum_exp = view(logs.data(), s.heads, s.window);
        for (auto const group : {score::reduction::mean, score::reduction::sum, score::reduction::max}) {
            CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, static_cast<int>(group));
            std::vector<float> values(static_cast<std::size_t>(s.kv_heads * s.tokens), not_a_number);
            kv::column_sums sums{.values = values, .heads = s.kv_heads, .capacity = s.tokens};
            matrix want(static_cast<std::size_t>(s.kv_heads),
                        std::vector<double>(static_cast<std::size_t>(s.tokens), 0.0));
            arena memory;
            index const middle = s.window / 2;
            for (auto const& [begin, end] : {std::pair{index{0}, middle}, std::pair{middle, s.window}}) {
                if (begin == end) continue;
                REQUIRE(sums.add(chunk_of(l, begin, end), memory, threads{2}, group) == errc::ok);
                for (index kv = 0; kv < s.kv_heads; ++kv) {
                    std::vector<double> reduced(static_cast<std::size_t>(s.tokens), 0.0);
                    for (index h = kv * s.group(); h < (kv + 1) * s.group(); ++h) {
                        auto const own = column_sums_of(a[static_cast<std::size_t>(h)], begin, end);
                        for (std::size_t t = 0; t < own.size(); ++t)
                            reduced[t] =
                                group == score::reduction::max ? std::max(reduced[t], own[t]) : reduced[t] + own[t];
                    }
                    double const count = group == score::reduction::mean ? static_cast<double>(s.group()) : 1;
                    for (std::size_t t = 0; t < reduced.size(); ++t)
                        want[static_cast<std::size_t>(kv)][t] += reduced[t] / count;
                }
            }
            require_close({values, s.kv_heads, s.tokens, s.tokens}, want, 4e-5, 1e-7);
        }
    }
}

TEST_CASE("column sums refuse what does not fit and stay as they were", "[kv][column_sums]") {
    random_layer<> const r{2, 2, 10, 4, 10, 1};
    std::vector<float> memory_of_sums(2 * 12, 7.0F);
    kv::column_sums sums{.values = memory_of_sums, .heads = 2, .capacity = 12};
    arena memory;
    REQUIRE(sums.add(r.view(), memory) == errc::ok);
    auto const before = memory_of_sums;

    layer<float> l = r.view();
    l.keys.tokens = 9;  // fewer slots than there are sums
    CHECK(sums.add(l, memory) == errc::bad_shape);
    l.keys.tokens = 13;  // more than the capacity
    CHECK(sums.add(l, memory) == errc::bad_shape);
    l = r.view();
    l.keys.heads = 1;
    CHECK(sums.add(l, memory) == errc::bad_shape);
    l = r.view();
    l.queries.dim = 3;
    CHECK(sums.add(l, memory) == errc::bad_shape);
    CHECK(sums.add(r.view(uneven{10, {10, 6}}), memory) == errc::bad_shape);  // sums have one length
    fixed_memory little{128};
    arena small{little.bytes()};
    CHECK(sums.add(r.view(), small) == errc::out_of_memory);
    kv::column_sums too_little{.values = std::span{memory_of_sums}.first(23), .heads = 2, .capacity = 12};
    CHECK(too_little.add(r.view(), memory) == errc::bad_shape);

    tokens_list const three = {0, 4, 9}, two = {1, 2}, falling = {4, 0, 9};
    auto const compact = [&](std::vector<plan> const& items) { return sums.compact(plans{items}); };
    CHECK(compact({select_rows(three, 10), select_rows(two, 10)}) == errc::bad_plan);
    CHECK(compact({select_rows(falling, 10)}) == errc::bad_plan);
    CHECK(compact({select_rows(three, 11)}) == errc::bad_shape);
    CHECK(compact({select_rows(three, 10), select_rows(three, 10), select_rows(three, 10)}) == errc::bad_shape);
    CHECK(memory_of_sums == before);
    CHECK(sums.tokens() == 10);

    REQUIRE(compact({select_rows(three, 10)}) == errc::ok);
    CHECK(sums.tokens() == 3);
    CHECK(sums.row(1)[2] == before[12 + 9]);
}

TEST_CASE("a step in a full cache refuses what does not fit and changes nothing", "[kv][column_sums]") {
    std::vector<float> memory(2 * 8, 3.0F);
    auto const attention = uniform(4 * 6, 1);
    auto const rows = head_major(attention.data(), 4, 1, 6);
    kv::column_sums sums{.values = memory, .heads = 2, .capacity = 8, .used = 6};
    tokens_list slots(2, -7);
    auto const find = [&](attention_view const& a, index begin, index end) {
        return sums.add_and_find_lowest(a, begin, end, slots);
    };
    auto const with = [&](auto change) {
        attention_view a = rows;
        change(a);
        return find(a, 0, 6);
    };
    CHECK(with([](auto& a) { a.heads = 3; }) == errc::bad_shape);
    CHECK(with([](auto& a) { a.heads = 0; }) == errc::bad_shape);
    CHECK(with([](auto& a) { a.tokens = 2; }) == errc::bad_shape);
    CHECK(with([](auto& a) { a.dim = 5; }) == errc::bad_shape);
    CHECK(with([](auto& a) { a.data = nullptr; }) == errc::bad_shape);
    CHECK(with([&](auto& a) { a.data = memory.data(); }) == errc::aliased);
    CHECK(find(rows, -1, 6) == errc::bad_shape);
    CHECK(find(rows, 4, 3) == errc::bad_shape);
    CHECK(find(rows, 0, 7) == errc::bad_shape);
    CHECK(find(rows, 3, 3) == errc::bad_budget);
    tokens_list three(3);
    CHECK(sums.add_and_find_lowest(rows, 0, 6, three) == errc::bad_shape);
    kv::column_sums too_little = sums;
    too_little.values = std::span{memory}.first(15);
    CHECK(too_little.add_and_find_lowest(rows, 0, 6, slots) == errc::bad_shape);
    too_little = {.values = memory, .heads = 2, .capacity = 5, .used = 6};
    CHECK(too_little.add_and_find_lowest(rows, 0, 6, slots) == errc::bad_shape);
    kv::column_sums none{};
    CHECK(none.add_and_find_lowest(rows, 0, 6, slots) == errc::bad_shape);

    auto const step = [&](kv::h2o const& policy, index oldest) { return policy.step(sums, rows, oldest, slots); };
    CHECK(step({.keep = 0, .recent = 0}, 0) == errc::bad_budget);
    CHECK(step({.keep = 5, .recent = 6}, 5) == errc::bad_budget);
    CHECK(step({.keep = 5, .recent = -1}, 5) == errc::bad_budget);
    CHECK(step({.keep = 4, .recent = 2}, 5) == errc::bad_shape);
    CHECK(step({.keep = 6, .recent = 2}, 5) == errc::bad_shape);
    CHECK(step({.keep = 5, .recent = 2}, 3) == errc::bad_shape);
    CHECK(step({.keep = 5, .recent = 2}, 6) == errc::bad_shape);
    CHECK(memory == std::vector<float>(16, 3.0F));
    CHECK(slots == tokens_list{-7, -7});
    CHECK(step({.keep = 5, .recent = 2}, 4) == errc::ok);
}

TEST_CASE("a step in a full cache adds and names the slots that go", "[kv][h2o][column_sums]") {
    // Two kv heads of two query heads each, five slots.
    std::vector<float> const before = {4, 1, 2, 0, 5,  //
                                       9, 9, 9, 9, 9};
    std::vector<float> const attention = {0, 2, 0, 6, 0,  //
                                          0, 2, 2, 0, 4,  //
                                          1, 1, 0, 0, 0,  //
                                          1, 0, 1, 0, 0};
    auto const rows = head_major(attention.data(), 4, 1, 5);
    auto memory = before;
    kv::column_sums sums{.values = memory, .heads = 2, .capacity = 5, .used = 5};
    tokens_list slots(2);
    REQUIRE(sums.add_and_find_lowest(rows, 0, 5, slots) == errc::ok);
    CHECK(memory == std::vector<float>{4, 3, 3, 3, 7, 10, 9.5F, 9.5F, 9, 9});
    CHECK(slots == tokens_list{1, 3});  // of equal sums the first slot
    memory = before;
    REQUIRE(sums.add_and_find_lowest(rows, 2, 3, slots, serial{}, score::reduction::sum) == errc::ok);
    CHECK(memory == std::vector<float>{4, 5, 4, 6, 9, 11, 10, 10, 9, 9});
    CHECK(slots == tokens_list{2, 2});
    memory = before;
    REQUIRE(sums.add_and_find_lowest(rows, 0, 4, slots, serial{}, score::reduction::max) == errc::ok);
    CHECK(memory == std::vector<float>{4, 3, 4, 6, 9, 10, 10, 10, 9, 9});
    CHECK(slots == tokens_list{1, 3});

    // The token that leaves the ring (slot 4) takes the slot that goes.
    memory = before;
    REQUIRE(kv::h2o{.keep = 4, .recent = 2}.step(sums, rows, 4, slots) == errc::ok);
    CHECK(slots == tokens_list{1, 1});
    CHECK(memory == std::vector<float>{4, 7, 3, 3, 0, 10, 9, 9.5F, 9, 0});
    // Without a ring the next token does.
    memory = before;
    REQUIRE(kv::h2o{.keep = 4, .recent = 0}.step(sums, rows, 0, slots) == errc::ok);
    CHECK(slots == tokens_list{1, 3});
    CHECK(memory == std::vector<float>{4, 0, 3, 3, 7, 10, 9.5F, 9.5F, 0, 9});
}

TEST_CASE("a step in a full cache does not depend on threads, and beams go on from copies", "[kv][column_sums]") {
    index const heads = 7, n = 301;
    auto const before = uniform(heads * n, 1, 0, 1), attention = uniform(2 * heads * n, 2, 0, 1);
    auto const rows = head_major(attention.data(), 2 * heads, 1, n);
    kv::h2o const policy{.keep = n - 1, .recent = 20};
    auto const after = [&](auto const& run) {
        auto memory = before;
        kv::column_sums sums{.values = memory, .heads = heads, .capacity = n, .used = n};
        tokens_list slots(static_cast<std::size_t>(heads));
        REQUIRE(policy.step(sums, rows, n - 20, slots, run) == errc::ok);
        return std::pair{memory, slots};
    };
    auto const alone = after(serial{});
    for (index const count : worker_counts) CHECK(after(threads{count}) == alone);

    auto first = before, second = before;
    kv::column_sums beam{.values = first, .heads = heads, .capacity = n, .used = n}, fork = beam;
    fork.values = second;
    tokens_list slots(static_cast<std::size_t>(heads)), other = slots;
    REQUIRE(policy.step(beam, rows, n - 1, slots) == errc::ok);
    CHECK(second == before);
    REQUIRE(policy.step(fork, rows, n - 1, other) == errc::ok);
    CHECK(slots == other);
    CHECK(first == second);
}

TEST_CASE("h2o in place keeps what h2o with compaction keeps", "[kv][h2o][column_sums]") {
    index const heads = 4, kv_heads = 2, keep = 12, n = keep + 1, steps = 60;
    index const recent = GENERATE(0, 1, 5, 12);
    CAPTURE(recent);
    kv::h2o const policy{.keep = keep, .recent = recent};
    // The attention that a token of a position receives from a query head at a step.
    auto const given = uniform(heads * steps * (n + steps), 31, 0, 1);
    auto const received = [&](index h, index step, token position) {
        return given[static_cast<std::size_t>((h * steps + step) * (n + steps) + position)];
    };
    struct side {
        std::vector<float> memory = std::vector<float>(kv_heads * n, 0.0F);
        std::vector<tokens_list> positions = std::vector<tokens_list>(kv_heads);
        kv::column_sums sums{.values = memory, .heads = kv_heads, .capacity = n, .used = n};
    } moved, still;
    for (side* const s : {&moved, &still})
        for (auto& own : s->positions)
            for (token t = 0; t < n; ++t) own.push_back(t);

    index oldest = n - recent;
    for (index step = 0; step < steps; ++step) {
        auto const attention = [&](side const& s) {
            std::vector<float> rows;
            for (index h = 0; h < heads; ++h)
                for (token const position : s.positions[static_cast<std::size_t>(h / 2)])
                    rows.push_back(received(h, step, position));
            return rows;
        };
        token const next = static_cast<token>(n + step);

        auto const a = attention(moved);
        layer<float> const l{.keys = {.heads = kv_heads, .tokens = n}, .attention = head_major(a.data(), heads, 1, n)};
        arena memory;
        REQUIRE(moved.sums.add(l, memory) == errc::ok);
        auto const plans = policy(moved.sums, memory).value();
        REQUIRE(moved.sums.compact(plans) == errc::ok);
        for (std::size_t h = 0; h < 2; ++h) {
            tokens_list left;
            for (token const slot : plans[static_cast<index>(h)].sources)
                left.push_back(moved.positions[h][static_cast<std::size_t>(slot)]);
            moved.positions[h] = left;
            moved.positions[h].push_back(next);
        }

        auto const b = attention(still);
        tokens_list slots(2);
        REQUIRE(policy.step(still.sums, head_major(b.data(), heads, 1, n), oldest, slots) == errc::ok);
        for (std::size_t h = 0; h < 2; ++h) {
            auto& own = still.positions[h];
            auto const slot = static_cast<std::size_t>(slots[h]), ring = static_cast<std::size_t>(oldest);
            own[slot] = recent > 0 ? own[ring] : next;
            if (recent > 0) own[ring] = next;
            tokens_list sorted = own;
            std::sort(sorted.begin(), sorted.end());
            REQUIRE(sorted == moved.positions[h]);
        }
        if (recent > 0 && ++oldest == n) oldest = n - recent;
    }
}

TEST_CASE("a broken query or key costs its own rank and nothing else", "[kv]") {
    random_layer<> r{2, 1, 30, 8, 4, 9};
    arena memory;
    auto const whole = kept(kv::snapkv{.keep = 12, .window = 4}(r.view(), memory));
    r.keys.row(3)[0] = not_a_number;
    for (auto const& plans :
         {kv::snapkv{.keep = 12, .window = 4}(r.view(), memory), kv::tova{.keep = 12}(r.view(), memory),
          kv::h2o{.keep = 12, .recent = 4}(r.view(), memory), kv::key_norm{.keep = 12}(r.view(), memory)}) {
        REQUIRE(plans);
        CHECK((*plans)[0].kept() == 12);
        CHECK(is_valid((*plans)[0]));
    }
    CHECK(kept(kv::key_norm{.keep = 29}(r.view(), memory))[3] == 4);
}
}  // namespace terse::test
