#include <array>
#include <numeric>

#include <terse/kv/by_blocks.hpp>
#include <terse/kv/by_chunks.hpp>
#include <terse/kv/evict.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/score/attention.hpp>
#include <terse/score/key_difference.hpp>
#include <terse/score/norm.hpp>
#include <terse/score/redundancy.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// One channel: the shortest keys stay.
layer<float> one_head(std::vector<float> const& keys) {
    return {.keys = head_major(keys.data(), 1, std::ssize(keys), 1)};
}

/// Slots of one head, copied out.
template <class T>
tensor<T> rows_of(tensor<T> const& all, index head, tokens_list const& slots) {
    tensor<T> some{{}, 1, std::ssize(slots), all.dim};
    for (token const t : slots) some.values.insert(some.values.end(), all.row(t, head), all.row(t, head) + all.dim);
    return some;
}

/// Block by block with copies, one head at a time.
template <class Score>
tokens_list blocks_by_copies(Score const& score, tensor<float> const& keys, index head, index keep, index block) {
    tokens_list kept(static_cast<std::size_t>(std::min(keep, keys.tokens)));
    std::iota(kept.begin(), kept.end(), 0);
    for (index begin = keep; begin < keys.tokens; begin += block) {
        for (index t = begin; t < std::min(begin + block, keys.tokens); ++t) kept.push_back(static_cast<token>(t));
        auto const rows = rows_of(keys, head, kept);
        layer<float> const l{.keys = rows.by_head()};
        arena memory;
        auto const best = kv::evict<Score>{score, {keep}}(l, memory).value();
        tokens_list next;
        for (token const t : best[0].sources) next.push_back(kept[static_cast<std::size_t>(t)]);
        kept = next;
    }
    return kept;
}

template <class Score>
void check_blocks(Score const& score, index n, index keep, index block) {
    auto const keys = random_heads(3, n, 12, static_cast<unsigned>(n));
    layer<float> const l{.keys = keys.by_head(), .values = keys.by_head()};
    CAPTURE(n, keep, block);
    kv::by_blocks<Score> const p{score, keep, block};
    arena memory;
    auto const got = p(l, memory).value();
    for (index h = 0; h < 3; ++h) {
        CHECK(list(got[h].sources) == blocks_by_copies(score, keys, h, keep, block));
        CHECK(got[h].kept() == p.count(n));
        CHECK(got[h].tokens == n);
    }
    for (index const workers : worker_counts) {
        auto const again = p(l, memory, threads{workers}).value();
        for (index h = 0; h < 3; ++h) require_same_plan(again[h], got[h]);
    }
}

/// Each chunk as a layer of its own.
template <class Score>
void check_chunks(Score const& score, index n, index chunk, double share) {
    auto const keys = random_heads(3, n, 12, static_cast<unsigned>(n));
    layer<float> const l{.keys = keys.by_head(), .values = keys.by_head()};
    CAPTURE(n, chunk, share);
    kv::by_chunks<Score> const p{score, {share}, chunk};
    arena memory;
    auto const got = p(l, memory).value();
    for (index h = 0; h < 3; ++h) {
        tokens_list want;
        for (index begin = 0; begin < n; begin += chunk) {
            tokens_list slots(static_cast<std::size_t>(std::min(chunk, n - begin)));
            std::iota(slots.begin(), slots.end(), static_cast<token>(begin));
            auto const rows = rows_of(keys, h, slots);
            layer<float> const part{.keys = rows.by_head()};
            auto const best = kv::evict<Score, budget::ratio>{score, {share}}(part, memory).value();
            for (token const t : best[0].sources) want.push_back(t + static_cast<token>(begin));
        }
        CHECK(list(got[h].sources) == want);
        CHECK(got[h].kept() == p.count(n).value());
    }
    for (index const workers : worker_counts) {
        auto const again = p(l, memory, threads{workers}).value();
        for (index h = 0; h < 3; ++h) require_same_plan(again[h], got[h]);
    }
}

}  // namespace

TEST_CASE("block by block the best of what is kept and the block stay", "[kv][by-blocks]") {
    using policy = kv::by_blocks<score::norm>;
    struct row {
        char const* name;
        policy p;
        std::vector<float> keys;
        errc error;
        tokens_list kept;
    };
    auto const r = GENERATE(values<row>({
        {"as if all at once, where scores stand", {{}, 2, 2}, {5, 1, 4, 2, 9, 3}, errc::ok, {1, 3}},
        {"a short last block", {{}, 2, 3}, {5, 1, 4, 2, 9, 0}, errc::ok, {1, 5}},
        {"a block longer than the rest", {{}, 2, 99}, {5, 1, 4, 2}, errc::ok, {1, 3}},
        {"recent ones stay in their block", {{}, 2, 1, 0, 1}, {5, 1, 4, 2, 9}, errc::ok, {1, 4}},
        {"sinks stay", {{}, 2, 1, 1}, {5, 1, 4, 2, 9}, errc::ok, {0, 1}},
        {"all", {{}, 4, 2}, {5, 1, 4, 2}, errc::ok, {0, 1, 2, 3}},
        {"NaN goes first", {{}, 2, 1}, {not_a_number, 5, not_a_number, 7}, errc::ok, {1, 3}},
        {"nothing", {{}, 2, 1}, {}, errc::ok, {}},
        {"keep none", {{}, 0, 1}, {1, 2}, errc::bad_budget, {}},
        {"no block", {{}, 1, 0}, {1, 2}, errc::bad_setting, {}},
        {"more protected than kept", {{}, 2, 1, 1, 2}, {1, 2, 3}, errc::bad_budget, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const got = r.p(one_head(r.keys), memory);
    REQUIRE(got.error() == r.error);
    if (!got) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list((*got)[0].sources) == r.kept);
}

TEST_CASE("blocks agree with copies of what is kept", "[kv][by-blocks]") {
    for (auto const [n, keep, block] : std::vector<std::array<index, 3>>{
             {40, 7, 5}, {41, 20, 8}, {100, 33, 1}, {64, 10, 64}, {9, 9, 2}, {10, 9, 2}}) {
        check_blocks(score::norm{}, n, keep, block);
        check_blocks(score::key_difference{}, n, keep, block);
        check_blocks(score::redundancy{}, n, keep, block);
    }
}

TEST_CASE("blocks keep what is guarded, and serve heads of different lengths", "[kv][by-blocks]") {
    std::vector<float> const keys = {1, 2, 9, 8, 3, 4, 5, 6, 7, 9};
    std::vector<range> const guarded = {{2, 4}};
    auto l = one_head(keys);
    l.guarded = guarded;
    arena memory;
    CHECK(list(kv::by_blocks<score::norm>{{}, 3, 2}(l, memory).value()[0].sources) == tokens_list{0, 2, 3});
    CHECK(list(kv::by_chunks<score::norm>{{}, {.5}, 5}(l, memory).value()[0].sources) == tokens_list{2, 3, 5, 6});

    // Slots that stand at other positions.
    tokens_list const positions = {0, 1, 4, 5, 6, 7, 20, 21, 22, 23};
    std::vector<range> const later = {{5, 6}, {21, 22}};
    l.positions = {positions.data(), 1, 10, 10};
    l.guarded = later;
    CHECK(list(kv::by_blocks<score::norm>{{}, 3, 2}(l, memory).value()[0].sources) == tokens_list{0, 3, 7});
    CHECK(list(kv::by_chunks<score::norm>{{}, {.5}, 5}(l, memory).value()[0].sources) == tokens_list{0, 3, 5, 7});

    std::vector<float> const two = {5, 4, 3, 2, 1, 0, 5, 4, 3, not_a_number, not_a_number, not_a_number};
    // Positions of some slots alone.
    l.positions.dim = 9;
    auto const used = memory.used();
    CHECK(kv::by_blocks<score::norm>{{}, 3, 2}(l, memory).error() == errc::bad_shape);
    CHECK(kv::by_chunks<score::norm>{{}, {.5}, 5}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == used);

    uneven const held{6, {6, 3}};
    auto const cache = held.of(two.data(), 2, 1);
    layer<float, ragged_view<float>> const shorter{.keys = cache, .values = cache};
    auto const blocks = kv::by_blocks<score::norm>{{}, 2, 2}(shorter, memory).value();
    CHECK(list(blocks[0].sources) == tokens_list{4, 5});
    CHECK(list(blocks[1].sources) == tokens_list{1, 2});
    CHECK(blocks[1].tokens == 3);
    auto const chunks = kv::by_chunks<score::norm>{{}, {.5}, 2}(shorter, memory).value();
    CHECK(list(chunks[0].sources) == tokens_list{1, 3, 5});
    CHECK(list(chunks[1].sources) == tokens_list{1, 2});
    CHECK(chunks[1].tokens == 3);
}

TEST_CASE("blocks and chunks go by each head's own end and positions", "[kv][by-blocks][by-chunks]") {
    arena memory;
    using blocks = kv::by_blocks<score::norm>;
    using chunks = kv::by_chunks<score::norm>;
    auto const check = [&](auto const& p, auto const& l, tokens_list const& first, tokens_list const& second) {
        auto const got = p(l, memory).value();
        CHECK(list(got[0].sources) == first);
        CHECK(list(got[1].sources) == second);
    };
    // What stands behind the second head's slots is shorter than all that it holds.
    std::vector<float> const keys = {5, 4, 3, 2, 1, 0, 1, 2, 9, 0, 0, 0};
    uneven const held{6, {6, 3}};
    auto const cache = held.of(keys.data(), 2, 1);
    layer<float, ragged_view<float>> const ragged{.keys = cache, .values = cache};
    check(blocks{{}, 2, 2}, ragged, {4, 5}, {0, 1});
    check(blocks{{}, 4, 1}, ragged, {2, 3, 4, 5}, {0, 1, 2});

    // The last slots of a head that ends before the others, in the last chunk that it has a part of.
    std::vector<float> const longer = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 9, 8, 0, 0, 0};
    for (index const length : {4, 5}) {
        uneven const ends{8, {8, length}};
        auto const rows = ends.of(longer.data(), 2, 1);
        layer<float, ragged_view<float>> const l{.keys = rows, .values = rows};
        if (length == 4) check(chunks{{}, {.5}, 4, 0, 1}, l, {0, 1, 4, 7}, {0, 3});
        if (length == 5) check(chunks{{}, {.5}, 4, 0, 2}, l, {0, 1, 6, 7}, {0, 3, 4});
    }

    // Position 2 is slot 2 of the first head and slot 1 of the second.
    std::vector<float> const four = {1, 2, 9, 3, 1, 9, 2, 3};
    tokens_list const positions = {0, 1, 2, 3, 0, 2, 4, 6};
    std::vector<range> const guarded = {{2, 3}};
    layer<float> const l{
        .keys = head_major(four.data(), 2, 4, 1), .positions = view(positions.data(), 2, 4), .guarded = guarded};
    check(blocks{{}, 2, 1}, l, {0, 2}, {0, 1});
    check(chunks{{}, {.5}, 4}, l, {0, 2}, {0, 1});
}

TEST_CASE("a block's queries vote where the layer has all", "[kv][by-blocks][by-chunks]") {
    index const n = GENERATE(24, 23, 19, 17);  // whole blocks and chunks, and last ones with fewer tokens than a window
    CAPTURE(n);
    random_layer<> const r{4, 2, n, 8, n, 5};
    auto const scorer = kv::snapkv{.window = 2, .pool = score::pooling::none, .kernel = 1}.scorer();
    auto const fewer = [&](index tokens) {
        auto own = scorer;
        own.queries = std::min(own.queries, tokens);
        return own;
    };
    kv::by_blocks<score::attention> const p{scorer, 10, 6, 0, 2};
    arena memory;
    auto const got = p(r.view(), memory).value();
    auto const chunks = kv::by_chunks<score::attention>{scorer, {.5}, 6}(r.view(), memory).value();
    auto const queries_of = [&](index kv, index begin, index end) {
        auto queries = r.queries.by_head();
        queries.data = queries.row(2 * kv, begin), queries.heads = 2, queries.tokens = end - begin;
        return queries;
    };
    // The same by calls for each block, on copies.
    for (index kv = 0; kv < 2; ++kv) {
        tokens_list kept(10);
        std::iota(kept.begin(), kept.end(), 0);
        for (index begin = 10; begin < n; begin += 6) {
            index const end = std::min(begin + 6, n);
            for (index t = begin; t < end; ++t) kept.push_back(static_cast<token>(t));
            auto const keys = rows_of(r.keys, kv, kept);
            layer<float> const l{.keys = keys.by_head(), .queries = queries_of(kv, begin, end)};
            auto const best = kv::evict<score::attention>{fewer(end - begin), {10}, 0, 2}(l, memory).value();
            tokens_list next;
            for (token const t : best[0].sources) next.push_back(kept[static_cast<std::size_t>(t)]);
            kept = next;
        }
        CHECK(list(got[kv].sources) == kept);
        tokens_list of_chunks;
        for (token begin = 0; begin < n; begin += 6) {
            index const length = std::min<index>(6, n - begin);
            tokens_list slots(static_cast<std::size_t>(length));
            std::iota(slots.begin(), slots.end(), begin);
            auto const keys = rows_of(r.keys, kv, slots);
            layer<float> const l{.keys = keys.by_head(), .queries = queries_of(kv, begin, begin + length)};
            auto const best = kv::evict<score::attention, budget::ratio>{fewer(length), {.5}}(l, memory).value();
            for (token const t : best[0].sources) of_chunks.push_back(begin + t);
        }
        CHECK(list(chunks[kv].sources) == of_chunks);
    }
    // With the last queries alone there is nothing to vote.
    random_layer<> const last{4, 2, n, 8, 4, 5};
    memory.rewind();
    CHECK(p(last.view(), memory).error() == errc::bad_shape);
    CHECK(kv::by_chunks<score::attention>{scorer, {.5}, 6}(last.view(), memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& a) { return p(r.view(), a); });
    require_exact_peak([&](arena& a) { return kv::by_chunks<score::attention>{scorer, {.5}, 6}(r.view(), a); });
}

TEST_CASE("a short last chunk keeps what is protected in it, at any length", "[kv][by-chunks]") {
    auto const scorer = kv::snapkv{.window = 4, .pool = score::pooling::none, .kernel = 1}.scorer();
    kv::by_chunks<score::attention> const p{scorer, {.5}, 10};
    for (index n = 10; n <= 31; ++n) {
        CAPTURE(n);
        random_layer<> const r{4, 2, n, 8, n, static_cast<unsigned>(n)};
        arena memory;
        auto const got = p(r.view(), memory).value();
        index const last = n % 10;
        for (index h = 0; h < 2; ++h) {
            auto const kept = list(got[h].sources);
            CHECK(std::ssize(kept) == n / 10 * 5 + std::max(last / 2, std::min<index>(last, 4)));
            CHECK(kept.back() == n - 1);
        }
    }
    std::vector<float> const keys = {5, 1, 4, 2, 9, 3, 7, 8};
    arena memory;
    auto const kept = [&](kv::by_chunks<score::norm> const& by) {
        return list(by(one_head(keys), memory).value()[0].sources);
    };
    CHECK(kept({{}, {.5}, 6, 0, 2}) == tokens_list{1, 3, 5, 6, 7});
    CHECK(kept({{}, {.25}, 9, 2, 1}) == tokens_list{0, 1, 7});  // a prompt that is less than a chunk
    auto l = one_head(keys);
    std::vector<range> const guarded = {{6, 8}};
    l.guarded = guarded;
    CHECK(list(kv::by_chunks<score::norm>{{}, {.5}, 6}(l, memory).value()[0].sources) == tokens_list{1, 3, 5, 6, 7});
    CHECK(kv::by_chunks<score::norm>{{}, {.5}, 6, 0, 6}(one_head(keys), memory).error() == errc::bad_budget);
    CHECK(kv::by_chunks<score::norm>{{}, {.25}, 4, 2}(one_head(keys), memory).error() == errc::bad_budget);
}

TEST_CASE("every chunk is scored by itself", "[kv][by-chunks]") {
    for (auto const [n, chunk] : std::vector<std::array<index, 2>>{{40, 7}, {41, 10}, {30, 64}, {12, 1}, {21, 20}}) {
        check_chunks(score::norm{}, n, chunk, .4);
        check_chunks(score::key_difference{}, n, chunk, .75);
    }
    std::vector<float> const keys = {5, 1, 4, 2, 9, 3};
    arena memory;
    using policy = kv::by_chunks<score::norm>;
    auto const kept = [&](policy const& p) { return list(p(one_head(keys), memory).value()[0].sources); };
    CHECK(kept({{}, {.5}, 2}) == tokens_list{1, 3, 5});
    CHECK(kept({{}, {.5}, 4}) == tokens_list{1, 3, 5});
    CHECK(kept({{}, {.5}, 4, 1, 1}) == tokens_list{0, 1, 5});
    CHECK(kept({{}, {1}, 4}) == tokens_list{0, 1, 2, 3, 4, 5});
    auto const error = [&](policy const& p) { return p(one_head(keys), memory).error(); };
    CHECK(error({{}, {.5}, 0}) == errc::bad_setting);
    CHECK(error({{}, {0}, 2}) == errc::bad_budget);
    CHECK(error({{}, {.5}, 2, 2}) == errc::bad_budget);
    CHECK(error({{}, {.5}, 2, -1}) == errc::bad_budget);
    CHECK(policy{{}, {0}, 2}(one_head({}), memory).error() == errc::bad_budget);
    CHECK(policy{{}, {.5}, 2}(one_head({}), memory).value()[0].kept() == 0);
}
}  // namespace terse::test
