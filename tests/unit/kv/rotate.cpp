#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/kv/compact.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/kv/streaming_llm.hpp>

namespace kv = terse::kv;
using kv::rope_layout;
using terse::errc;
using terse::plan;
using terse::plans;
using terse::token;

namespace {

struct backwards {
    [[nodiscard]] static constexpr terse::index workers() noexcept { return 1; }
    template <class Body>
    void operator()(terse::index count, Body&& body) const noexcept {
        for (terse::index i = count; i-- > 0;) body(i, i + 1, terse::index{0});
    }
};

std::vector<float> frequencies(std::size_t pairs) {
    std::vector<float> w;
    for (std::size_t i = 0; i < pairs; ++i)
        w.push_back(std::pow(10000.0F, -static_cast<float>(i) / static_cast<float>(pairs)));
    return w;
}

// The keys of a model whose keys do not depend on the position before it is encoded: raw(h, t), rotated in double.
template <class T, class Cache>
void encode(Cache const& keys, kv::rope const& r, std::vector<token> const& positions) {
    for (terse::index h = 0; h < keys.heads; ++h) {
        for (terse::index t = 0; t < keys.tokens; ++t) {
            std::mt19937 random(static_cast<unsigned>(h * 1000 + t));
            std::normal_distribution<double> normal;
            std::vector<double> x(static_cast<std::size_t>(keys.dim));
            for (double& v : x) v = normal(random);
            std::size_t const pairs = r.inverse_frequency.size();
            for (std::size_t i = 0; i < pairs; ++i) {
                bool const split = r.layout == rope_layout::half_split;
                double &a = x[split ? i : 2 * i], &b = x[split ? i + pairs : 2 * i + 1];
                double const angle = static_cast<double>(positions[static_cast<std::size_t>(t)]) *
                                     static_cast<double>(r.inverse_frequency[i]);
                double const c = std::cos(angle), s = std::sin(angle), turned = a * c - b * s;
                b = b * c + a * s;
                a = turned;
            }
            for (terse::index c = 0; c < keys.dim; ++c)
                keys.row(h, t)[c] = static_cast<T>(static_cast<float>(x[static_cast<std::size_t>(c)]));
        }
    }
}

template <class T>
float largest_difference(std::vector<T> const& a, std::vector<T> const& b) {
    float most = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        most = std::max(most, std::abs(static_cast<float>(a[i]) - static_cast<float>(b[i])));
    return most;
}

template <class T>
constexpr float unit = std::is_same_v<T, float>         ? 3e-6F
                       : std::is_same_v<T, terse::half> ? 6e-3F
                                                        : 5e-2F;

}  // namespace

TEST_CASE("a key one position back", "[kv][rotate]") {
    std::vector<float> const w{1, 0.01F};
    std::vector<token> const from{1}, to{0};
    std::vector<float> key{1, 0, 0, 0, 7};
    CHECK(kv::rotate(terse::head_major(key.data(), 1, 1, 5), from, to, {w}) == errc::ok);
    CHECK(key[0] == Approx(0.5403).margin(1e-4));
    CHECK(key[1] == 0);
    CHECK(key[2] == Approx(-0.8415).margin(1e-4));
    CHECK(key[3] == 0);
    CHECK(key[4] == 7);  // not a rotary channel
    key = {1, 0, 0, 0};
    CHECK(kv::rotate(terse::head_major(key.data(), 1, 1, 4), from, to, {w, rope_layout::interleaved}) == errc::ok);
    CHECK(key[0] == Approx(0.5403).margin(1e-4));
    CHECK(key[1] == Approx(-0.8415).margin(1e-4));
    CHECK(key[2] == 0);
    CHECK(key[3] == 0);
}

TEMPLATE_TEST_CASE("rotation gives the keys of the other positions", "[kv][rotate]", float, terse::half,
                   terse::bfloat16) {
    constexpr terse::index heads = 3, tokens = 11;
    auto const layout = GENERATE(rope_layout::half_split, rope_layout::interleaved);
    for (std::size_t const pairs : {1U, 3U, 8U, 13U, 64U, 67U}) {
        auto const dim = static_cast<terse::index>(2 * pairs + pairs % 4);
        CAPTURE(pairs);
        auto const w = frequencies(pairs);
        kv::rope const r{w, layout};
        std::vector<token> const from{0, 1, 2, 3, 70, 71, 5000, 90001, 123456, 123457, 131071};
        std::vector<token> const to{0, 0, 1, 2, 4, 5, 6000, 0, 8, 9, 10};
        std::vector<TestType> keys(static_cast<std::size_t>(heads * tokens * dim)), expected = keys;
        auto const view = terse::token_major(keys.data(), heads, tokens, dim);
        encode<TestType>(view, r, from);
        encode<TestType>(terse::token_major(expected.data(), heads, tokens, dim), r, to);
        auto cut = keys, each = keys;
        CHECK(kv::rotate(view, from, to, r) == errc::ok);
        CHECK(largest_difference(keys, expected) < unit<TestType>);

        CHECK(kv::rotate(terse::token_major(cut.data(), heads, tokens, dim), from, to, r, backwards{}) == errc::ok);
        CHECK(largest_difference(cut, keys) == 0);

        std::vector<token> all_from, all_to;
        for (terse::index h = 0; h < heads; ++h) {
            all_from.insert(all_from.end(), from.begin(), from.end());
            all_to.insert(all_to.end(), to.begin(), to.end());
        }
        CHECK(kv::rotate(terse::token_major(each.data(), heads, tokens, dim), all_from, all_to, r) == errc::ok);
        CHECK(largest_difference(each, keys) == 0);
    }
}

TEST_CASE("one axis of several turns", "[kv][rotate]") {
    auto const layout = GENERATE(rope_layout::half_split, rope_layout::interleaved);
    auto const w = frequencies(90);
    std::vector<token> const from{0, 7, 3}, to{5, 6, 400};
    for (terse::range const axis : {terse::range{0, 22}, {22, 43}, {43, 90}, {5, 89}, {89, 90}}) {
        CAPTURE(axis.begin, axis.end);
        std::vector<float> keys(2 * 3 * 181);
        std::mt19937 random(3);
        std::normal_distribution<float> normal;
        for (float& x : keys) x = normal(random);
        auto const before = keys;
        auto whole = keys;
        auto const rows = terse::head_major(keys.data(), 2, 3, 181);
        REQUIRE(kv::rotate(rows, from, to, {w, layout, axis}) == errc::ok);
        REQUIRE(kv::rotate(terse::head_major(whole.data(), 2, 3, 181), from, to, {w, layout}) == errc::ok);
        for (std::size_t i = 0; i < keys.size(); ++i) {
            auto const channel = static_cast<terse::index>(i % 181);
            auto const pair = layout == rope_layout::half_split ? channel % 90 : channel / 2;
            bool const turns = channel < 180 && axis.begin <= pair && pair < axis.end;
            REQUIRE(keys[i] == Approx(turns ? whole[i] : before[i]).margin(1e-6));
            if (!turns) REQUIRE(keys[i] == before[i]);
        }
    }
    std::vector<float> keys(3 * 180, 1);
    auto const rows = terse::head_major(keys.data(), 1, 3, 180);
    for (terse::range const axis : {terse::range{0, 91}, {-1, 5}, {7, 3}})
        CHECK(kv::rotate(rows, from, to, {w, layout, axis}) == errc::bad_shape);
    CHECK(keys == std::vector<float>(3 * 180, 1));
}

TEST_CASE("a compacted cache is renumbered from 0", "[kv][rotate]") {
    constexpr terse::index heads = 2, tokens = 40, dim = 24;
    auto const w = frequencies(10);
    kv::rope const r{w};
    std::vector<token> few{0, 1, 2, 17, 18, 33}, more{0, 4, 5, 6, 7, 8, 20, 39};
    std::vector<plan> const own{terse::select_rows(few, tokens), terse::select_rows(more, tokens)};
    auto const stored = GENERATE(false, true);
    std::vector<token> positions(tokens);
    std::iota(positions.begin(), positions.end(), stored ? 1000 : 0);
    if (stored) positions[18] = 1700;  // a gap from an eviction before
    for (plans const p : {plans{own}, plans{std::span{own}.first(1)}}) {
        std::vector<float> memory(heads * tokens * dim), fresh = memory;
        auto const keys = terse::head_major(memory.data(), heads, tokens, dim);
        encode<float>(keys, r, positions);
        REQUIRE(kv::compact(keys, p) == errc::ok);
        auto const compacted = memory;
        auto paged_memory = memory, each_memory = memory;
        auto const old = stored ? terse::view(positions.data(), 1, tokens) : terse::tokens_span<token>{};
        CHECK(kv::renumber(keys, p, old, r) == errc::ok);

        for (terse::index h = 0; h < heads; ++h) {
            std::vector<token> now(tokens);
            for (terse::index i = 0; i < p[h].kept(); ++i)
                now[static_cast<std::size_t>(p[h].sources[static_cast<std::size_t>(i)])] = static_cast<token>(i);
            auto const expected = terse::head_major(fresh.data(), heads, tokens, dim);
            encode<float>(expected, r, now);
            for (terse::index i = 0; i < tokens; ++i) {
                for (terse::index c = 0; c < dim; ++c) {
                    if (i < p[h].kept())
                        CHECK(keys.row(h, i)[c] ==
                              Approx(expected.row(h, p[h].sources[static_cast<std::size_t>(i)])[c]).margin(1e-5));
                    else
                        CHECK(keys.row(h, i)[c] == compacted[static_cast<std::size_t>((h * tokens + i) * dim + c)]);
                }
            }
        }

        std::vector<token> const blocks{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
        terse::paged_span<float> const paged{paged_memory.data(), blocks, heads, tokens, dim, 4, 4 * dim,
                                             tokens * dim,        dim};
        CHECK(kv::renumber(paged, p, old, r) == errc::ok);
        CHECK(paged_memory == memory);

        // A row for each head, in room for more; and where the heads' rows differ.
        std::vector<token> twice(2 * (tokens + 3));
        for (terse::index h = 0; h < heads; ++h)
            std::copy(positions.begin(), positions.end(), twice.begin() + h * (tokens + 3));
        auto const both = terse::view(twice.data(), heads, tokens, tokens + 3);
        auto apart_memory = each_memory;
        auto const each = terse::head_major(each_memory.data(), heads, tokens, dim);
        CHECK(kv::renumber(each, p, both, r) == errc::ok);
        CHECK(each_memory == memory);
        for (terse::index t = 0; t < tokens; ++t) both.row(1)[t] += 5;
        auto const apart = terse::head_major(apart_memory.data(), heads, tokens, dim);
        CHECK(kv::renumber(apart, p, both, r) == errc::ok);
        CHECK(std::equal(each.row(0, 0), each.row(1, 0), apart.row(0, 0)));
        std::vector<token> const zero(tokens), five(tokens, 5);
        terse::heads_span<float> second{apart.row(1, 0), 1, p[1].kept(), dim, 0, dim};
        auto const count = static_cast<std::size_t>(second.tokens);
        CHECK(kv::rotate(second, std::span{zero}.first(count), std::span{five}.first(count), r) == errc::ok);
        for (terse::index i = 0; i < second.tokens * dim; ++i)
            CHECK(second.data[i] == Approx(each.row(1, 0)[i]).margin(1e-4));
    }
}

TEMPLATE_TEST_CASE("keys cached before their rotation turn at each use, and never drift", "[kv][rotate]", float,
                   terse::half, terse::bfloat16) {
    constexpr terse::index heads = 2, tokens = 50, room = 12, dim = 24;
    kv::streaming_llm const policy{.sinks = 2, .recent = 9};
    auto const w = frequencies(12);
    kv::rope const r{w};
    std::vector<token> const nowhere(room);
    std::vector<token> slots(room);
    std::iota(slots.begin(), slots.end(), token{0});
    std::vector<TestType> raw(heads * tokens * dim), expected = raw;
    encode<TestType>(terse::head_major(raw.data(), heads, tokens, dim), r, std::vector<token>(tokens));

    std::vector<TestType> cache(heads * room * dim);
    auto const rows_of = [](std::vector<TestType>& memory, terse::index count) {
        return terse::heads_span<TestType>{memory.data(), heads, count, dim, room * dim, dim};
    };
    std::vector<token> held;
    terse::arena memory;
    for (token now = 0; now < tokens; ++now) {
        held.push_back(now);
        auto const used = std::ssize(held);
        for (terse::index h = 0; h < heads; ++h)
            std::copy_n(raw.data() + (h * tokens + now) * dim, dim, rows_of(cache, used).row(h, used - 1));

        auto turned = cache;
        auto const count = static_cast<std::size_t>(used);
        std::span<token const> const from{nowhere.data(), count}, to{slots.data(), count};
        REQUIRE(kv::rotate(rows_of(turned, used), from, to, r) == errc::ok);
        std::vector<token> stands(tokens);
        for (std::size_t i = 0; i < count; ++i) stands[static_cast<std::size_t>(held[i])] = slots[i];
        encode<TestType>(terse::head_major(expected.data(), heads, tokens, dim), r, stands);
        for (terse::index h = 0; h < heads; ++h)
            for (std::size_t i = 0; i < count; ++i)
                for (terse::index c = 0; c < dim; ++c)
                    REQUIRE(
                        static_cast<float>(rows_of(turned, used).row(h, static_cast<terse::index>(i))[c]) ==
                        Approx(static_cast<float>(expected[static_cast<std::size_t>((h * tokens + held[i]) * dim + c)]))
                            .margin(static_cast<double>(unit<TestType>)));

        memory.rewind();
        auto const kept = policy(used, memory).value();
        REQUIRE(kv::compact(rows_of(cache, used), kept) == errc::ok);
        REQUIRE(kv::compact(std::span{held}, kept[0]) == errc::ok);
        held.resize(static_cast<std::size_t>(kept[0].kept()));
    }
    CHECK(held == std::vector<token>{0, 1, 41, 42, 43, 44, 45, 46, 47, 48, 49});
}

TEST_CASE("a rotation that does not fit changes nothing", "[kv][rotate]") {
    std::vector<float> memory(2 * 3 * 4, 1);
    auto const keys = terse::head_major(memory.data(), 2, 3, 4);
    std::vector<float> const w{1, 0.5F}, wide{1, 1, 1}, endless{1, std::numeric_limits<float>::infinity()};
    std::vector<token> const from{0, 1, 2}, to{5, 6, 7}, picked{0, 2}, offsets{0, 2}, wider(9);
    plan const selection = terse::select_rows(picked, 3);
    plan const pooled{.tokens = 3, .sources = picked, .offsets = offsets};
    plans const p{{&selection, 1}};
    CHECK(kv::rotate(keys, from, to, {wide}) == errc::bad_shape);
    CHECK(kv::rotate(keys, from, to, {endless}) == errc::bad_setting);
    CHECK(kv::rotate(keys, from, std::span{to}.first(2), {w}) == errc::bad_shape);
    CHECK(kv::rotate(keys, std::span{from}.first(2), std::span{to}.first(2), {w}) == errc::bad_shape);
    CHECK(kv::renumber(keys, p, {}, {wide}) == errc::bad_shape);
    CHECK(kv::renumber(keys, p, {}, {endless}) == errc::bad_setting);
    CHECK(kv::renumber(keys, p, terse::view(to.data(), 1, 2), {w}) == errc::bad_shape);
    CHECK(kv::renumber(keys, p, terse::view(wider.data(), 3, 3), {w}) == errc::bad_shape);
    CHECK(kv::renumber(keys, plans{}, {}, {w}) == errc::bad_shape);
    CHECK(kv::renumber(terse::head_major(memory.data(), 2, 2, 4), p, {}, {w}) == errc::bad_shape);
    CHECK(kv::renumber(keys, plans{{&pooled, 1}}, {}, {w}) == errc::bad_plan);
    CHECK(memory == std::vector<float>(24, 1));
    CHECK(kv::rotate(keys, from, to, {}) == errc::ok);  // no frequencies, nothing turns
    CHECK(memory == std::vector<float>(24, 1));
    CHECK(kv::rotate(terse::head_major(memory.data(), 2, 0, 4), {}, {}, {w}) == errc::ok);
}
