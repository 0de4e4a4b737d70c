#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include <terse/kv/paged.hpp>
#include <terse/move/apply.hpp>

#include "support.hpp"

namespace terse::test {
namespace {

/// Plans of their own lists.
struct selections {
    std::vector<tokens_list> kept;
    std::vector<plan> items;

    selections(std::vector<tokens_list> lists, index tokens) : kept(std::move(lists)) {
        for (auto const& k : kept) items.push_back(select_rows(k, tokens));
    }
    selections(selections const&) = delete;
    [[nodiscard]] plans all() const { return plans{items}; }
};

/// A pool of blocks and one sequence's table into it; every row of the sequence says which head and slot it is.
template <class T = float>
struct paged_cache {
    static constexpr index dim = 3;
    index heads, tokens, block;
    std::vector<T> pool;
    tokens_list table;

    paged_cache(index h, index n, index bs, unsigned seed) : heads{h}, tokens{n}, block{bs} {
        index const blocks = (n + bs - 1) / bs;
        pool.assign(static_cast<std::size_t>(2 * blocks * h * bs * dim), static_cast<T>(-1.0F));
        table.resize(static_cast<std::size_t>(2 * blocks));
        std::iota(table.begin(), table.end(), 0);
        std::shuffle(table.begin(), table.end(), std::mt19937{seed});
        for (index head = 0; head < h; ++head)
            for (index t = 0; t < n; ++t) std::fill_n(view(used()).row(head, t), dim, content(head, t));
    }
    [[nodiscard]] static T content(index h, index t) {
        if constexpr (std::integral<T>)
            return static_cast<T>(h * 100 + t);  // in 8 bits, modulo 256
        else
            return static_cast<T>(static_cast<float>(h * 100 + t));
    }
    [[nodiscard]] tokens_list used() const { return {table.begin(), table.begin() + std::ssize(table) / 2}; }
    [[nodiscard]] tokens_list unused() const { return {table.begin() + std::ssize(table) / 2, table.end()}; }
    [[nodiscard]] paged_span<T> view(std::span<token const> blocks) {
        return {pool.data(), blocks, heads, tokens, dim, block, heads * block * dim, block * dim, dim};
    }
};

/// The fewest row moves that make the kept slots fill the first places of a table of so many blocks.
index fewest_moves(tokens_list const& kept, index tokens, index block) {
    index const blocks = (tokens + block - 1) / block, count = std::ssize(kept);
    index const need = (count + block - 1) / block, in_last = count - (need - 1) * block;
    index fewest = count;
    for (unsigned stay = 0; stay < 1U << blocks; ++stay) {
        if (std::popcount(stay) != static_cast<int>(need)) continue;
        for (index last = 0; last < blocks; ++last) {
            if ((stay >> last & 1U) == 0) continue;
            fewest = std::min(fewest, index{std::count_if(kept.begin(), kept.end(), [&](token s) {
                                  index const b = s / block;
                                  return (stay >> b & 1U) == 0 || (b == last && s % block >= in_last);
                              })});
        }
    }
    return fewest;
}

tokens_list random_subset(index tokens, index count, std::mt19937& random) {
    tokens_list all(static_cast<std::size_t>(tokens));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    all.resize(static_cast<std::size_t>(count));
    std::sort(all.begin(), all.end());
    return all;
}

}  // namespace

TEST_CASE("whole blocks go by an edit of the table", "[kv][paged]") {
    // Ten slots in blocks of four: the second goes, the last is not full.
    tokens_list const kept = {0, 1, 2, 3, 8, 9};
    selections const all({kept, kept}, 10);
    arena memory;
    auto const e = kv::drop_blocks(all.all(), 4, memory).value();
    CHECK(list(e.table.sources) == tokens_list{0, 2});
    CHECK(e.table.tokens == 3);
    CHECK(list(e.freed) == tokens_list{1});
    tokens_list table = {7, 5, 3};
    CHECK(kv::compact(std::span{table}, e.table) == errc::ok);
    CHECK(table[0] == 7);
    CHECK(table[1] == 3);

    selections const none({{}}, 10), nothing({{}}, 0);
    CHECK(list(kv::drop_blocks(none.all(), 4, memory)->freed) == tokens_list{0, 1, 2});
    CHECK(kv::drop_blocks(nothing.all(), 4, memory)->freed.empty());
    selections const last({{0, 1, 2, 3, 4, 5, 6, 7}}, 10);
    CHECK(list(kv::drop_blocks(last.all(), 4, memory)->freed) == tokens_list{2});
}

TEST_CASE("blocks that go in part are no edit of the table", "[kv][paged]") {
    arena memory;
    auto const error = [&](std::vector<tokens_list> const& kept, index block = 4) {
        selections const all(kept, 10);
        return kv::drop_blocks(all.all(), block, memory).error();
    };
    CHECK(error({{0, 1, 2, 8, 9}}) == errc::bad_plan);
    CHECK(error({{0, 1, 2, 3, 9}}) == errc::bad_plan);
    CHECK(error({{0, 1, 2, 3}, {4, 5, 6, 7}}) == errc::bad_plan);
    CHECK(error({{4, 5, 6, 7, 0, 1, 2, 3}}) == errc::bad_plan);
    CHECK(error({{0, 1, 2, 3}}, 0) == errc::bad_shape);
    CHECK(error({}) == errc::bad_shape);
    selections odd({{0, 1, 2, 3}, {0, 1, 2, 3}}, 10);
    odd.items[1].tokens = 11;
    CHECK(kv::drop_blocks(odd.all(), 4, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}

TEST_CASE("rows move from the emptiest blocks into the holes of the others", "[kv][paged]") {
    // Blocks of four: three, one, three and two rows stay: nine in three blocks, the last with one.
    selections const all({{0, 1, 3, 6, 8, 9, 10, 12, 15}}, 16);
    arena memory;
    auto const p = kv::pack(all.all(), 4, memory).value();
    // The first and third stay and the fourth is the last: of its two rows the second moves, and so does slot 6.
    CHECK(list(p.table.sources) == tokens_list{0, 2, 3});
    CHECK(list(p.freed) == tokens_list{1});
    CHECK(list(p.moves) == std::vector<kv::row_move>{{6, 2, 1}, {15, 7, 1}});
    CHECK(list(p.slots[0].sources) == tokens_list{0, 1, 6, 3, 8, 9, 10, 15, 12});
    CHECK(p.copied.empty());

    // Positions follow by the same plan.
    tokens_list const positions = {0, 1, 2, 3, 4, 5, 60, 7, 8, 9, 10, 11, 12, 13, 14, 150};
    tokens_list after(9);
    CHECK(pick(p.slots[0], std::span{positions}, std::span{after}, -1) == errc::ok);
    CHECK(after == tokens_list{0, 1, 60, 3, 8, 9, 10, 150, 12});
}

TEST_CASE("nothing moves where nothing has to", "[kv][paged]") {
    arena memory;
    auto const packed = [&](tokens_list const& kept) {
        selections const all({kept}, 10);
        return kv::pack(all.all(), 4, memory).value();
    };
    CHECK(packed({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).moves.empty());
    CHECK(list(packed({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).table.sources) == tokens_list{0, 1, 2});
    CHECK(packed({0, 1, 2, 3, 8, 9}).moves.empty());
    CHECK(list(packed({0, 1, 2, 3, 8, 9}).freed) == tokens_list{1});
    CHECK(packed({4, 5, 6, 7}).moves.empty());
    CHECK(list(packed({0, 4}).table.sources) == tokens_list{1});  // of blocks that hold as much the later is the last
    auto const none = packed({});
    CHECK(none.table.kept() == 0);
    CHECK(list(none.freed) == tokens_list{0, 1, 2});
    selections const nothing({{}}, 0);
    CHECK(kv::pack(nothing.all(), 4, memory).value().freed.empty());
}

TEST_CASE("packing moves the fewest rows", "[kv][paged]") {
    std::mt19937 random{3};
    for (int round = 0; round < 300; ++round) {
        index const block = 1 + static_cast<index>(random() % 6), tokens = static_cast<index>(random() % 40);
        if (tokens > 9 * block) continue;
        auto const kept = random_subset(tokens, tokens == 0 ? 0 : static_cast<index>(random()) % (tokens + 1), random);
        CAPTURE(block, tokens, kept);
        selections const all({kept}, tokens);
        arena memory;
        auto const p = kv::pack(all.all(), block, memory).value();
        CHECK(std::ssize(p.moves) == fewest_moves(kept, tokens, block));
    }
}

TEMPLATE_TEST_CASE("a packed cache holds what it held, and shared blocks are not written", "[kv][paged]", float, half,
                   std::int8_t) {
    std::mt19937 random{7};
    for (unsigned round = 0; round < 200; ++round) {
        index const block = 1 + static_cast<index>(random() % 8), tokens = static_cast<index>(random() % 60);
        index const heads = 1 + static_cast<index>(random() % 3);
        bool const each = random() % 2 == 0 && heads > 1, same_count = random() % 2 == 0;
        paged_cache<TestType> cache(heads, std::is_same_v<TestType, std::int8_t> ? std::min<index>(tokens, 20) : tokens,
                                    block, round);
        index const n = cache.tokens, blocks = (n + block - 1) / block;
        CAPTURE(round, block, n, heads, each);
        std::vector<tokens_list> kept;
        index const count = static_cast<index>(random()) % (n + 1);
        for (index h = 0; h < (each ? heads : 1); ++h)
            kept.push_back(random_subset(n, same_count ? count : static_cast<index>(random()) % (n + 1), random));
        selections const all(kept, n);
        auto const shared = random_subset(blocks, static_cast<index>(random()) % (blocks + 1), random);

        arena memory;
        auto const p = kv::pack(all.all(), block, memory, shared).value();
        auto const used = cache.used(), fresh = cache.unused();
        tokens_list table(static_cast<std::size_t>(p.table.kept()), -1);
        REQUIRE(p.edit(used, fresh, table) == errc::ok);
        CHECK(std::ssize(table) == kv::blocks_in_use(all.all(), block));
        CHECK(p.table.kept() + std::ssize(p.freed) == blocks);

        auto const before = cache.pool;
        index const workers = 1 + round % 3;
        REQUIRE(kv::move_rows(cache.view(used), table, p, threads{workers}) == errc::ok);

        auto after = cache.view(table);
        for (index h = 0; h < heads; ++h) {
            auto const slots = list(p.slots[h].sources);
            auto sorted = slots;
            std::sort(sorted.begin(), sorted.end());
            REQUIRE(sorted == kept[each ? static_cast<std::size_t>(h) : 0]);
            for (index i = 0; i < std::ssize(slots); ++i) {
                TestType const want = paged_cache<TestType>::content(h, slots[static_cast<std::size_t>(i)]);
                for (index c = 0; c < 3; ++c) REQUIRE(after.row(h, i)[c] == want);
            }
        }
        // Shared blocks, and blocks of nobody, hold what they held.
        index const size = heads * block * 3;
        std::set<token> untouched(fresh.begin(), fresh.end());
        for (token const b : table) untouched.erase(b);
        for (token const b : shared) untouched.insert(used[static_cast<std::size_t>(b)]);
        for (token const b : untouched)
            REQUIRE(
                std::equal(before.begin() + b * size, before.begin() + (b + 1) * size, cache.pool.begin() + b * size));
        // No row that is read is written.
        for (index h = 0; h < std::ssize(p.slots.items); ++h) {
            auto const moves = p.moves_of(h);
            std::set<index> written;
            for (auto const& m : moves)
                written.insert(table[static_cast<std::size_t>(m.to / block)] * block + m.to % block);
            CHECK(written.size() == moves.size());
            for (auto const& m : moves)
                CHECK(written.count(used[static_cast<std::size_t>(m.from / block)] * block + m.from % block) == 0);
        }
    }
}

TEST_CASE("a shared block is copied only where rows must go into it", "[kv][paged]") {
    arena memory;
    auto const packed = [&](tokens_list const& kept, tokens_list const& shared) {
        selections const all({kept}, 12);
        return kv::pack(all.all(), 4, memory, shared).value();
    };
    // The first is whole: it stays and is not written.
    auto const prefix = packed({0, 1, 2, 3, 4, 5, 8}, {0});
    CHECK(prefix.copied.empty());
    CHECK(list(prefix.table.sources) == tokens_list{0, 1});
    // It has a hole: its rows go elsewhere instead, where there is room.
    auto const hole = packed({0, 1, 4, 5, 8}, {0});
    CHECK(hole.copied.empty());
    CHECK(list(hole.freed) == tokens_list{0});
    // With two heads it has no less of one.
    tokens_list const both = {0, 1, 4, 5, 8};
    selections const heads({both, both}, 12);
    tokens_list const first = {0};
    auto const of_two = kv::pack(heads.all(), 4, memory, first).value();
    CHECK(of_two.copied.empty());
    CHECK(list(of_two.freed) == first);
    // A whole one does not become the last, to which tokens are appended.
    CHECK(list(packed({1, 2, 3, 4, 5, 6, 7}, {1}).table.sources) == tokens_list{1, 0});
    CHECK(list(packed({1, 2, 3, 4, 5, 6, 7}, {}).table.sources) == tokens_list{0, 1});
    // Nowhere but in shared blocks: one is copied.
    auto const copied = packed({0, 1, 4, 5, 8}, {0, 1, 2});
    CHECK(copied.table.kept() == 2);
    CHECK(copied.copied.size() >= 1);
    tokens_list const old = {0, 1, 2}, none;
    tokens_list table(2);
    CHECK(copied.edit(old, none, table) == errc::bad_shape);
    tokens_list const fresh = {7, 8, 9};
    CHECK(copied.edit(std::span{old}.first(2), fresh, table) == errc::bad_shape);
    CHECK(copied.edit(tokens_list{0, 1, 2, 3}, fresh, table) == errc::bad_shape);
    CHECK(copied.edit(fresh, fresh, std::span{table}.first(1)) == errc::bad_shape);
}

TEST_CASE("packing refuses what does not fit", "[kv][paged]") {
    arena memory;
    selections const all({{0, 1, 5, 9}}, 12);
    auto const error = [&](std::vector<plan> const& p, index block, tokens_list const& shared = {}) {
        return kv::pack(plans{p}, block, memory, shared).error();
    };
    CHECK(error({}, 4) == errc::bad_shape);
    CHECK(error(all.items, 0) == errc::bad_shape);
    CHECK(error(all.items, 4, {3}) == errc::bad_shape);
    CHECK(error(all.items, 4, {-1}) == errc::bad_shape);
    selections const back({{5, 1}}, 12);
    CHECK(error(back.items, 4) == errc::bad_plan);
    selections odd({{0}, {0}}, 12);
    odd.items[1].tokens = 11;
    CHECK(error(odd.items, 4) == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::pack(all.all(), 4, m); });
    require_exact_peak([&](arena& m) { return kv::drop_blocks(all.all(), 1, m); });

    auto const p = kv::pack(all.all(), 4, memory).value();
    paged_cache<> cache(2, 12, 4, 1);
    auto const used = cache.used();
    auto const before = cache.pool;
    auto const moved = [&](paged_span<float> c, tokens_list const& table) { return kv::move_rows(c, table, p); };
    auto c = cache.view(used);
    c.tokens = 11;
    CHECK(moved(c, {used[0]}) == errc::bad_shape);
    c = cache.view(used);
    c.block_tokens = 6;
    CHECK(moved(c, {used[0]}) == errc::bad_shape);
    CHECK(moved(cache.view(used), {}) == errc::bad_shape);
    CHECK(moved(cache.view(std::span{used}.first(2)), {used[0]}) == errc::bad_shape);
    selections const three({{0}, {1}, {2}}, 12);
    auto const each = kv::pack(three.all(), 4, memory).value();
    CHECK(kv::move_rows(cache.view(used), std::span{used}.first(1), each) == errc::bad_shape);
    tokens_list const places = {0, 1, 2};
    auto const copied = kv::pack(all.all(), 4, memory, places).value();
    CHECK(kv::move_rows(cache.view(used), std::span{used}.first(1), copied) == errc::aliased);
    CHECK(cache.pool == before);
}

}  // namespace terse::test
