#include <cmath>

#include <terse/kv/compact.hpp>
#include <terse/kv/deep_forcing.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/move/apply.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
tokens_list realigned(kv::deep_forcing const& policy, plan const& p, tokens_list const& times = {}) {
    tokens_list to(static_cast<std::size_t>(p.kept()), -1);
    REQUIRE(policy.realign(p, times, to) == errc::ok);
    return to;
}

/// What stays, by the definition: every query against every key of a candidate.
template <class T>
tokens_list by_products(layer<T> const& l, kv::deep_forcing const& s) {
    index const n = l.tokens(), first = s.sinks * s.frame, last = n - s.recent * s.frame;
    std::vector<std::pair<double, token>> candidates;
    for (index t = first; t < last; ++t) {
        double sum = 0;
        for (index h = 0; h < l.queries.heads; ++h)
            for (index i = 0; i < l.queries.tokens; ++i)
                for (index c = 0; c < l.keys.dim; ++c)
                    sum += static_cast<double>(static_cast<float>(l.queries.row(h, i)[c])) *
                           static_cast<double>(static_cast<float>(l.keys.row(h / l.group(), t)[c]));
        candidates.emplace_back(-sum, static_cast<token>(t));
    }
    std::sort(candidates.begin(), candidates.end());
    tokens_list kept;
    for (index t = 0; t < n; ++t)
        if (t < first || t >= last) kept.push_back(static_cast<token>(t));
    for (index i = 0; i < (s.keep - s.sinks - s.recent) * s.frame; ++i)
        kept.push_back(candidates[static_cast<std::size_t>(i)].second);
    std::sort(kept.begin(), kept.end());
    return kept;
}
}  // namespace

TEST_CASE("deep_forcing keeps sinks, what recent queries point at, and recent frames", "[kv][deep_forcing]") {
    // One channel, one query of 1: the largest keys. Frames of two tokens; a full cache has six.
    std::vector<float> const keys = {0, 0, 0, 0, 5, -9, 1, 7, 2, 3, 0, 0}, query = {1};
    layer<float> l{.keys = head_major(keys.data(), 1, 12, 1), .queries = head_major(query.data(), 1, 1, 1)};
    kv::deep_forcing const policy{.frame = 2, .capacity = 6, .keep = 4, .sinks = 2, .recent = 1};
    arena memory;
    auto const p = policy(l, memory).value();
    CHECK(p.shared());
    CHECK(list(p[0].sources) == tokens_list{0, 1, 2, 3, 4, 7, 10, 11});
    CHECK(policy.count(12) == 8);

    l.keys.tokens = 11;  // not full
    CHECK(policy(l, memory).value()[0].kept() == 11);
    CHECK(policy.count(11) == 11);
    l.keys.tokens = 0;
    CHECK(policy(l, memory).value()[0].kept() == 0);
}

TEST_CASE("deep_forcing adds up products without the layer's cap", "[kv][deep_forcing]") {
    // Slot 1 has products of 9 and 0, slot 2 of 4 and 4: with a cap of one, 1 and 2.
    std::vector<float> const keys = {0, 0, 9, 0, 4, 4, 0, 0}, queries = {1, 0, 0, 1};
    layer<float> l{.keys = head_major(keys.data(), 1, 4, 2), .queries = head_major(queries.data(), 1, 2, 2)};
    l.soft_cap = 1;
    arena memory;
    kv::deep_forcing const policy{.frame = 1, .capacity = 4, .keep = 3, .sinks = 1, .recent = 1};
    CHECK(list(policy(l, memory).value()[0].sources) == tokens_list{0, 1, 3});
}

TEST_CASE("deep_forcing without room between keeps sinks and recent frames", "[kv][deep_forcing]") {
    std::vector<float> const keys(12, 1), query = {1};
    layer<float> const l{.keys = head_major(keys.data(), 1, 12, 1), .queries = head_major(query.data(), 1, 1, 1)};
    arena memory;
    for (index const keep : {1, 2, 3}) {
        kv::deep_forcing const policy{.frame = 2, .capacity = 6, .keep = keep, .sinks = 2, .recent = 1};
        CHECK(list(policy(l, memory).value()[0].sources) == tokens_list{0, 1, 2, 3, 10, 11});
        CHECK(policy.count(12) == 6);
    }
    kv::deep_forcing const all{.frame = 2, .capacity = 6, .keep = 6, .sinks = 2, .recent = 1};
    CHECK(all(l, memory).value()[0].kept() == 12);
    kv::deep_forcing const more{.frame = 2, .capacity = 6, .keep = 1, .sinks = 5, .recent = 4};
    CHECK(more(l, memory).value()[0].kept() == 12);
    CHECK(more.count(12) == 12);
}

TEMPLATE_TEST_CASE("deep_forcing's choice is that of all products", "[kv][deep_forcing]", float, half, bfloat16) {
    for (index const kv_heads : {1, 2, 4}) {
        for (index const frames : {9, 12, 30}) {
            CAPTURE(kv_heads, frames);
            kv::deep_forcing const policy{.frame = 7, .capacity = 9, .keep = 7, .sinks = 3, .recent = 2};
            random_layer<TestType> const r{4, kv_heads, frames * 7, 20, 33, static_cast<unsigned>(frames)};
            arena memory;
            auto const p = policy(r.view(), memory).value();
            CHECK(list(p[0].sources) == by_products(r.view(), policy));
            for (index const workers : worker_counts)
                require_same_plan(policy(r.view(), memory, threads{workers}).value()[0], p[0]);
        }
    }
}

TEST_CASE("kept frames stand next to each other in time", "[kv][deep_forcing]") {
    kv::deep_forcing policy{.frame = 2, .capacity = 8, .keep = 5, .sinks = 2, .recent = 1};
    // Eight frames: two sinks, three tokens between, one recent frame.
    tokens_list const kept = {0, 1, 2, 3, 5, 8, 9, 14, 15};
    plan const p = select_rows(kept, 16);
    // The recent frame stays at 7, the three tokens fill 5 and 6, the last sink goes onto the time after it.
    CHECK(realigned(policy, p) == tokens_list{4, 4, 5, 5, 5, 5, 6, 7, 7});
    policy.adjacent = true;
    CHECK(realigned(policy, p) == tokens_list{3, 3, 4, 4, 5, 5, 6, 7, 7});

    // Times that are not the slots': the cache was realigned before.
    tokens_list times;
    for (token const t : {13, 14, 20, 21, 22, 23, 24, 25}) times.insert(times.end(), {t, t});
    CHECK(realigned(policy, p, times) == tokens_list{21, 21, 22, 22, 23, 23, 24, 25, 25});

    tokens_list const ends = {0, 1, 2, 3, 14, 15};
    CHECK(realigned(policy, select_rows(ends, 16)) == tokens_list{5, 5, 6, 6, 7, 7});
    tokens_list all(16);
    for (std::size_t t = 0; t < 16; ++t) all[t] = static_cast<token>(t);
    tokens_list const own = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    policy.adjacent = false;
    CHECK(realigned(policy, select_rows(all, 16)) == own);
    CHECK(realigned(policy, select_rows(all, 16), times) == times);

    kv::deep_forcing const no_recent{.frame = 2, .capacity = 8, .keep = 3, .sinks = 1, .recent = 0, .adjacent = true};
    tokens_list const first = {0, 1, 6, 7};
    CHECK(realigned(no_recent, select_rows(first, 16)) == tokens_list{6, 6, 7, 7});
    kv::deep_forcing const no_sinks{.frame = 2, .capacity = 8, .keep = 3, .sinks = 0, .recent = 1};
    tokens_list const last = {3, 6, 14, 15};
    CHECK(realigned(no_sinks, select_rows(last, 16)) == tokens_list{6, 6, 7, 7});
}

TEST_CASE("a video's cache goes on as if the kept tokens had stood there from the start", "[kv][deep_forcing]") {
    // Three axes: pairs 0 to 2 turn by the time, 3 and 4 by the row, 5 to 7 by the column of a 2 x 3 frame.
    index const heads = 2, frame = 6, frames = 7, n = frames * frame, dim = 16;
    auto const layout = GENERATE(kv::rope_layout::half_split, kv::rope_layout::interleaved);
    std::vector<float> const w = {1, .3F, .1F, .8F, .2F, .9F, .5F, .05F};
    auto const raw = random_heads(heads, n, dim, 4);
    auto const encoded = [&](index h, index t, index time) {
        std::vector<double> x(raw.row(t, h), raw.row(t, h) + dim);
        for (index i = 0; i < 8; ++i) {
            bool const split = layout == kv::rope_layout::half_split;
            double &a = x[static_cast<std::size_t>(split ? i : 2 * i)],
                   &b = x[static_cast<std::size_t>(split ? i + 8 : 2 * i + 1)];
            index const at = i < 3 ? time : i < 5 ? t % frame / 3 : t % 3;
            double const angle = static_cast<double>(at) * static_cast<double>(w[static_cast<std::size_t>(i)]);
            double const was = a;
            a = was * std::cos(angle) - b * std::sin(angle);
            b = b * std::cos(angle) + was * std::sin(angle);
        }
        return x;
    };
    tensor<> keys = raw;
    for (index h = 0; h < heads; ++h)
        for (index t = 0; t < n; ++t) {
            auto const x = encoded(h, t, t / frame);
            std::transform(x.begin(), x.end(), keys.row(t, h), [](double v) { return static_cast<float>(v); });
        }
    auto const queries = random_heads(4, 5, dim, 9);
    kv::deep_forcing const policy{
        .frame = frame, .capacity = frames, .keep = 5, .sinks = 2, .recent = 1, .adjacent = true};
    arena memory;
    auto const p = policy(layer<float>{.keys = keys.by_head(), .queries = queries.by_head()}, memory).value();
    index const kept = p[0].kept();
    REQUIRE(kept == 30);
    tokens_list times(static_cast<std::size_t>(n)), from(static_cast<std::size_t>(kept)), to = from;
    for (index t = 0; t < n; ++t) times[static_cast<std::size_t>(t)] = static_cast<token>(t / frame);
    REQUIRE(pick(p[0], times, std::span{from}, -1) == errc::ok);
    REQUIRE(policy.realign(p[0], times, to) == errc::ok);
    auto cache = head_major(keys.values.data(), heads, n, dim);
    REQUIRE(kv::compact(cache, p) == errc::ok);
    cache.tokens = kept;
    REQUIRE(kv::rotate(cache, from, to, {.inverse_frequency = w, .layout = layout, .axis = {0, 3}}) == errc::ok);
    for (index h = 0; h < heads; ++h) {
        for (index i = 0; i < kept; ++i) {
            auto const expected =
                encoded(h, p[0].sources[static_cast<std::size_t>(i)], to[static_cast<std::size_t>(i)]);
            for (index c = 0; c < dim; ++c)
                REQUIRE(static_cast<double>(cache.row(h, i)[c]) ==
                        Approx(expected[static_cast<std::size_t>(c)]).margin(1e-5));
        }
    }
}

TEST_CASE("deep_forcing says what does not fit", "[kv][deep_forcing]") {
    random_layer<> const r{4, 2, 24, 8, 6, 1};
    arena memory;
    kv::deep_forcing const good{.frame = 2, .capacity = 6, .keep = 4, .sinks = 1, .recent = 1};
    auto const with = [&](auto change) {
        auto policy = good;
        change(policy);
        auto const error = policy(r.view(), memory).error();
        tokens_list to(24);
        CHECK(policy.realign(keep_all(24, memory).value(), {}, to) == error);
        memory.rewind();
        return error;
    };
    CHECK(with([](auto& s) { s.frame = 0; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.frame = -2; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.capacity = -1; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.keep = 0; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.sinks = -1; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.recent = -1; }) == errc::bad_budget);
    CHECK(with([](auto& s) { s.capacity = max_tokens; }) == errc::bad_budget);
    auto l = r.view();
    l.queries.dim = 7;
    CHECK(good(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return good(r.view(), m); });

    tokens_list const few = {0, 1, 2}, enough = {0, 1, 5, 22, 23}, twice = {0, 1, 1, 22, 23}, times(23), zeros = {0, 5};
    tokens_list to(5, -7);
    CHECK(good.realign(select_rows(few, 24), {}, std::span{to}.first(3)) == errc::bad_plan);
    CHECK(good.realign(select_rows(twice, 24), {}, to) == errc::bad_plan);
    CHECK(good.realign(plan{.tokens = 24, .sources = enough, .offsets = zeros, .anchor = few}, {},
                       std::span{to}.first(1)) == errc::bad_plan);
    CHECK(good.realign(select_rows(enough, 24), {}, std::span{to}.first(4)) == errc::bad_shape);
    CHECK(good.realign(select_rows(enough, 24), times, to) == errc::bad_shape);
    CHECK(to == tokens_list(5, -7));
}
}  // namespace terse::test
