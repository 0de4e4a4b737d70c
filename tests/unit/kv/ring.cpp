#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <terse/kv/h2o.hpp>
#include <terse/kv/ring.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/score/norm.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// A cache of one channel that holds each token's position, as a ring fills it.
struct written {
    kv::ring r;
    std::vector<float> rows;

    explicit written(kv::ring const& empty) : r{empty}, rows(static_cast<std::size_t>(empty.capacity()), -1.0F) {}
    [[nodiscard]] errc append(index count) {
        kv::ring after = r;
        errc const error = after.append(count);
        if (error != errc::ok) return error;
        for (index i = 0; i < count; ++i)
            rows[static_cast<std::size_t>(r.slot(r.next + i))] = static_cast<float>(r.next + i);
        r = after;
        return errc::ok;
    }
    [[nodiscard]] auto cache() const { return head_major(rows.data(), 1, std::ssize(rows), 1); }
    /// The positions in the order of the view, by what the rows hold.
    [[nodiscard]] tokens_list in_order() const {
        auto const view = kv::in_order(cache(), r).value();
        tokens_list all;
        for (index t = 0; t < view.tokens; ++t) all.push_back(static_cast<token>(*view.row(0, t)));
        return all;
    }
    [[nodiscard]] tokens_list said() const {
        tokens_list all(static_cast<std::size_t>(r.size()));
        CHECK(r.positions(all) == errc::ok);
        return all;
    }
};

}  // namespace

TEST_CASE("a ring's slots are counted by hand", "[kv][ring]") {
    written w{{.sinks = 2, .recent = 3}};
    CHECK(w.r.capacity() == 5);
    CHECK(w.in_order().empty());
    for (index const slot : {0, 1, 2, 3, 4, 2, 3, 4, 2}) {
        CHECK(w.r.next_slot() == slot);
        CHECK(w.append(1) == errc::ok);
    }
    CHECK(w.r.next == 9);
    CHECK(w.in_order() == tokens_list{0, 1, 6, 7, 8});
    CHECK(w.said() == tokens_list{0, 1, 6, 7, 8});
    CHECK(w.r.slot(8) == 2);
    CHECK(w.r.held(0) == 0);
    CHECK(w.r.held(2) == 8);
    CHECK(w.r.held(3) == 6);
    CHECK(w.r.held(4) == 7);
}

TEST_CASE("a ring keeps what StreamingLLM keeps, and each slot holds what it says", "[kv][ring]") {
    for (index const sinks : {0, 1, 4}) {
        for (index const recent : {1, 2, 7}) {
            for (index const spare : {0, 3}) {
                written w{{.sinks = sinks, .recent = recent, .spare = spare}};
                arena memory;
                for (index n = 0; n < 40; ++n) {
                    CAPTURE(sinks, recent, spare, n);
                    auto const p = kv::streaming_llm{.sinks = sinks, .recent = recent}(n, memory).value();
                    REQUIRE(w.in_order() == list(p[0].sources));
                    REQUIRE(w.said() == w.in_order());
                    for (index s = 0; s < w.r.capacity(); ++s)
                        REQUIRE(static_cast<float>(w.r.held(s)) == w.rows[static_cast<std::size_t>(s)]);
                    REQUIRE(w.append(1) == errc::ok);
                }
            }
        }
    }
}

TEST_CASE("tokens that were guessed can be taken back, and no row of the window goes with them", "[kv][ring]") {
    std::mt19937 bits{4};
    for (index const spare : {0, 1, 4}) {
        for (index const recent : {1, 5}) {
            written w{{.sinks = 3, .recent = recent, .spare = spare}};
            arena memory;
            for (int step = 0; step < 300; ++step) {
                index const guessed = bits() % static_cast<unsigned>(spare + 2);
                REQUIRE(w.append(guessed) == errc::ok);
                // The window before the guesses is there while they are judged.
                index const before = w.r.next - guessed;
                for (index t = std::max<index>(before - recent + 1, 0); t < w.r.next; ++t)
                    REQUIRE(w.rows[static_cast<std::size_t>(w.r.slot(t))] == static_cast<float>(t));
                index const refused = std::min<index>(bits() % static_cast<unsigned>(spare + 1), guessed);
                REQUIRE(w.r.take_back(refused) == errc::ok);
                auto const p = kv::streaming_llm{.sinks = 3, .recent = recent}(w.r.next, memory).value();
                REQUIRE(w.in_order() == list(p[0].sources));
                REQUIRE(w.said() == w.in_order());
                for (index s = 0; s < w.r.capacity(); ++s)
                    if (w.r.held(s) >= 0)
                        REQUIRE(static_cast<float>(w.r.held(s)) == w.rows[static_cast<std::size_t>(s)]);
            }
        }
    }
}

TEST_CASE("a ring refuses what would lose rows", "[kv][ring]") {
    written w{{.sinks = 2, .recent = 4, .spare = 2}};
    CHECK(w.append(8) == errc::ok);  // sinks and the whole ring
    CHECK(w.append(7) == errc::bad_budget);
    CHECK(w.append(-1) == errc::bad_setting);
    CHECK(w.append(6) == errc::ok);
    CHECK(w.r.oldest == 8);
    CHECK(w.r.take_back(3) == errc::bad_budget);
    CHECK(w.r.take_back(-1) == errc::bad_setting);
    CHECK(w.r.take_back(15) == errc::bad_setting);
    CHECK(w.r.next == 14);
    CHECK(w.r.take_back(2) == errc::ok);
    CHECK(w.r.take_back(1) == errc::bad_budget);  // the two together
    CHECK(w.in_order() == tokens_list{0, 1, 8, 9, 10, 11});
    CHECK(w.r.held(w.r.slot(12)) == -1);   // 6 was overwritten, 12 taken back
    CHECK(w.r.take_back(10) == errc::ok);  // to the sinks, where no window is
    CHECK(w.in_order() == tokens_list{0, 1});
    CHECK(w.append(1) == errc::ok);
    CHECK(w.in_order() == tokens_list{0, 1, 2});

    CHECK(kv::ring{.sinks = -1}.check() == errc::bad_setting);
    CHECK(kv::ring{.recent = -1}.check() == errc::bad_setting);
    CHECK(kv::ring{.recent = 0}.check() == errc::bad_setting);
    CHECK(kv::ring{.recent = 0, .spare = 1}.check() == errc::ok);
    CHECK(kv::ring{.recent = 4, .spare = -1}.check() == errc::bad_setting);
    CHECK(kv::ring{.next = -1}.check() == errc::bad_setting);
    CHECK(kv::ring{.sinks = 2, .recent = 5, .next = 9, .oldest = 6}.size() == 2 + 3);  // 4 and 5 are not there
    CHECK(kv::ring{.recent = max_tokens}.check() == errc::bad_shape);
    CHECK(kv::ring{.next = index{max_tokens} + 1}.check() == errc::bad_shape);
    kv::ring late{.recent = 4, .next = max_tokens, .oldest = index{max_tokens} - 4};
    CHECK(late.append() == errc::bad_shape);
    kv::ring none{.recent = 0};
    CHECK(none.append() == errc::bad_setting);
    CHECK(none.take_back(0) == errc::bad_setting);
    CHECK(kv::in_order(w.cache(), none).error() == errc::bad_setting);
    CHECK(kv::in_order(w.cache(), kv::ring{.sinks = 2, .recent = 4}).error() == errc::bad_shape);
    CHECK(kv::in_order(w.cache(), kv::ring{.sinks = 2, .recent = 7}).error() == errc::bad_shape);
    for (index const other : {1, 4}) {
        tokens_list out(static_cast<std::size_t>(other));
        CHECK(w.r.positions(out) == errc::bad_shape);
    }
}

TEST_CASE("scorers read a ring as they read its rows in order", "[kv][ring]") {
    index const dim = 24, n = 41;
    random_layer<> const tokens{4, 2, n, dim, 3, 8};
    kv::ring r{.sinks = 4, .recent = 20, .spare = 2};
    tensor<float> slots{std::vector<float>(static_cast<std::size_t>(2 * r.capacity() * dim)), 2, r.capacity(), dim};
    for (index t = 0; t < n; ++t) {
        for (index h = 0; h < 2; ++h) std::copy_n(tokens.keys.row(t, h), dim, slots.row(r.next_slot(), h));
        REQUIRE(r.append() == errc::ok);
    }
    tensor<float> plain{std::vector<float>(static_cast<std::size_t>(2 * r.size() * dim)), 2, r.size(), dim};
    for (index h = 0; h < 2; ++h)
        for (index i = 0; i < r.size(); ++i) std::copy_n(tokens.keys.row(r.position(i), h), dim, plain.row(i, h));

    auto const rows = kv::in_order(slots.by_head(), r).value();
    layer<float, kv::ring_view<heads_view<float>>> const l{.keys = rows, .queries = tokens.queries.by_head()};
    layer<float> const expected{.keys = plain.by_head(), .queries = tokens.queries.by_head()};
    arena memory;
    auto const a = score::norm{}(l, memory).value(), b = score::norm{}(expected, memory).value();
    for (index h = 0; h < 2; ++h) CHECK(list(a.row(h)) == list(b.row(h)));
    kv::snapkv const policy{.keep = 9, .window = 3};
    auto const kept = policy(l, memory).value(), same = policy(expected, memory).value();
    for (index h = 0; h < 2; ++h) CHECK(list(kept[h].sources) == list(same[h].sources));
}

TEST_CASE("promotion keeps, with H2O's step, what H2O keeps of the tokens in order", "[kv][ring][h2o]") {
    constexpr index heads = 2, keep = 7, recent = 3, slots = keep + 1, steps = 60;
    kv::h2o const policy{.keep = keep, .recent = recent};
    auto const attention = uniform(steps * heads * steps, 5, 0, 1);  // [step][head][token]

    // Plain: per head the kept tokens and their sums.
    struct held {
        token position;
        float sum;
    };
    std::vector<std::vector<held>> plain(heads);
    auto const given = [&](index step, index h, token position) {
        return attention[static_cast<std::size_t>((step * heads + h) * steps + position)];
    };

    std::vector<float> sums(heads * slots), row(heads * slots);
    std::vector<token> positions(heads * slots, -1), victims(heads);
    kv::column_sums state{.values = sums, .heads = heads, .capacity = slots, .used = slots};
    kv::ring r{.sinks = slots - recent, .recent = recent};
    heads_span<token> const place{positions.data(), heads, slots, 1, slots, 1};
    for (index t = 0; t < steps; ++t) {
        index const at = r.next_slot();
        for (index h = 0; h < heads; ++h) *place.row(h, at) = static_cast<token>(t);
        REQUIRE(r.append() == errc::ok);
        for (index h = 0; h < heads; ++h) {
            auto& mine = plain[static_cast<std::size_t>(h)];
            mine.push_back({static_cast<token>(t), 0});
            for (auto& x : mine) x.sum += given(t, h, x.position);
            if (std::ssize(mine) > keep) {
                auto const goes =
                    std::min_element(mine.begin(), mine.end() - recent, [](held a, held b) { return a.sum < b.sum; });
                mine.erase(goes);
            }
            for (index s = 0; s < slots; ++s) {
                token const position = *place.row(h, s);
                row[static_cast<std::size_t>(h * slots + s)] = position < 0 ? 0.0F : given(t, h, position);
            }
        }
        if (t < slots - 1) {  // not full yet: the sums alone
            for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += row[i];
            continue;
        }
        auto const now = head_major<float const>(row.data(), heads, 1, slots);
        REQUIRE(policy.step(state, now, r.next_slot(), victims) == errc::ok);
        REQUIRE(kv::promote(place, r.next_slot(), victims) == errc::ok);
        for (index h = 0; h < heads; ++h) {
            tokens_list have, want;
            for (index s = 0; s < slots; ++s)
                if (s != r.next_slot()) have.push_back(*place.row(h, s));
            for (auto const& x : plain[static_cast<std::size_t>(h)]) want.push_back(x.position);
            std::sort(have.begin(), have.end());
            REQUIRE(have == want);
        }
    }
}

TEST_CASE("promotion moves rows of any layout, codes with their scales, and refuses what is outside", "[kv][ring]") {
    std::vector<float> values(2 * 4 * 3);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    auto const before = values;
    std::vector<token> const victims{2, 0};
    transposed_span<float> const across{values.data(), 2, 4, 3, 12, 4};
    CHECK(kv::promote(across, 3, victims) == errc::ok);
    CHECK(values[2] == before[3]);
    CHECK(values[12 + 8] == before[12 + 11]);
    CHECK(values[0] == before[0]);

    values = before;
    std::vector<float> scales{1, 2, 3, 4, 5, 6, 7, 8};
    std::vector<std::int8_t> codes(24);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::int8_t>(i);
    auto const in_8_bit = quantised(head_major(codes.data(), 2, 4, 3), head_major(scales.data(), 2, 4, 1), 3);
    CHECK(kv::promote(in_8_bit, 3, victims) == errc::ok);
    CHECK(in_8_bit.row(0, 2)[1] == 40.0F);
    CHECK(in_8_bit.row(1, 0)[2] == 23.0F * 8);
    auto shared = in_8_bit;
    shared.granularity = 2, shared.scales.tokens = 2;
    CHECK(kv::promote(shared, 3, victims) == errc::bad_plan);

    auto const cache = head_major(values.data(), 2, 4, 3);
    std::vector<token> const far{2, 4}, below{-1, 0}, few{1}, many{2, 0, 1};
    CHECK(kv::promote(cache, 3, far) == errc::bad_shape);
    CHECK(kv::promote(cache, 3, below) == errc::bad_shape);
    CHECK(kv::promote(cache, 3, few) == errc::bad_shape);
    CHECK(kv::promote(cache, 3, many) == errc::bad_shape);
    CHECK(kv::promote(cache, 4, victims) == errc::bad_shape);
    CHECK(kv::promote(cache, -1, victims) == errc::bad_shape);
    std::vector<token> const starts{0, 4, 8}, held{4, 3};
    auto const uneven_heads = ragged(values.data(), starts, held, 3);
    CHECK(kv::promote(uneven_heads, 3, victims) == errc::bad_shape);  // the second head holds three
    CHECK(values == before);
    CHECK(kv::promote(uneven_heads, 2, std::vector<token>{1, 0}) == errc::ok);
    CHECK(values[12] == before[18]);
}

}  // namespace terse::test
