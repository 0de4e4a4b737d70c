// The evictions that read keys and values but no queries.
#include <terse/kv/cur.hpp>
#include <terse/kv/keydiff.hpp>
#include <terse/kv/lagkv.hpp>
#include <terse/kv/q_filter.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {
layer<float> one_head(std::vector<float> const& keys, std::vector<float> const& values, index dim) {
    index const n = std::ssize(keys) / dim;
    return {.keys = head_major(keys.data(), 1, n, dim), .values = head_major(values.data(), 1, n, dim)};
}

template <class Policy, class Layer>
tokens_list kept(Policy const& policy, Layer const& l, index h = 0) {
    arena memory;
    return list(policy(l, memory).value()[h].sources);
}

template <class Policy>
errc error_of(Policy const& policy, layer<float> const& l) {
    arena memory;
    auto const error = policy(l, memory).error();
    CHECK(memory.used() == 0);
    return error;
}
}  // namespace

TEST_CASE("keydiff keeps unlike keys, sinks and recent slots", "[kv][keydiff]") {
    std::vector<float> const x = {1, 0, 1, .1F, 0, 1, 1, 0, -1, 0, 1, 0};
    auto const l = one_head(x, x, 2);
    CHECK(kept(kv::keydiff{.keep = 2}, l) == tokens_list{2, 4});
    CHECK(kept(kv::keydiff{.keep = 3, .sinks = 1, .recent = 1}, l) == tokens_list{0, 4, 5});
    CHECK(kept(kv::keydiff{.keep = 6}, l) == tokens_list{0, 1, 2, 3, 4, 5});
    CHECK(error_of(kv::keydiff{}, l) == errc::bad_budget);
    CHECK(error_of(kv::keydiff{.keep = 2, .sinks = 2, .recent = 1}, l) == errc::bad_budget);
    CHECK(error_of(kv::keydiff{.keep = 2, .sinks = -1}, l) == errc::bad_budget);
}

TEST_CASE("q_filter keeps keys that reach least along the filter", "[kv][q_filter]") {
    std::vector<float> const x = {1, 0, 5, 9, -2, 0, 0, 7, 3, 0}, filter = {1, 0};
    auto const l = one_head(x, x, 2);
    auto const filters = view(filter.data(), 1, 2);
    CHECK(kept(kv::q_filter{.keep = 2, .filters = filters}, l) == tokens_list{2, 3});
    CHECK(kept(kv::q_filter{.keep = 3, .filters = filters, .sinks = 1, .recent = 1}, l) == tokens_list{0, 2, 4});
    CHECK(error_of(kv::q_filter{.keep = 2}, l) == errc::bad_shape);
    CHECK(error_of(kv::q_filter{.filters = filters}, l) == errc::bad_budget);
}

TEST_CASE("cur keeps long keys with long values", "[kv][cur]") {
    std::vector<float> const k = {9, 1, 4, 2, 3, 3}, v = {1, 1, 1, 5, 3, 3};
    auto const l = one_head(k, v, 1);
    CHECK(kept(kv::cur{.keep = 3, .sinks = 0, .block = 0}, l) == tokens_list{0, 3, 4});  // 81 1 16 100 81 81
    CHECK(kept(kv::cur{.keep = 3, .sinks = 1, .recent = 1, .block = 0}, l) == tokens_list{0, 3, 5});
    CHECK(kept(kv::cur{.keep = 1, .sinks = 0, .what = score::norm_of::keys}, l) == tokens_list{0});
    CHECK(kept(kv::cur{.keep = 1, .sinks = 0, .what = score::norm_of::values}, l) == tokens_list{3});
    CHECK(error_of(kv::cur{.keep = 3}, l) == errc::bad_budget);  // four sinks
    CHECK(error_of(kv::cur{.keep = 3, .sinks = 0, .block = -1}, l) == errc::bad_setting);
}

TEST_CASE("lagkv keeps as many of each partition, the sinks and the last", "[kv][lagkv]") {
    random_layer<> const r{2, 2, 75, 12, 1, 3};
    auto const slots = kept(kv::lagkv{.keep = 55, .lag = 16}, r.view());  // 4 + 23 at the ends, 28 of 48 between
    for (index const first : {4, 20, 36}) {
        auto const of =
            std::count_if(slots.begin(), slots.end(), [&](token t) { return first <= t && t < first + 16; });
        CHECK((9 <= of && of <= 10));
    }
    for (token const t : {0, 3, 52, 74}) CHECK(std::count(slots.begin(), slots.end(), t) == 1);

    // Below what is always kept, the sinks and the last.
    std::vector<float> const x = uniform(16, 1);
    auto l = one_head(x, x, 2);
    CHECK(kept(kv::lagkv{.keep = 3, .sinks = 1, .lag = 2}, l) == tokens_list{0, 6, 7});
    CHECK(kept(kv::lagkv{.keep = 1, .sinks = 1, .lag = 2}, l) == tokens_list{0});
    CHECK(kept(kv::lagkv{.keep = 4, .sinks = 1, .lag = 9}, l) == tokens_list{0, 5, 6, 7});  // too few for partitions
    std::vector<range> const guarded = {{2, 4}};
    l.guarded = guarded;
    CHECK(kept(kv::lagkv{.keep = 4, .sinks = 1, .lag = 2}, l) == tokens_list{0, 2, 3, 7});
    l.guarded = {};

    CHECK(error_of(kv::lagkv{}, l) == errc::bad_budget);
    CHECK(error_of(kv::lagkv{.keep = 3}, l) == errc::bad_budget);  // four sinks
    CHECK(error_of(kv::lagkv{.keep = 3, .sinks = -1}, l) == errc::bad_budget);
    CHECK(error_of(kv::lagkv{.keep = 3, .sinks = 1, .lag = 0}, l) == errc::bad_setting);
    l.values = {};
    CHECK(error_of(kv::lagkv{.keep = 5}, l) == errc::bad_shape);
}

TEST_CASE("heads of different lengths keep their own slots", "[kv]") {
    random_layer<> const r{2, 2, 60, 12, 1, 3};
    uneven const held{60, {60, 23}};
    auto const l = r.view(held);
    auto const filters = random_tokens(2, 12, 4);
    auto const check = [&](auto const& policy) {
        arena memory;
        auto const got = policy(l, memory).value();
        CHECK(got[0].kept() == 30);
        CHECK(got[0].tokens == 60);
        CHECK(got[1].kept() == 23);
        CHECK(got[1].tokens == 23);
        auto shorter = r.view();  // what a cache of one head's length would keep of it
        shorter.keys.tokens = shorter.values.tokens = 23;
        auto less = policy;
        less.keep = 12;
        CHECK(less(l, memory).value()[1].kept() == 12);
        require_same_plan(less(l, memory).value()[1], less(shorter, memory).value()[1]);
    };
    check(kv::keydiff{.keep = 30});
    check(kv::q_filter{.keep = 30, .filters = filters.view()});
    check(kv::cur{.keep = 30});
    check(kv::lagkv{.keep = 30, .sinks = 1, .lag = 4});
}
}  // namespace terse::test
