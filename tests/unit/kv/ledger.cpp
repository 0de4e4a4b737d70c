#include <numeric>
#include <random>

#include <terse/kv/compact.hpp>
#include <terse/kv/h2o.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/ledger.hpp>
#include <terse/kv/moa.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/kv/threshold.hpp>
#include <terse/kv/tova.hpp>
#include <terse/score/norm.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using books = kv::ledger<float>;

/// A ledger with its memory.
struct owned {
    fixed_memory memory;
    books ledger;

    explicit owned(books::shape const& s)
        : memory{static_cast<std::size_t>(books::bytes(s))}, ledger{books::open(s, memory.bytes()).value()} {}
};

/// The rows of a layer's cache, [kv_heads, capacity, dim], and its ledger: an engine's side of a long generation.
template <class T = float>
struct engine {
    static constexpr index kv_heads = 2, heads = 4, dim = 8;
    random_layer<T> all;  ///< of every token that will ever come
    std::vector<T> keys;
    owned books;
    arena memory{};

    engine(index tokens, index capacity, index window, unsigned seed)
        : all{heads, kv_heads, tokens, dim, tokens, seed},
          keys(static_cast<std::size_t>(kv_heads * capacity * dim)),
          books{{kv_heads, capacity, window > 0 ? heads : 0, dim, window}} {}

    [[nodiscard]] kv::ledger<T>& ledger() { return books.ledger; }
    [[nodiscard]] heads_span<T> cache() {
        return {keys.data(), kv_heads, ledger().longest(), dim, ledger().sizes().capacity * dim, dim};
    }
    [[nodiscard]] layer<T> view() { return {.keys = cache()}; }

    void append(index added) {
        index const first = ledger().next_position();
        for (index h = 0; h < kv_heads; ++h)
            for (index t = 0; t < added; ++t)
                std::copy_n(all.keys.row(first + t, h), dim, cache().row(h, ledger().length(h) + t));
        auto queries = all.queries.by_head();
        queries.data = queries.row(0, first), queries.tokens = added;
        REQUIRE(ledger().append(added, queries) == errc::ok);
    }

    template <class Policy>
    bool evict(Policy const& policy, kv::trigger const& when = {}, std::span<range const> guarded = {}) {
        memory.rewind();
        auto seen = view();
        seen.guarded = guarded;
        auto const e = ledger().evict_if_needed(policy, seen, when, memory).value();
        apply(e);
        return e.evicts();
    }

    void apply(kv::eviction const& e) {
        if (!e.evicts()) return;
        REQUIRE(kv::compact(cache(), e.kept) == errc::ok);
        REQUIRE(ledger().commit(e) == errc::ok);
    }

    /// Whether each slot holds the key of its position.
    void require_keys_at_positions() {
        for (index h = 0; h < kv_heads; ++h) {
            auto const positions = ledger().positions(h);
            for (index t = 0; t < std::ssize(positions); ++t) {
                T const* const expected = all.keys.row(positions[static_cast<std::size_t>(t)], h);
                REQUIRE(std::equal(expected, expected + dim, cache().row(h, t)));
            }
        }
    }
};

tokens_list positions(books const& b, index h = 0) { return list(b.positions(h)); }

tokens_list from_to(token begin, token end) {
    tokens_list all(static_cast<std::size_t>(end - begin));
    std::iota(all.begin(), all.end(), begin);
    return all;
}
}  // namespace

TEST_CASE("a ledger opens in memory of its size", "[kv][ledger]") {
    books::shape const good{.kv_heads = 2, .capacity = 9, .heads = 4, .dim = 8, .window = 3};
    auto const with = [&](auto change) {
        auto s = good;
        change(s);
        fixed_memory memory(1 << 16);
        return books::open(s, memory.bytes()).error();
    };
    CHECK(with([](auto&) {}) == errc::ok);
    CHECK(with([](auto& s) { s.kv_heads = 0; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.kv_heads = -2; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.capacity = 0; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.capacity = max_tokens + 1; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.heads = 3; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.heads = 0; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.dim = 0; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.window = -1; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.window = 10; }) == errc::bad_shape);
    CHECK(with([](auto& s) { s.heads = s.dim = s.window = 0; }) == errc::ok);
    CHECK(with([](auto& s) { s.dim = max_tokens, s.heads = max_tokens - 1; }) == errc::bad_shape);

    fixed_memory enough(static_cast<std::size_t>(books::bytes(good)));
    CHECK(books::open(good, enough.bytes()));
    CHECK(books::open(good, enough.bytes().first(enough.bytes().size() - 1)).error() == errc::out_of_memory);
    CHECK(books::open(good, {}).error() == errc::out_of_memory);
    fixed_memory more(static_cast<std::size_t>(books::bytes(good)) + 64);
    CHECK(books::open(good, more.bytes().subspan(1)).error() == errc::out_of_memory);
}

TEST_CASE("a ledger knows what was appended", "[kv][ledger]") {
    engine<> e{20, 12, 3, 1};
    books& b = e.ledger();
    CHECK(b.next_position() == 0);
    CHECK(e.ledger().complete(e.view()).queries.data == nullptr);
    e.append(2);
    CHECK(list(b.complete(e.view()).query_positions) == tokens_list{0, 1});
    e.append(5);
    e.append(1);
    CHECK(b.next_position() == 8);
    CHECK(positions(b, 1) == from_to(0, 8));
    auto const l = b.complete(e.view());
    CHECK(list(l.query_positions) == tokens_list{5, 6, 7});
    for (index h = 0; h < 4; ++h)
        for (index i = 0; i < 3; ++i)
            CHECK(std::equal(l.queries.row(h, i), l.queries.row(h, i) + 8, e.all.queries.row(5 + i, h)));
    CHECK(list(l.positions_of(1)) == from_to(0, 8));
    CHECK(check_attention(l) == errc::ok);

    // What the engine gives itself is not replaced.
    auto own = e.view();
    own.queries = head_major<float const>(e.keys.data(), 4, 1, 8);
    CHECK(b.complete(own).queries.tokens == 1);
    CHECK(b.complete(own).query_positions.empty());

    auto queries = e.all.queries.by_head();
    auto const added = [&](index count, index rows) {
        auto q = queries;
        q.tokens = rows;
        return b.append(count, q);
    };
    CHECK(added(5, 5) == errc::bad_shape);  // of 12 slots 8 are taken
    CHECK(added(-1, 0) == errc::bad_shape);
    CHECK(added(4, 2) == errc::bad_shape);  // the window is 3
    CHECK(added(2, 3) == errc::bad_shape);
    CHECK(b.append(1) == errc::bad_shape);
    queries.heads = 2;
    CHECK(added(1, 1) == errc::bad_shape);
    CHECK(b.next_position() == 8);
    CHECK(b.length(0) == 8);
    queries.heads = 4;
    CHECK(added(4, 3) == errc::ok);
    CHECK(added(0, 0) == errc::ok);
    CHECK(list(b.complete(e.view()).query_positions) == tokens_list{9, 10, 11});
}

TEST_CASE("a ledger asks when its trigger says", "[kv][ledger]") {
    struct row {
        char const* name;
        kv::trigger when;
        std::vector<bool> evicts;  ///< after prompt chunks of 6 and 6 tokens, the prompt's end, and six single tokens
    };
    auto const r = GENERATE(values<row>({
        {"after the prompt and at every token", {}, {0, 0, 1, 1, 1, 1, 1, 1, 1}},
        {"after the prompt alone", {.every = 0}, {0, 0, 1, 0, 0, 0, 0, 0, 0}},
        {"within the prompt", {.in_prompt = true, .every = 0}, {1, 1, 0, 0, 0, 0, 0, 0, 0}},
        {"every third token", {.after_prompt = false, .every = 3}, {0, 0, 0, 0, 0, 1, 0, 0, 1}},
        {"after the prompt and every second", {.every = 2}, {0, 0, 1, 0, 1, 0, 1, 0, 1}},
        {"with slack", {.every = 1, .above = 6}, {0, 0, 1, 0, 0, 1, 0, 0, 1}},
        {"never", {.after_prompt = false, .every = 0}, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
    }));
    CAPTURE(r.name);
    engine<> e{20, 20, 0, 2};
    kv::key_norm const policy{.keep = 4};
    std::vector<bool> evicts;
    e.ledger().begin_prompt();
    for (int chunk = 0; chunk < 2; ++chunk) {
        e.append(6);
        evicts.push_back(e.evict(policy, r.when));
    }
    e.ledger().end_prompt();
    evicts.push_back(e.evict(policy, r.when));
    for (int step = 0; step < 6; ++step) {
        e.append(1);
        evicts.push_back(e.evict(policy, r.when));
    }
    CHECK(evicts == r.evicts);
    e.require_keys_at_positions();
    CHECK(e.ledger().next_position() == 18);
}

TEST_CASE("a refused eviction changes nothing, and is asked for again", "[kv][ledger]") {
    engine<> e{20, 20, 0, 3};
    e.append(9);
    kv::trigger const when{.every = 3};
    auto const before = e.ledger().digest();
    auto const ask = [&](auto const& policy, layer<float> const& l) {
        e.memory.rewind();
        return e.ledger().evict_if_needed(policy, l, when, e.memory);
    };
    CHECK(ask(kv::key_norm{.keep = 0}, e.view()).error() == errc::bad_budget);
    auto shorter = e.view();
    shorter.keys.tokens = 8;
    CHECK(ask(kv::key_norm{.keep = 4}, shorter).error() == errc::bad_shape);
    auto one_head = e.view();
    one_head.keys.heads = 1;
    CHECK(ask(kv::key_norm{.keep = 4}, one_head).error() == errc::bad_shape);
    auto const reversed = [](layer<float> const&, arena& memory, serial const&) noexcept -> result<plans> {
        auto const rows = memory.take<token>(2);
        rows[0] = 5, rows[1] = 3;
        auto const item = memory.take<plan>(1);
        std::construct_at(item.data(), select_rows(rows, 9));
        return plans{item};
    };
    CHECK(ask(reversed, e.view()).error() == errc::bad_plan);
    CHECK(e.memory.used() == 0);
    CHECK(e.ledger().digest() == before);
    CHECK_FALSE(e.ledger().lossy());
    CHECK(ask(kv::key_norm{.keep = 4}, e.view())->evicts());
    CHECK_FALSE(ask(kv::key_norm{.keep = 4}, e.view())->evicts());  // not due any more
}

TEST_CASE("heads keep their own slots, and renumbering says how far keys turn", "[kv][ledger]") {
    engine<> e{30, 16, 2, 4};
    e.append(12);
    auto const a = kv::key_norm{.keep = 7, .recent = 1};
    e.memory.rewind();
    auto const evicted = e.ledger().evict_if_needed(a, e.view(), {}, e.memory).value();
    REQUIRE(evicted.evicts());
    auto const kept0 = list(evicted.kept[0].sources), kept1 = list(evicted.kept[1].sources);
    REQUIRE(kept0 != kept1);
    CHECK(evicted.delta(1, 6) == 6 - 11);
    CHECK(evicted.next_position() == 12);
    CHECK(evicted.next_position(kv::numbering::renumber) == 7);
    auto const before = books::attach(e.books.memory.bytes()).value();  // the same ledger again
    CHECK(before.digest() == e.ledger().digest());
    e.apply(evicted);
    CHECK(e.ledger().lossy());
    CHECK(positions(e.ledger(), 0) == kept0);
    CHECK(positions(e.ledger(), 1) == kept1);
    CHECK(e.ledger().next_position() == 12);
    CHECK(e.ledger().evict_if_needed(a, e.view(), {}, e.memory)->next_position() == 12);  // nothing is due
    e.append(3);
    CHECK(e.ledger().positions(1).back() == 14);
    e.require_keys_at_positions();

    // The second time positions are not slots any more.
    e.memory.rewind();
    auto const again = e.ledger().evict_if_needed(a, e.view(), {}, e.memory).value();
    for (index h = 0; h < 2; ++h)
        for (index i = 0; i < 7; ++i)
            CHECK(again.delta(h, i) ==
                  i - e.ledger().positions(
                          h)[static_cast<std::size_t>(again.kept[h].sources[static_cast<std::size_t>(i)])]);
    CHECK(again.next_position() == 15);
    REQUIRE(e.ledger().commit(again, kv::numbering::renumber) == errc::ok);
    CHECK(e.ledger().next_position() == again.next_position(kv::numbering::renumber));
    CHECK(positions(e.ledger(), 1) == from_to(0, 7));
    CHECK(e.ledger().next_position() == 7);
    CHECK(e.ledger().complete(e.view()).queries.data == nullptr);
    CHECK(e.ledger().commit(again) == errc::bad_shape);  // ten slots before, seven now

    // Heads with different numbers of slots have no common next position.
    tokens_list const two = {0, 1}, three = {0, 1, 2};
    std::vector<plan> const uneven = {select_rows(two, 7), select_rows(three, 7)};
    CHECK(e.ledger().commit({plans{uneven}}, kv::numbering::renumber) == errc::bad_plan);
    tokens_list const beyond = {0, 7};
    std::vector<plan> const outside = {select_rows(two, 7), select_rows(beyond, 7)};
    CHECK(e.ledger().commit({plans{outside}}) == errc::bad_plan);
    CHECK(positions(e.ledger(), 1) == from_to(0, 7));
    CHECK(e.ledger().commit({plans{uneven}}) == errc::ok);
    CHECK(list(e.ledger().all_lengths()) == tokens_list{2, 3});
    std::vector<plan> const of_two = {select_rows(two, 2), select_rows(two, 2)};
    CHECK(e.ledger().commit({plans{of_two}}) == errc::bad_shape);  // the second head has three
    CHECK(e.ledger().longest() == 3);

    // The fullest head says whether to ask, here with a layer that holds other numbers, and whether there is room.
    e.memory.rewind();
    CHECK_FALSE(e.ledger().evict_if_needed(a, e.view(), {.above = 3}, e.memory)->evicts());
    auto queries = e.all.queries.by_head();
    auto const append = [&](index added) {
        queries.tokens = added;
        return e.ledger().append(added, queries);
    };
    index const room = e.ledger().sizes().capacity - 3;
    CHECK(append(room + 1) == errc::bad_shape);
    CHECK(append(1) == errc::ok);
    CHECK(e.ledger().evict_if_needed(a, e.view(), {.above = 3}, e.memory).error() == errc::bad_shape);
    CHECK(append(room - 1) == errc::ok);
}

TEST_CASE("a cache of which one head lost something is lossy", "[kv][ledger]") {
    engine<> e{30, 16, 0, 4};
    e.append(3);
    tokens_list const two = {0, 2}, three = {0, 1, 2};
    std::vector<plan> const all = {select_rows(three, 3), select_rows(three, 3)},
                            fewer = {select_rows(two, 3), select_rows(three, 3)};
    CHECK(e.ledger().commit({plans{all}}) == errc::ok);
    CHECK_FALSE(e.ledger().lossy());
    CHECK(e.ledger().commit({plans{fewer}}) == errc::ok);
    CHECK(e.ledger().lossy());
}

TEST_CASE("a ledger makes room for another turn", "[kv][ledger]") {
    engine<> e{60, 20, 0, 5};
    e.append(18);
    auto const room = [&](auto policy, index coming) {
        e.memory.rewind();
        return e.ledger().make_room(policy, e.view(), coming, e.memory);
    };
    CHECK_FALSE(room(kv::key_norm{.keep = 16}, 2)->evicts());
    CHECK(room(kv::key_norm{.keep = 16}, 3)->kept[0].kept() == 16);
    CHECK(room(kv::key_norm{.keep = 16}, 8)->kept[0].kept() == 12);
    CHECK(room(kv::key_norm{.keep = 16}, 20).error() == errc::bad_budget);
    CHECK(room(kv::key_norm{.keep = 16}, -1).error() == errc::bad_budget);
    CHECK(room(kv::streaming_llm{.sinks = 2, .recent = 18}, 8)->kept[0].kept() == 12);
    CHECK(room(kv::streaming_llm{.sinks = 9, .recent = 11}, 15).error() == errc::bad_budget);  // sinks stay
    CHECK(room(kv::key_norm{.keep = 16, .sinks = 3, .recent = 3}, 16).error() == errc::bad_budget);
    CHECK(e.memory.used() == 0);
    CHECK(room(kv::key_norm{.keep = 16}, 2)->next_position() == 18);
    // What moa's spans count as coming is no room: half of 18 slots.
    std::vector<budget::elastic_span> const half_of_them = {{0, 0.5}, {0, 0.5}};
    kv::moa const spans{.spans = half_of_them, .sinks = 1, .minimum = 1, .multiple = 1, .coming = 0};
    CHECK(room(spans, 8)->kept[0].kept() == 9);
    CHECK(room(spans, 12).error() == errc::bad_budget);
    e.apply(room(kv::key_norm{.keep = 16}, 8).value());
    e.append(8);
    CHECK(e.ledger().length(0) == 20);
    e.require_keys_at_positions();
}

TEST_CASE("shared prefixes and speculative tails stay until they are released", "[kv][ledger][guarded]") {
    engine<> e{60, 40, 2, 6};
    e.append(20);
    kv::key_norm const policy{.keep = 12};
    std::vector<range> guarded = {{0, 4}, {17, 20}};
    for (int turn = 0; turn < 4; ++turn) {
        REQUIRE(e.evict(policy, {}, guarded));
        for (index h = 0; h < 2; ++h) {
            auto const own = positions(e.ledger(), h);
            CHECK(tokens_list(own.begin(), own.begin() + 4) == from_to(0, 4));
            CHECK(tokens_list(own.end() - 3, own.end()) ==
                  from_to(static_cast<token>(guarded[1].begin), static_cast<token>(guarded[1].end)));
        }
        // Speculation got the last two wrong.
        index const next = e.ledger().next_position();
        REQUIRE(e.ledger().take_back(2) == errc::ok);
        CHECK(e.ledger().next_position() == next - 2);
        CHECK(e.ledger().length(1) == 10);
        CHECK(e.ledger().complete(e.view()).queries.data == nullptr);  // its window was of these two
        e.append(5);
        CHECK(list(e.ledger().complete(e.view()).query_positions) ==
              tokens_list{e.ledger().positions(0).end()[-2], e.ledger().positions(0).back()});
        guarded[1] = {next, next + 3};
    }
    e.require_keys_at_positions();
    CHECK(e.ledger().take_back(-1) == errc::bad_shape);
    CHECK(e.ledger().take_back(1000) == errc::bad_shape);
    CHECK(e.ledger().take_back(e.ledger().next_position() + 1) == errc::bad_shape);

    // Of a window of two, one query is left when one token is taken back.
    index const next = e.ledger().next_position();
    REQUIRE(e.ledger().take_back(1) == errc::ok);
    CHECK(list(e.ledger().complete(e.view()).query_positions) == tokens_list{static_cast<token>(next - 2)});
    e.append(1);
    CHECK(list(e.ledger().complete(e.view()).query_positions) ==
          tokens_list{static_cast<token>(next - 2), static_cast<token>(next - 1)});
}

TEST_CASE("tokens that are taken back do not count for the next eviction", "[kv][ledger]") {
    engine<> e{40, 30, 0, 11};
    kv::key_norm const policy{.keep = 4, .recent = 4};
    kv::trigger const when{.every = 4};
    e.append(3);
    REQUIRE(e.ledger().take_back(2) == errc::ok);
    e.append(2);
    CHECK_FALSE(e.evict(policy, when));
    e.append(1);
    CHECK_FALSE(e.evict(policy, when));  // of four slots none has to go
    e.append(5);
    CHECK(e.evict(policy, when));
    // Those that were counted before the last eviction take nothing from the tokens since.
    e.append(1);
    REQUIRE(e.ledger().take_back(3) == errc::ok);
    e.append(3);
    CHECK_FALSE(e.evict(policy, when));
    e.append(1);
    CHECK(e.evict(policy, when));
}

TEST_CASE("a window votes with the queries that speculation left", "[kv][ledger]") {
    kv::snapkv const policy{.keep = 12, .window = 8};
    engine<> e{60, 40, 8, 12};
    e.append(20);
    REQUIRE(e.ledger().take_back(3) == errc::ok);
    e.append(1);
    CHECK(std::ssize(e.ledger().complete(e.view()).query_positions) == 6);
    REQUIRE(e.evict(policy));
    CHECK(e.ledger().longest() == 12);
    e.require_keys_at_positions();

    // With as many queries more as are taken back, all vote.
    engine<> more{60, 40, 11, 12};
    more.append(20);
    REQUIRE(more.ledger().take_back(3) == errc::ok);
    engine<> straight{60, 40, 8, 12};
    straight.append(17);
    REQUIRE(more.evict(policy));
    REQUIRE(straight.evict(policy));
    CHECK(positions(more.ledger(), 0) == positions(straight.ledger(), 0));
    CHECK(positions(more.ledger(), 1) == positions(straight.ledger(), 1));
}

TEST_CASE("a cache that only grows lets the best of what is new in", "[kv][ledger][guarded]") {
    engine<> e{60, 40, 0, 13};
    e.append(6);
    auto const rows_of_head = [&](index h) {
        return std::vector<float>(e.cache().row(h, 0), e.cache().row(h, 0) + e.ledger().length(h) * 8);
    };
    for (int step = 0; step < 5; ++step) {
        token const first = static_cast<token>(e.ledger().next_position());
        index const held = e.ledger().longest();
        std::vector<range> const cached = {{0, first}};
        auto const before = rows_of_head(1);
        e.append(4);
        REQUIRE(e.evict(kv::key_norm{.keep = held + 2}, {}, cached));
        auto const after = rows_of_head(1);
        CHECK(std::equal(before.begin(), before.end(), after.begin()));
        for (index h = 0; h < 2; ++h) {
            // The shortest two of the four.
            std::vector<std::pair<float, token>> order;
            for (token t = first; t < first + 4; ++t) {
                float const* const key = e.all.keys.row(t, h);
                order.emplace_back(std::inner_product(key, key + 8, key, 0.0F), t);
            }
            std::sort(order.begin(), order.end());
            tokens_list best = {order[0].second, order[1].second};
            std::sort(best.begin(), best.end());
            auto const own = positions(e.ledger(), h);
            CHECK(tokens_list(own.end() - 2, own.end()) == best);
            CHECK(std::ssize(own) == held + 2);
        }
        e.require_keys_at_positions();
    }
    // By a predicate on the score, as many as pass it.
    index const held = e.ledger().longest();
    std::vector<range> const cached = {{0, e.ledger().next_position()}};
    e.append(6);
    using admission = kv::threshold<score::norm>;
    e.evict(admission{.least = -1.5F, .recent = 0}, {}, cached);
    for (index h = 0; h < 2; ++h) {
        index passed = 0;
        for (token t = static_cast<token>(cached[0].end); t < cached[0].end + 6; ++t) {
            float const* const key = e.all.keys.row(t, h);
            passed += std::sqrt(std::inner_product(key, key + 8, key, 0.0F)) <= 1.5F;
        }
        CHECK(e.ledger().length(h) == held + passed);
    }
}

TEST_CASE("a copy of a ledger's memory is a ledger: fork, save, restore", "[kv][ledger]") {
    engine<> e{60, 24, 3, 7};
    e.append(20);
    e.evict(kv::snapkv{.keep = 9, .window = 3});
    fixed_memory saved(e.books.memory.bytes().size());
    std::copy(e.books.memory.bytes().begin(), e.books.memory.bytes().end(), saved.bytes().begin());
    books fork = books::attach(saved.bytes()).value();
    CHECK(fork.digest() == e.ledger().digest());
    CHECK(fork.lossy());

    // Each goes its own way.
    e.append(2);
    CHECK(fork.next_position() == 20);
    CHECK(fork.length(0) == 9);
    auto queries = e.all.queries.by_head();
    queries.data = queries.row(0, 20), queries.tokens = 2;
    REQUIRE(fork.append(2, queries) == errc::ok);
    CHECK(fork.digest() == e.ledger().digest());
    auto const a = fork.complete(e.view()), b = e.ledger().complete(e.view());
    CHECK(list(a.query_positions) == list(b.query_positions));
    CHECK(std::equal(a.queries.row(3, 0), a.queries.row(3, 2), b.queries.row(3, 0)));

    // What does not hold together is refused.
    CHECK(kv::ledger<half>::attach(saved.bytes()).error() == errc::bad_shape);
    CHECK(books::attach(saved.bytes().first(32)).error() == errc::out_of_memory);
    CHECK(books::attach(saved.bytes().first(saved.bytes().size() - 64)).error() == errc::out_of_memory);
    for (std::size_t byte = 0; byte < saved.bytes().size(); ++byte) {
        std::byte& b0 = saved.bytes()[byte];
        std::byte const was = b0;
        b0 ^= std::byte{0xFF};
        auto const other =
            books::attach(saved.bytes());  // an error or not: never a ledger that reaches past its memory
        if (other) {
            CHECK(other->longest() <= other->sizes().capacity);
            CHECK(books::bytes(other->sizes()) <= std::ssize(saved.bytes()));
        }
        b0 = was;
    }
    CHECK(books::attach(saved.bytes()));

    // No number of the window's size makes one that writes past its memory either.
    auto const size = saved.bytes().size();
    auto const window = static_cast<std::byte>(fork.sizes().window);
    for (std::size_t byte = 0; byte < 128; ++byte) {
        fixed_memory guarded(size + 4096);
        std::fill(guarded.bytes().begin(), guarded.bytes().end(), std::byte{0xAB});
        std::copy(saved.bytes().begin(), saved.bytes().end(), guarded.bytes().begin());
        guarded.bytes()[byte] = window;
        auto const attached = books::attach(guarded.bytes().first(size));
        if (!attached) continue;
        CAPTURE(byte);
        books other = *attached;
        static_cast<void>(other.append(2, queries));
        auto const behind = guarded.bytes().subspan(size);
        CHECK(std::count(behind.begin(), behind.end(), std::byte{0xAB}) == 4096);
    }
}

TEST_CASE("a prompt in chunks is the prompt", "[kv][ledger]") {
    kv::snapkv const policy{.keep = 16, .window = 6};
    engine<> whole{50, 50, 6, 8};
    whole.ledger().begin_prompt();
    whole.append(50);
    whole.ledger().end_prompt();
    REQUIRE(whole.evict(policy));
    for (index const chunk : {1, 4, 7, 49}) {
        engine<> e{50, 50, 6, 8};
        e.ledger().begin_prompt();
        for (index t = 0; t < 50; t += chunk) {
            e.append(std::min(chunk, 50 - t));
            CHECK_FALSE(e.evict(policy));
        }
        e.ledger().end_prompt();
        REQUIRE(e.evict(policy));
        CHECK(e.ledger().digest() == whole.ledger().digest());
    }

    // Evicted chunk by chunk it needs no more room than a chunk and the budget.
    engine<> e{50, 23, 6, 8};
    e.ledger().begin_prompt();
    for (index t = 0; t < 50; t += 7) {
        e.append(std::min<index>(7, 50 - t));
        e.evict(policy, {.in_prompt = true});
        CHECK(e.ledger().longest() <= 16);
    }
    e.require_keys_at_positions();
}

namespace {
/// Positions that stay of `held`, in double precision and from scratch: attention of the queries at the last `window`
/// positions over the keys held, summed over queries and the group, or over all heads.
tokens_list reference(engine<>& e, index kv, tokens_list const& held, index now, index window, index keep, index recent,
                      bool all_heads) {
    std::vector<double> score(held.size(), 0.0);
    for (index h = 0; h < engine<>::heads; ++h) {
        if (!all_heads && h / 2 != kv) continue;
        for (index i = now - window; i < now; ++i) {
            std::vector<double> p(held.size(), 0.0);
            double sum = 0;
            for (std::size_t j = 0; j < held.size(); ++j) {
                if (held[j] > i) continue;
                double x = 0;
                for (index c = 0; c < engine<>::dim; ++c)
                    x += static_cast<double>(e.all.queries.row(i, h)[c]) *
                         static_cast<double>(e.all.keys.row(held[j], h / 2)[c]);
                sum += p[j] = std::exp(x / std::sqrt(8.0));
            }
            for (std::size_t j = 0; j < held.size(); ++j) score[j] += p[j] / sum;
        }
    }
    tokens_list order(held.size());
    std::iota(order.begin(), order.end(), 0);
    auto const last = order.end() - recent;
    std::stable_sort(order.begin(), last, [&](token a, token b) {
        return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    order.erase(order.begin() + (keep - recent), last);
    std::sort(order.begin(), order.end());
    for (token& t : order) t = held[static_cast<std::size_t>(t)];
    return order;
}
}  // namespace

TEST_CASE("a generation ten times longer than the cache keeps what attention from scratch would", "[kv][ledger]") {
    constexpr index capacity = 32, keep = 24, total = 10 * capacity;
    struct kind {
        char const* name;
        std::function<bool(engine<>&, kv::trigger const&)> evict;
        index window, recent;
        bool all_heads;
    };
    auto const k = GENERATE(values<kind>({
        {"tova", [](engine<>& e, kv::trigger const& when) { return e.evict(kv::tova{.keep = keep}, when); }, 1, 1,
         true},
        {"snapkv",
         [](engine<>& e, kv::trigger const& when) {
             return e.evict(kv::snapkv{.keep = keep, .window = 5, .pool = score::pooling::none, .kernel = 1}, when);
         },
         5, 5, false},
    }));
    auto const every = GENERATE(index{1}, index{5});
    CAPTURE(k.name, every);
    engine<> e{total, capacity, k.window, 9};
    std::vector<tokens_list> held(2);
    e.ledger().begin_prompt();
    std::size_t peak = 0;
    for (index now = 10; now <= total; ++now) {
        e.append(now == 10 ? 10 : 1);
        for (auto& h : held)
            for (index t = now == 10 ? 0 : now - 1; t < now; ++t) h.push_back(static_cast<token>(t));
        if (now == 10) e.ledger().end_prompt();
        if (k.evict(e, {.every = every}))
            for (index h = 0; h < 2; ++h)
                held[static_cast<std::size_t>(h)] =
                    reference(e, h, held[static_cast<std::size_t>(h)], now, k.window, keep, k.recent, k.all_heads);
        for (index h = 0; h < 2; ++h) REQUIRE(positions(e.ledger(), h) == held[static_cast<std::size_t>(h)]);
        if (now == 2 * capacity) peak = e.memory.peak();
    }
    CHECK(e.memory.peak() == peak);
    e.require_keys_at_positions();
}
}  // namespace terse::test
