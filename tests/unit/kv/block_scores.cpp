#include <terse/kv/block_scores.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// A state with its memory, filled with rubbish.
struct state_of {
    std::vector<double> sums;
    std::vector<token> since;
    std::vector<float> history;
    kv::block_scores state;

    explicit state_of(index capacity, index window = 0)
        : sums(window == 0 ? static_cast<std::size_t>(capacity) : 0, -9.0),
          since(static_cast<std::size_t>(capacity), 99),
          history(static_cast<std::size_t>(capacity * window), not_a_number),
          state{.sums = sums, .since = since, .history = history, .capacity = capacity} {}

    [[nodiscard]] std::vector<double> values(index pool = 1) const {
        arena memory;
        auto const all = state.values(0, state.used, pool, memory).value();
        return {all.begin(), all.end()};
    }
    [[nodiscard]] std::vector<index> counts() const {
        std::vector<index> all;
        for (index t = 0; t < state.used; ++t) all.push_back(state.count(t));
        return all;
    }
};

using row = std::vector<float>;
using doubles = std::vector<double>;
using counts = std::vector<index>;

errc keep(kv::block_scores& state, tokens_list const& slots, index tokens) {
    plan const p = select_rows(slots, tokens);
    return state.compact(plans{{&p, 1}});
}

}  // namespace

TEST_CASE("steps add up, new slots start with their first", "[kv][block_scores]") {
    state_of s(6);
    CHECK(s.state.add(row{1, 5, 2, 4, 0}, 3) == errc::ok);
    CHECK(s.values() == doubles{5, 5, 4, 4, 0});
    CHECK(s.counts() == counts{5, 4, 3, 2, 1});
    CHECK(s.state.add(row{1, 0, 0, 0, 0, 3}, 1) == errc::ok);
    CHECK(s.values() == doubles{6, 5, 4, 4, 0, 3});
    CHECK(s.counts() == counts{6, 5, 4, 3, 2, 1});
    CHECK(s.state.add(row{0, 0, 0, 0, 0, 1}, 2) == errc::ok);  // no new slot
    CHECK(s.values() == doubles{6, 5, 4, 4, 1, 4});
    CHECK(s.counts() == counts{6, 5, 4, 3, 2, 1});

    CHECK(keep(s.state, {0, 1, 4, 5}, 6) == errc::ok);
    CHECK(s.values() == doubles{6, 5, 1, 4});
    CHECK(s.counts() == counts{6, 5, 2, 1});
    CHECK(s.state.add(row{0, 0, 0, 0, 7}) == errc::ok);
    CHECK(s.values() == doubles{6, 5, 1, 4, 7});
    CHECK(s.counts() == counts{7, 6, 3, 2, 1});
}

TEST_CASE("a prompt scored by its last queries counts those", "[kv][block_scores]") {
    state_of s(9);
    CHECK(s.state.add(row{1, 1, 1, 1, 1, 1}, 1, 3) == errc::ok);
    CHECK(s.counts() == counts{3, 3, 3, 3, 2, 1});
    CHECK(s.state.add(row{1, 1, 1, 1, 1, 1, 1, 1}, 1, 1) == errc::ok);  // the next chunk has all of its queries vote
    CHECK(s.counts() == counts{5, 5, 5, 5, 4, 3, 2, 1});
    CHECK(s.state.add(row(9, 1.0F)) == errc::ok);
    CHECK(s.counts() == counts{6, 6, 6, 6, 5, 4, 3, 2, 1});
    CHECK(s.values() == doubles{3, 3, 3, 3, 3, 3, 2, 2, 1});
}

TEST_CASE("a history gives the mean of the last steps, pooled but for the prompt's", "[kv][block_scores]") {
    state_of s(8, 3);
    CHECK(s.state.add(row{3, 6, 0, 3}, 7) == errc::ok);
    CHECK(s.values(2) == doubles{3, 6, 0, 3});
    CHECK(s.state.add(row{3, 0, 0, 0, 8}) == errc::ok);  // the prompt had no score for the fifth
    CHECK(s.values(1) == doubles{3, 3, 0, 1.5, 4});
    CHECK(s.values(2) == doubles{3, 3, 1.5, 4, 4});
    CHECK(s.state.add(row{0, 0, 3, 0, 1, 6}) == errc::ok);
    for (std::size_t i = 0; i < 6; ++i) CHECK(s.values(1)[i] == Approx(doubles{2, 2, 1, 1, 3, 2}[i]));
    CHECK(s.state.add(row{0, 3, 3, 0, 0, 0, 9}) == errc::ok);  // the prompt's goes
    for (std::size_t i = 0; i < 7; ++i) CHECK(s.values(1)[i] == Approx(doubles{1, 1, 2, 0, 3, 2, 3}[i]));
    CHECK(s.counts() == counts{7, 6, 5, 4, 3, 2, 1});

    CHECK(keep(s.state, {0, 3, 6}, 7) == errc::ok);
    CHECK(s.values() == doubles{0, 0, 0});
    CHECK(s.state.add(row{1, 2, 3, 4}) == errc::ok);
    CHECK(s.values(2) == doubles{2, 3, 4, 4});  // of this step alone
    CHECK(s.counts() == counts{8, 5, 2, 1});
}

TEST_CASE("part of the scores is pooled with what comes after it", "[kv][block_scores]") {
    state_of s(8, 2);
    CHECK(s.state.add(row{0, 0, 0, 0, 0, 0}) == errc::ok);
    CHECK(s.state.add(row{2, 4, 6, 8, 10, 12}) == errc::ok);
    arena memory;
    auto const middle = s.state.values(1, 3, 3, memory).value();
    CHECK(doubles(middle.begin(), middle.end()) == doubles{4, 5});
    auto const none = s.state.values(2, 2, 3, memory).value();
    CHECK(none.empty());
    CHECK(s.state.values(0, 6, 0, memory).error() == errc::bad_setting);
    state_of sums(4);
    CHECK(sums.state.add(row{1, 2, 3, 4}) == errc::ok);
    auto const part = sums.state.values(1, 3, 1, memory).value();
    CHECK(doubles(part.begin(), part.end()) == doubles{2, 3});
}

TEST_CASE("NaN counts as nothing in a sum's maxima", "[kv][block_scores]") {
    state_of s(3);
    CHECK(s.state.add(row{not_a_number, 2, not_a_number}, 2) == errc::ok);
    CHECK(s.values() == doubles{2, 2, static_cast<double>(-infinity)});
}

TEST_CASE("block scores refuse what does not fit, and change nothing", "[kv][block_scores]") {
    state_of s(4);
    CHECK(s.state.add(row{1, 2, 3}) == errc::ok);
    auto const before = s.sums;
    CHECK(s.state.add(row{1, 2}) == errc::bad_shape);
    CHECK(s.state.add(row(5)) == errc::bad_shape);
    CHECK(s.state.add(row(4), 0) == errc::bad_setting);
    CHECK(s.state.add(row(4), simd::widest_forward_max + 1) == errc::bad_setting);
    CHECK(s.state.add(row(4), 1, -1) == errc::bad_setting);
    CHECK(s.state.add(row(4), 1, 5) == errc::bad_setting);
    CHECK(s.state.add({reinterpret_cast<float*>(s.sums.data()), 4}) == errc::aliased);
    CHECK(keep(s.state, {0}, 4) == errc::bad_shape);
    CHECK(keep(s.state, {1, 0}, 3) == errc::bad_plan);
    CHECK(s.state.compact({}) == errc::bad_shape);
    CHECK(s.sums == before);
    CHECK(s.state.used == 3);

    row few(2);
    kv::block_scores no_memory{.capacity = 4};
    CHECK(no_memory.add(few) == errc::bad_shape);
    kv::block_scores short_counters{.sums = s.sums, .since = std::span{s.since}.first(3), .capacity = 4};
    CHECK(short_counters.add(few) == errc::bad_shape);
    row ring(7);
    kv::block_scores ragged{.history = ring, .capacity = 4};
    CHECK(ragged.add(few) == errc::bad_shape);
    row steps(8);
    kv::block_scores remembering{.history = steps, .capacity = 4};
    CHECK(remembering.add(std::span{steps}.last(3)) == errc::aliased);
    CHECK(kv::block_scores{.history = ring}.add({}) == errc::bad_shape);
    kv::block_scores late{.sums = s.sums, .capacity = 4, .queries = max_tokens};
    CHECK(late.add(few) == errc::bad_shape);
    CHECK(s.state.add({}) == errc::bad_shape);
    state_of empty(4);
    CHECK(empty.state.add({}) == errc::ok);
    CHECK(empty.state.used == 0);
}

TEST_CASE("a copy of the state's memory goes on by itself", "[kv][block_scores]") {
    for (index const window : {0, 2}) {
        state_of s(6, window);
        CHECK(s.state.add(row{1, 2, 3}) == errc::ok);
        CHECK(s.state.add(row{1, 2, 3, 4}) == errc::ok);
        state_of copy = s;
        copy.state.sums = copy.sums, copy.state.since = copy.since, copy.state.history = copy.history;
        CHECK(s.state.add(row{5, 5, 5, 5, 5}) == errc::ok);
        CHECK(copy.values() != s.values());
        CHECK(copy.state.add(row{5, 5, 5, 5, 5}) == errc::ok);
        CHECK(copy.values() == s.values());
        CHECK(copy.counts() == s.counts());
    }
}

TEMPLATE_TEST_CASE("scores from a layer's chunks agree with the whole attention matrix", "[kv][block_scores]", float,
                   half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
        random_layer<TestType> const r{s, 1};
        auto const l = r.view();
        auto const a = attention_matrix(l);
        state_of sums(s.tokens), history(s.tokens, 3);
        doubles added(static_cast<std::size_t>(s.tokens), 0.0), mean = added;
        arena memory;
        index const middle = s.window / 2, steps = middle > 0 ? 2 : 1;
        for (auto const& [begin, end] : {std::pair{index{0}, middle}, std::pair{middle, s.window}}) {
            if (begin == end) continue;
            auto const chunk = chunk_of(l, begin, end);
            index const voters = begin == 0 ? std::min<index>(3, end) : 0;
            for (auto* const state : {&sums.state, &history.state})
                REQUIRE(state->add(chunk, 1, voters, memory, threads{2}) == errc::ok);
            REQUIRE(memory.used() == 0);
            for (auto const& head : a) {
                auto const own = column_sums_of(head, voters == 0 ? begin : end - voters, end);
                for (std::size_t t = 0; t < own.size(); ++t) {
                    added[t] += own[t] / static_cast<double>(s.heads);
                    mean[t] += own[t] / static_cast<double>(s.heads * steps);
                }
            }
        }
        auto const close = [](doubles const& got, doubles const& want) {
            return std::equal(got.begin(), got.end(), want.begin(), want.end(),
                              [](double x, double y) { return is_close(static_cast<float>(x), y, 2e-5, 1e-7); });
        };
        REQUIRE(close(sums.values(), added));
        REQUIRE(close(history.values(), mean));
    }
}

TEST_CASE("the queries that vote count", "[kv][block_scores]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    state_of s(20);
    arena memory;
    CHECK(s.state.add(r.view(), 1, 3, memory) == errc::ok);
    CHECK(s.counts()[0] == 3);
    CHECK(s.counts()[18] == 2);
    CHECK(s.state.add(r.view(), 1, 6, memory) == errc::bad_shape);  // more voters than queries
}

}  // namespace terse::test
