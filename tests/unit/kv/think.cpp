#include <terse/kv/channels.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/think.hpp>
#include <terse/move/apply.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {
/// Channels {0, 3} of head 0 and {1, 2, 4} of head 1.
struct two_heads {
    std::vector<token> first = {0, 3}, second = {1, 2, 4};
    std::vector<plan> items = {select_rows(first, 5), select_rows(second, 5)};
    [[nodiscard]] plans view() const { return {items}; }
};
}  // namespace

TEST_CASE("think keeps the channels with the most energy", "[kv][think]") {
    std::vector<float> const keys = {1, 2, 3, 0, 1, 0}, queries = {9, 0, 1, 0, 5, 1};
    layer<float> const l{.keys = head_major(keys.data(), 1, 2, 3), .queries = head_major(queries.data(), 1, 2, 3)};
    auto const kept = [&](kv::think const& policy) {
        arena memory;
        auto const got = policy(l, memory).value();
        CHECK(got[0].tokens == 3);
        CHECK(got[0].kept() == policy.count(3));
        return list(got[0].sources);
    };
    CHECK(kept({.keep = 1, .window = 1}) == tokens_list{1});  // .5 * 0, 2.5 * 25, 4.5 * 1
    CHECK(kept({.keep = 2, .window = 1}) == tokens_list{1, 2});
    CHECK(kept({.keep = 2, .window = 2}) == tokens_list{0, 1});  // .5 * 40.5, 2.5 * 12.5, 4.5 * 1
    CHECK(kept({.keep = 9, .window = 2}) == tokens_list{0, 1, 2});
}

TEST_CASE("think refuses what it cannot do", "[kv][think]") {
    random_layer<> const r{4, 2, 20, 8, 4, 3};
    std::vector<range> const guarded = {{0, 20}};  // slots, not channels
    auto l = r.view();
    l.guarded = guarded;
    arena memory;
    CHECK(kv::think{.keep = 4, .window = 0}(l, memory).error() == errc::bad_setting);
    CHECK(kv::think{.keep = 4, .window = 5}(l, memory).error() == errc::bad_shape);
    CHECK(kv::think{.keep = 0, .window = 4}(l, memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    auto const one = kv::think{.keep = 4, .window = 4}(l, memory).value();
    CHECK(one[1].kept() == 4);
    for (index const workers : worker_counts)
        for (index h = 0; h < 2; ++h)
            require_same_plan(kv::think{.keep = 4, .window = 4}(l, memory, threads{workers}).value()[h], one[h]);
    require_exact_peak([&](arena& m) { return kv::think{.keep = 4, .window = 4}(l, m); });

    // A channel that holds NaN goes first, and nothing else suffers.
    auto bad = r;
    bad.keys.row(7)[one[0].sources[0]] = not_a_number;
    auto const got = kv::think{.keep = 7, .window = 4}(bad.view(), memory).value();
    CHECK(std::count(got[0].sources.begin(), got[0].sources.end(), one[0].sources[0]) == 0);
}

TEMPLATE_LIST_TEST_CASE("channels are gathered and zeroed a head", "[kv][channels]", storages) {
    using T = TestType;
    two_heads const chosen;
    auto const x = cast<T>(random_heads(2, 3, 5, 1));
    for (index const workers : {index{1}, index{3}}) {
        auto zeroed = x;
        heads_span<T> const in_place = head_major(zeroed.values.data(), 2, 3, 5);
        REQUIRE(kv::zero_channels(in_place, chosen.view(), threads{workers}) == errc::ok);
        tensor<T> thin{std::vector<T>(2 * 3 * 4, static_cast<T>(7.0F)), 2, 3, 4}, same = x;
        auto const out = head_major(thin.values.data(), 2, 3, 4);
        REQUIRE(kv::gather_channels(x.by_head(), out, chosen.view(), 2, threads{workers}) == errc::ok);
        heads_span<T> narrow = head_major(same.values.data(), 2, 3, 5);
        narrow.dim = 3;
        REQUIRE(kv::gather_channels(same.by_head(), narrow, chosen.view(), 2, threads{workers}) == errc::ok);
        for (index h = 0; h < 2; ++h) {
            for (index t = 0; t < 3; ++t) {
                auto const& kept = h == 0 ? chosen.first : chosen.second;
                for (index c = 0; c < 5; ++c) {
                    bool const stays = std::count(kept.begin(), kept.end(), c) == 1;
                    CHECK(zeroed.row(t, h)[c] == (stays ? x.row(t, h)[c] : static_cast<T>(0.0F)));
                }
                for (index i = 0; i < 4; ++i) {
                    T const expected =
                        i < std::ssize(kept) ? x.row(t, h)[kept[static_cast<std::size_t>(i)]] : static_cast<T>(0.0F);
                    CHECK(thin.row(t, h)[i] == expected);
                    CHECK((i == 3 || narrow.row(h, t)[i] == expected));
                }
            }
        }
    }
}

TEST_CASE("gathered queries meet gathered keys in the logits of zeroed keys", "[kv][channels]") {
    random_layer<> const r{4, 2, 30, 24, 6, 5};
    arena memory;
    auto const kept = kv::think{.keep = 9, .window = 6}(r.view(), memory).value();
    tensor<float> zeroed = r.keys, keys{std::vector<float>(2 * 30 * 9), 2, 30, 9},
                  queries{std::vector<float>(4 * 6 * 9), 4, 6, 9};
    REQUIRE(kv::zero_channels(head_major(zeroed.values.data(), 2, 30, 24), kept) == errc::ok);
    REQUIRE(kv::gather_channels(r.keys.by_head(), head_major(keys.values.data(), 2, 30, 9), kept, 2) == errc::ok);
    REQUIRE(kv::gather_channels(r.queries.by_head(), head_major(queries.values.data(), 4, 6, 9), kept, 2) == errc::ok);
    for (index h = 0; h < 4; ++h) {
        auto const full = head_rows(r.queries, h, 6), thin = head_rows(queries, h, 6);
        auto const cut = head_rows(zeroed, h / 2, 30), small = head_rows(keys, h / 2, 30);
        for (std::size_t i = 0; i < 6; ++i)
            for (std::size_t t = 0; t < 30; ++t) CHECK(product(full[i], cut[t]) == Approx(product(thin[i], small[t])));
    }
}

TEST_CASE("keys stored by channel lose whole rows", "[kv][channels]") {
    two_heads const chosen;
    auto const x = random_heads(2, 5, 7, 2);  // [heads, dim, tokens]
    auto copy = x;
    transposed_span<float> const cache{copy.values.data(), 2, 7, 5, 35, 7};
    tensor<float> out{std::vector<float>(2 * 3 * 7), 2, 3, 7};
    std::vector<token> const other = {0, 1, 3};
    std::vector<plan> const even = {select_rows(other, 5), select_rows(chosen.second, 5)};
    REQUIRE(apply(plans{even}, kv::channels_of(cache), head_major(out.values.data(), 2, 3, 7)) == errc::ok);
    REQUIRE(kv::compact(kv::channels_of(cache), chosen.view()) == errc::ok);
    for (index t = 0; t < 7; ++t) {
        CHECK(out.row(2, 0)[t] == x.row(3, 0)[t]);
        CHECK(out.row(1, 1)[t] == x.row(2, 1)[t]);
        CHECK(copy.row(1, 0)[t] == x.row(3, 0)[t]);
        CHECK(copy.row(2, 1)[t] == x.row(4, 1)[t]);
    }
}

TEST_CASE("plans over channels are checked before anything is written", "[kv][channels]") {
    two_heads const chosen;
    auto x = random_heads(2, 3, 5, 1);
    auto const before = x.values;
    std::vector<float> room(40);
    heads_span<float> const cache = head_major(x.values.data(), 2, 3, 5), out = head_major(room.data(), 2, 3, 3);
    auto const gather = [&](heads_view<float> in, heads_span<float> to, plans p, index kv_heads = 2) {
        return kv::gather_channels(in, to, p, kv_heads);
    };
    auto const with = [](auto v, auto change) {
        change(v);
        return v;
    };
    CHECK(gather(cache, with(out, [](auto& v) { v.heads = 1; }), chosen.view()) == errc::bad_shape);
    CHECK(gather(cache, with(out, [](auto& v) { v.tokens = 2; }), chosen.view()) == errc::bad_shape);
    CHECK(gather(cache, with(out, [](auto& v) { v.dim = 2; }), chosen.view()) == errc::bad_shape);
    CHECK(gather(cache, out, chosen.view(), 0) == errc::bad_shape);
    CHECK(gather(cache, out, chosen.view(), 4) == errc::bad_shape);
    CHECK(gather(with(cache, [](auto& v) { v.heads = 3; }), with(out, [](auto& v) { v.heads = 3; }), chosen.view()) ==
          errc::bad_shape);  // a head and a half of queries
    CHECK(gather(cache, out, {}) == errc::bad_shape);
    CHECK(gather(with(cache, [](auto& v) { v.dim = 4; }), out, chosen.view()) == errc::bad_shape);
    CHECK(gather(cache, with(out, [&](auto& v) { v.data = x.values.data() + 1; }), chosen.view()) == errc::aliased);
    CHECK(gather(cache, with(cache, [&](auto& v) { v.dim = 3, v.token_stride = 3; }), chosen.view()) == errc::aliased);
    CHECK(gather(cache, with(cache, [&](auto& v) { v.dim = 3, v.head_stride = 14; }), chosen.view()) == errc::aliased);
    CHECK(gather(cache, with(cache, [&](auto& v) { v.dim = 6; }), chosen.view()) == errc::aliased);

    std::vector<token> const descending = {3, 0};
    std::vector<plan> const unordered = {select_rows(descending, 5)};
    CHECK(kv::zero_channels(cache, {unordered}) == errc::bad_plan);
    CHECK(gather(cache, out, {unordered}) == errc::bad_plan);
    std::vector<token> const pair = {0, 3}, one_row = {0, 2}, first = {0};  // the sum of two channels
    std::vector<plan> const merged = {{.tokens = 5, .sources = pair, .offsets = one_row, .anchor = first}};
    CHECK(kv::zero_channels(cache, {merged}) == errc::bad_plan);
    CHECK(gather(cache, out, {merged}) == errc::bad_plan);
    std::vector<plan> const three(3, chosen.items[0]);
    CHECK(kv::zero_channels(cache, {three}) == errc::bad_shape);
    CHECK(kv::zero_channels(with(cache, [](auto& v) { v.dim = 4; }), chosen.view()) == errc::bad_shape);
    CHECK(x.values == before);
    CHECK(kv::zero_channels(cache, plans{std::span{chosen.items}.first(1)}) == errc::ok);  // one for all heads
    CHECK(x.row(2, 1)[4] == 0);
    CHECK(x.row(2, 1)[3] == before[28]);
}
}  // namespace terse::test
