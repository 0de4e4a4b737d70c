#include <terse/kv/moa.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using spans = std::vector<budget::elastic_span>;
}  // namespace

TEST_CASE("a span of -1024 + N / 2 at N = 5120 is 1536 slots, 64 of them for good", "[kv][moa]") {
    auto const cache = kv::moa{}.cache({-1024, 0.5}, 4096);
    CHECK(cache.size == 1536);
    CHECK(cache.fixed == 64);
    CHECK(cache.size - cache.fixed == 1472);
}

TEST_CASE("sizes are at least the minimum, at most the length, and rounded up", "[kv][moa]") {
    kv::moa const policy{.coming = 0};
    auto const size = [&](budget::elastic_span span, index tokens) { return policy.cache(span, tokens).size; };
    CHECK(size({0, 0}, 1000) == 128);
    CHECK(size({-5000, 1}, 1000) == 128);
    CHECK(size({129, 0}, 1000) == 192);
    CHECK(size({128, 0}, 1000) == 128);
    CHECK(size({128.9, 0}, 1000) == 128);  // whole tokens first
    CHECK(size({9000, 0}, 1000) == 1024);
    CHECK(size({0, 1}, 1024) == 1024);
    CHECK(size({1e300, 1e300}, 1000) == 1024);
    CHECK(size({0, 0}, 10) == 128);  // more slots than tokens
    kv::moa const fine{.sinks = 16, .minimum = 10, .multiple = 1, .coming = 0};
    CHECK(fine.cache({0, 0.25}, 100).size == 25);
    CHECK(fine.cache({0, 0.25}, 100).fixed == 16);
    CHECK(fine.cache({0, 0}, 100).size == 10);
    CHECK(fine.cache({0, 0}, 100).fixed == 10);
    CHECK(kv::moa{.coming = 100}.cache({0, 1}, 28).size == 128);
    CHECK(kv::moa{.coming = 101}.cache({0, 1}, 28).size == 192);
}

TEST_CASE("slots hold the first tokens and a ring of the latest", "[kv][moa]") {
    kv::ring_slots const cache{.size = 5, .fixed = 2};
    std::vector<index> held(5, -1);
    std::vector<std::vector<index>> const after = {{0, -1, -1, -1, -1}, {0, 1, -1, -1, -1}, {0, 1, 2, -1, -1},
                                                   {0, 1, 2, 3, -1},    {0, 1, 2, 3, 4},    {0, 1, 5, 3, 4},
                                                   {0, 1, 5, 6, 4},     {0, 1, 5, 6, 7},    {0, 1, 8, 6, 7}};
    for (index slot = 0; slot < 5; ++slot) CHECK(cache.held(slot, 0) == -1);
    for (index t = 0; t < std::ssize(after); ++t) {
        CAPTURE(t);
        held[static_cast<std::size_t>(cache.slot(t))] = t;
        CHECK(held == after[static_cast<std::size_t>(t)]);
        for (index slot = 0; slot < 5; ++slot) CHECK(cache.held(slot, t + 1) == held[static_cast<std::size_t>(slot)]);
        CHECK(cache.used(t + 1) == std::min<index>(t + 1, 5));
    }
    for (kv::ring_slots const other : {kv::ring_slots{7, 0}, {1, 0}, {64, 63}, {128, 64}, {9, 9}}) {
        std::vector<index> slots(static_cast<std::size_t>(other.size), -1);
        for (index t = 0; t < 300; ++t) {
            index const slot = other.slot(t);
            REQUIRE(slot < other.size);
            REQUIRE((slot >= 0 || (other.size == other.fixed && t >= other.size)));
            if (slot >= 0) slots[static_cast<std::size_t>(slot)] = t;
            for (index s = 0; s < other.size; ++s) REQUIRE(other.held(s, t + 1) == slots[static_cast<std::size_t>(s)]);
        }
    }
}

TEST_CASE("moa keeps what each head's cache holds", "[kv][moa]") {
    spans const own = {{0, 0.5}, {3, 0}, {0, 1}};
    kv::moa const policy{.spans = own, .sinks = 1, .minimum = 2, .multiple = 1, .coming = 0};
    arena memory;
    auto const plans = policy(bare_layer(3, 8), memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 5, 6, 7});
    CHECK(list(plans[1].sources) == tokens_list{0, 6, 7});
    CHECK(list(plans[2].sources) == tokens_list{0, 1, 2, 3, 4, 5, 6, 7});
    for (index h = 0; h < 3; ++h) {
        CHECK(is_valid(plans[h]));
        auto const cache = policy.cache_of(h, 3, 8);
        tokens_list held;
        for (index slot = 0; slot < cache.used(8); ++slot) held.push_back(static_cast<token>(cache.held(slot, 8)));
        std::sort(held.begin(), held.end());
        CHECK(list(plans[h].sources) == held);
    }
    CHECK(policy(bare_layer(3, 0), memory).value()[1].kept() == 0);
}

TEST_CASE("query heads that share a cache get the longest of their spans", "[kv][moa]") {
    spans const own = {{3, 0}, {5, 0}, {4, 0}, {2, 0}};
    kv::moa const policy{.spans = own, .sinks = 1, .minimum = 1, .multiple = 1, .coming = 0};
    arena memory;
    auto const two = policy(bare_layer(2, 9), memory).value();
    CHECK(two[0].kept() == 5);
    CHECK(two[1].kept() == 4);
    CHECK(policy(bare_layer(1, 9), memory).value()[0].kept() == 5);
    CHECK(policy(bare_layer(4, 9), memory).value()[3].kept() == 2);
}

TEST_CASE("moa goes by what each head holds, and spares what is guarded", "[kv][moa]") {
    spans const own = {{0, 0.5}, {0, 0.5}};
    uneven const held{8, {8, 4}};
    std::vector<range> const guarded = {{2, 3}};
    layer<float, ragged_view<float>> const l{.keys = held.of<float>(nullptr, 2, 1), .guarded = guarded};
    arena memory;
    kv::moa const policy{.spans = own, .sinks = 1, .minimum = 1, .multiple = 1, .coming = 0};
    auto const plans = policy(l, memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 2, 5, 6, 7});
    CHECK(list(plans[1].sources) == tokens_list{0, 2, 3});
}

TEST_CASE("moa says what does not fit", "[kv][moa]") {
    spans const one = {{3, 0}}, three(3, {3, 0}), nan = {{static_cast<double>(not_a_number), 0}},
                endless = {{0, static_cast<double>(infinity)}};
    arena memory;
    CHECK(kv::moa{.spans = one, .sinks = -1}(bare_layer(1, 5), memory).error() == errc::bad_budget);
    CHECK(kv::moa{.spans = one, .minimum = 0}(bare_layer(1, 5), memory).error() == errc::bad_budget);
    CHECK(kv::moa{.spans = one, .multiple = 0}(bare_layer(1, 5), memory).error() == errc::bad_budget);
    CHECK(kv::moa{.spans = one, .coming = -1}(bare_layer(1, 5), memory).error() == errc::bad_budget);
    for (auto const beyond : {&kv::moa::minimum, &kv::moa::multiple, &kv::moa::coming}) {
        kv::moa large{.spans = one};
        large.*beyond = index{max_tokens} + 1;
        CHECK(large(bare_layer(1, 5), memory).error() == errc::bad_budget);
    }
    CHECK(kv::moa{.spans = nan}(bare_layer(1, 5), memory).error() == errc::bad_setting);
    CHECK(kv::moa{.spans = endless}(bare_layer(1, 5), memory).error() == errc::bad_setting);
    CHECK(kv::moa{}(bare_layer(1, 5), memory).error() == errc::bad_shape);
    CHECK(kv::moa{.spans = three}(bare_layer(2, 5), memory).error() == errc::bad_shape);
    CHECK(kv::moa{.spans = one}(bare_layer(2, 5), memory).error() == errc::bad_shape);
    CHECK(kv::moa{.spans = one}(bare_layer(0, 5), memory).error() == errc::bad_shape);
    CHECK(kv::moa{.spans = one}(bare_layer(1, -5), memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::moa{.spans = three}(bare_layer(3, 500), m); });
}

TEST_CASE("a band of blocks", "[kv][moa]") {
    // 20 / 8 -> 2 blocks, and 0.25 of 8 blocks.
    auto const band = kv::block_band::of({20, 0.25}, 64, 8);
    CHECK(band.width == 4);
    CHECK(band.sees(63, 32));
    CHECK_FALSE(band.sees(63, 31));
    CHECK(band.sees(63, 7));  // the first block
    CHECK_FALSE(band.sees(63, 8));
    CHECK(band.sees(30, 30));
    CHECK_FALSE(band.sees(30, 31));
    CHECK(kv::block_band::of({-20, 0}, 64, 8).width == 1);
    CHECK(kv::block_band::of({-4, 0.25}, 64, 8).width == 1);  // -4 / 8 is rounded down
    CHECK(kv::block_band::of({20, 0.2}, 64, 8).width == 3);   // 2 and 1.6
    CHECK(kv::block_band::of({0, 1.25}, 64, 8).width == 8);   // all there are
    CHECK(kv::block_band::of({1e300, 0}, 64, 8).width == 8);
}

TEST_CASE("a band of tokens", "[kv][moa]") {
    kv::token_band const band{{4, 0.5}};
    CHECK(band.width(0) == 1);  // no more than there are
    CHECK(band.width(3) == 4);
    CHECK(band.width(4) == 4);  // half of one is none
    CHECK(band.width(5) == 5);
    CHECK(band.width(9) == 7);
    CHECK(band.sees(9, 3));
    CHECK_FALSE(band.sees(9, 2));
    CHECK_FALSE(band.sees(3, 4));
    CHECK(kv::token_band{{-4, 0.5}}.width(9) == 3);  // -4 + half of 14
    CHECK(kv::token_band{{-4, 0}}.width(9) == 0);
    CHECK(kv::token_band{{8, -0.5}}.width(19) == 2);   // 8 less half of 12
    CHECK(kv::token_band{{-40, 0.25}}.width(3) == 0);  // -40 + 11
}
}  // namespace terse::test
