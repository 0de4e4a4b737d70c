// What moves rows, over every layout of a cache and every type that it holds, against rows copied one by one.
#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include <terse/kv/compact.hpp>
#include <terse/kv/moves.hpp>

#include "support.hpp"

namespace terse::test {
namespace {

constexpr index heads = 3, tokens = 29, dim = 12;
constexpr std::array<token, 8> blocks{9, 2, 7, 0, 1, 4, 8, 3};
/// Rows that each head holds in a ragged cache: with slack, none at all, and full.
constexpr std::array<token, 3> held{29, 0, 17};
constexpr std::array<token, 4> places{2, 36, 36, 53};

/// Ascending rows of [0, n): about one in `each`, or all.
tokens_list chosen(index n, unsigned each, unsigned seed) {
    std::mt19937 bits{seed};
    tokens_list kept;
    for (index t = 0; t < n; ++t)
        if (each == 1 || bits() % each == 0) kept.push_back(static_cast<token>(t));
    return kept;
}

/// Everything that a cache's rows hold, as numbers.
template <class Cache>
std::vector<std::vector<std::vector<float>>> rows_of(Cache const& cache) {
    std::vector<std::vector<std::vector<float>>> all;
    for (index h = 0; h < cache.heads; ++h) {
        auto& head = all.emplace_back();
        for (index t = 0; t < length_of(cache, h); ++t) {
            auto& row = head.emplace_back();
            for (index c = 0; c < cache.dim; ++c) row.push_back(static_cast<float>(cache.row(h, t)[c]));
        }
    }
    return all;
}

/// Zeros in every row, so that what is left is what no row holds.
template <class Cache>
void blank(Cache const& cache) {
    if constexpr (requires { cache.codes; }) {
        blank(cache.codes);
        blank(cache.scales);
    } else {
        using value = std::remove_reference_t<decltype(cache.row(0, 0)[0])>;
        for (index h = 0; h < cache.heads; ++h)
            for (index t = 0; t < length_of(cache, h); ++t)
                for (index c = 0; c < cache.dim; ++c) cache.row(h, t)[c] = static_cast<value>(0.0F);
    }
}

/// Compacts by every kind of plan, on any workers: rows are where the plans put them, those after them as before, and
/// so is what lies between them.
template <class Cache, class... Memory>
void check(Cache const& cache, Memory&... memory) {
    auto const fresh = std::make_tuple(memory...);
    blank(cache);
    auto const between = std::make_tuple(memory...);
    for (unsigned const each : {1U, 2U, 7U}) {
        for (bool const shared : {true, false}) {
            for (bool const own_count : {true, false}) {
                if (shared && own_count) continue;
                CAPTURE(each, shared, own_count);
                std::vector<tokens_list> kept;
                std::vector<plan> items;
                for (index h = 0; h < (shared ? 1 : heads); ++h) {
                    index least = cache.tokens;
                    for (index k = 0; k < heads; ++k) least = std::min(least, length_of(cache, k));
                    kept.push_back(chosen(shared ? least : length_of(cache, h), each, static_cast<unsigned>(h) + each));
                }
                for (index h = 0; h < std::ssize(kept); ++h)
                    items.push_back(
                        select_rows(kept[static_cast<std::size_t>(h)], own_count ? length_of(cache, h) : cache.tokens));
                for (index const workers : {1, 3}) {
                    std::tie(memory...) = fresh;
                    auto expected = rows_of(cache);
                    auto const before = expected;
                    for (index h = 0; h < heads; ++h) {
                        auto const sources = plans{items}[h].sources;
                        for (std::size_t i = 0; i < sources.size(); ++i)
                            expected[static_cast<std::size_t>(h)][i] =
                                before[static_cast<std::size_t>(h)][static_cast<std::size_t>(sources[i])];
                    }
                    REQUIRE(kv::compact(cache, plans{items}, threads{workers}) == errc::ok);
                    REQUIRE(rows_of(cache) == expected);
                    blank(cache);
                    REQUIRE((std::make_tuple(memory...) == between));
                }
            }
        }
    }
    std::tie(memory...) = fresh;
}

template <class T>
std::vector<T> numbers(index count, unsigned seed) {
    std::mt19937 bits{seed};
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& x : values) x = static_cast<T>(static_cast<float>(bits() % 251) - 125);
    return values;
}

/// Calls body(cache, memory) for every layout, its rows of `width` elements.
template <class T, class Body>
void for_layouts(index width, index rows, unsigned seed, Body const& body) {
    auto memory = numbers<T>(5000, seed);
    auto* const data = memory.data();
    body(head_major(data, heads, rows, width), memory);
    body(token_major(data, heads, rows, width), memory);
    body(heads_span<T>{data, heads, rows, width, rows * (width + 3), width + 3}, memory);
    body(paged_span<T>{data, blocks, heads, rows, width, 4, 4 * heads * width, 4 * width, width}, memory);
    body(paged_span<T>{data, blocks, heads, rows, width, 4, 4 * heads * width, width, heads * width}, memory);
    if (rows == tokens) {
        body(ragged(data, places, held, width), memory);
        body(ragged(data, places, held, width, width + 5), memory);
        body(ragged(data, places, {}, width), memory);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("every layout compacts to the rows that the plans keep", "[kv][layouts]", float, half, bfloat16,
                   std::int8_t) {
    for_layouts<TestType>(dim, tokens, 1, [](auto const& cache, auto& memory) { check(cache, memory); });
    auto memory = numbers<TestType>(5000, 2);
    check(transposed_span<TestType>{memory.data(), heads, tokens, dim, dim * (tokens + 2), tokens + 2}, memory);
    check(transposed_span<TestType>{memory.data(), heads, tokens, dim, tokens, heads * tokens}, memory);
}

TEMPLATE_TEST_CASE("codes move with their scales", "[kv][layouts][quantised]", float, half, bfloat16) {
    auto bytes = numbers<std::int8_t>(heads * tokens * dim, 3);
    auto steps = numbers<TestType>(heads * tokens * dim, 4);
    auto const codes = head_major(bytes.data(), heads, tokens, dim);
    check(quantised(codes, head_major(steps.data(), heads, tokens, 1), dim), bytes, steps);
    check(quantised(codes, head_major(steps.data(), heads, tokens, dim), 1), bytes, steps);
}

TEST_CASE("codes move with their scales, in every two layouts", "[kv][layouts][quantised]") {
    for_layouts<std::int8_t>(dim, tokens, 3, [](auto const& codes, auto& bytes) {
        for_layouts<half>(1, tokens, 4, [&](auto const& scales, auto& steps) {
            bool fits = true;
            for (index h = 0; h < heads; ++h) fits = fits && length_of(scales, h) == length_of(codes, h);
            auto const cache = quantised(codes, scales, dim);
            REQUIRE(cache.check() == (fits ? errc::ok : errc::bad_shape));
            if (fits) check(cache, bytes, steps);
        });
    });
}

TEST_CASE("rows that share scales move in whole groups or not at all", "[kv][layouts][quantised]") {
    for_layouts<std::int8_t>(dim, tokens, 3, [](auto const& codes, auto& bytes) {
        if constexpr (requires { codes.offsets; }) return;
        for_layouts<half>(dim, 8, 4, [&](auto const& scales, auto& steps) {
            auto const cache = quantised(codes, scales, 1, 4);
            REQUIRE(cache.check() == errc::ok);
            auto const compacts = [&](tokens_list const& kept, errc wanted) {
                auto const bytes_before = bytes;
                auto const steps_before = steps;
                plan const p = select_rows(kept, tokens);
                auto expected = rows_of(cache);
                auto const before = expected;
                for (auto& head : expected)
                    for (std::size_t i = 0; i < kept.size(); ++i)
                        head[i] = before[static_cast<std::size_t>(&head - expected.data())]
                                        [static_cast<std::size_t>(kept[i])];
                REQUIRE(kv::compact(cache, plans{{&p, 1}}, threads{2}) == wanted);
                if (wanted == errc::ok) {
                    for (std::size_t h = 0; h < expected.size(); ++h)
                        for (std::size_t i = 0; i < kept.size(); ++i) REQUIRE(rows_of(cache)[h][i] == expected[h][i]);
                } else {
                    REQUIRE(bytes == bytes_before);
                    REQUIRE(steps == steps_before);
                }
                bytes = bytes_before, steps = steps_before;
            };
            compacts({}, errc::ok);
            compacts({0, 1, 2, 3}, errc::ok);
            compacts({0, 1}, errc::ok);
            compacts({4, 5, 6, 7, 12, 13, 14, 15}, errc::ok);
            compacts({4, 5, 6, 7, 12, 13, 14, 15, 28}, errc::ok);  // the last group has one row
            compacts({4, 5, 6, 7, 12, 13}, errc::ok);              // its end goes
            compacts({1, 2, 3, 4}, errc::bad_plan);
            compacts({0, 1, 2, 4}, errc::bad_plan);
            compacts({0, 1, 2, 8, 9, 10, 11}, errc::bad_plan);
            compacts({4, 5, 6, 7, 13}, errc::bad_plan);
        });
    });
}

TEST_CASE("a cache in 8 bit must fit together", "[kv][layouts][quantised]") {
    std::vector<std::int8_t> codes(2 * 8 * 64);
    std::vector<float> scales(codes.size());
    auto const rows = head_major(codes.data(), 2, 8, 64);
    auto const with = [&](index scale_heads, index scale_rows, index groups, index group, index granularity = 1) {
        return quantised(rows, head_major(scales.data(), scale_heads, scale_rows, groups), group, granularity);
    };
    CHECK(with(2, 8, 2, 32).check() == errc::ok);
    CHECK(with(2, 8, 1, 64).check() == errc::ok);
    CHECK(with(2, 8, 64, 1).check() == errc::ok);
    CHECK(with(2, 3, 64, 1, 3).check() == errc::ok);
    CHECK(with(2, 2, 64, 1, 3).check() == errc::bad_shape);
    CHECK(with(2, 8, 4, 16).check() == errc::bad_setting);
    CHECK(with(2, 8, 2, 0).check() == errc::bad_setting);
    CHECK(with(2, 8, 2, -32).check() == errc::bad_setting);
    CHECK(with(2, 8, 1, 96).check() == errc::bad_setting);
    CHECK(with(2, 8, 2, 32, 0).check() == errc::bad_setting);
    CHECK(with(1, 8, 2, 32).check() == errc::bad_shape);
    CHECK(with(2, 7, 2, 32).check() == errc::bad_shape);
    CHECK(with(2, 8, 1, 32).check() == errc::bad_shape);
    tokens_list const kept{0};
    plan const p = select_rows(kept, 8);
    CHECK(kv::compact(with(2, 7, 2, 32), plans{{&p, 1}}) == errc::bad_shape);
    CHECK(!quantised_view<float>{}.has_data());
}

TEST_CASE("a ragged head keeps only rows that it holds, within its room", "[kv][layouts][ragged]") {
    std::vector<float> memory(100 * 2, -1);
    auto const cache = ragged(memory.data(), places, held, 2);
    CHECK(cache.tokens == 29);
    CHECK(cache.heads == 3);
    CHECK(cache.room(0) == 34);
    CHECK(cache.room(1) == 0);
    CHECK(cache.length(2) == 17);
    CHECK(cache.row(2, 1) == memory.data() + 37 * 2);
    CHECK(ragged(memory.data(), places, {}, 2).tokens == 34);
    CHECK(ragged(memory.data(), std::span<token const>{}, {}, 2).tokens == 0);

    auto const before = memory;
    tokens_list const none, late{3, 17}, fine{3, 16};
    auto const with = [&](tokens_list const& last, index count) {
        std::vector<plan> const items{select_rows(none, 29), select_rows(none, 29), select_rows(last, count)};
        return kv::compact(cache, plans{items});
    };
    CHECK(with(late, 29) == errc::bad_shape);
    CHECK(with(late, 18) == errc::bad_shape);
    CHECK(memory == before);
    CHECK(with(fine, 29) == errc::ok);
    CHECK(with(fine, 17) == errc::ok);
    plan const shared = select_rows(fine, 29);  // which a head without rows cannot keep
    CHECK(kv::compact(cache, plans{{&shared, 1}}) == errc::bad_shape);
    CHECK(kv::compact(cache, plans{}) == errc::bad_shape);

    // Rooms that do not hold what they should.
    plan const nothing = select_rows(none, 29);
    std::array<token, 3> lengths{29, 1, 17};
    auto const in_place = [&](std::span<token const> offsets, std::span<token const> counts) {
        auto broken = cache;
        broken.offsets = offsets, broken.lengths = counts;
        return kv::compact(broken, plans{{&nothing, 1}});
    };
    CHECK(in_place(places, held) == errc::ok);
    CHECK(in_place(places, lengths) == errc::bad_shape);
    CHECK(in_place(places, std::span{held}.first(2)) == errc::bad_shape);
    CHECK(in_place(std::span{places}.first(3), held) == errc::bad_shape);
    lengths = {29, 0, -1};
    CHECK(in_place(places, lengths) == errc::bad_shape);
    std::array<token, 4> const back{2, 36, 30, 53};
    CHECK(in_place(back, held) == errc::bad_shape);

    lengths = held;
    std::vector<plan> const items{select_rows(late, 29), select_rows(none, 29), select_rows(fine, 17)};
    CHECK(kv::count_kept(plans{items}, lengths) == errc::ok);
    CHECK(lengths == std::array<token, 3>{2, 0, 2});
    CHECK(kv::count_kept(plans{items}, std::span{lengths}.first(2)) == errc::bad_shape);
}

TEMPLATE_TEST_CASE("a ragged cache is rebuilt from any other, with room to grow", "[kv][layouts][ragged]", float, half,
                   std::int8_t) {
    for_layouts<TestType>(dim, tokens, 6, [](auto const& in, auto const&) {
        for (index const slack : {0, 5}) {
            std::vector<tokens_list> kept;
            std::vector<plan> items;
            for (index h = 0; h < heads; ++h) {
                kept.push_back(chosen(length_of(in, h), 3, static_cast<unsigned>(h)));
                std::reverse(kept.back().begin(), kept.back().end());  // any order
            }
            for (auto const& list : kept) items.push_back(select_rows(list, in.tokens));
            std::array<token, 4> offsets{};
            std::array<token, 3> lengths{};
            index const rows = kv::place_heads(plans{items}, slack, offsets, lengths).value();
            REQUIRE(rows == std::ssize(kept[0]) + std::ssize(kept[1]) + std::ssize(kept[2]) + 3 * slack);
            std::vector<TestType> memory(static_cast<std::size_t>((rows + 1) * dim), static_cast<TestType>(9));
            auto const out = ragged(memory.data(), offsets, lengths, dim);
            REQUIRE(kv::ragged_rebuild(in, out, plans{items}, threads{2}) == errc::ok);
            auto const before = rows_of(in), after = rows_of(out);
            for (std::size_t h = 0; h < kept.size(); ++h) {
                REQUIRE(after[h].size() == kept[h].size());
                for (std::size_t i = 0; i < kept[h].size(); ++i)
                    REQUIRE(after[h][i] == before[h][static_cast<std::size_t>(kept[h][i])]);
                for (index t = out.length(static_cast<index>(h)); t < out.room(static_cast<index>(h)); ++t)
                    REQUIRE(*out.row(static_cast<index>(h), t) == static_cast<TestType>(9));
            }
        }
    });
}

TEST_CASE("a ragged cache is not rebuilt where it does not fit", "[kv][layouts][ragged]") {
    std::vector<float> memory(2000);
    auto const in = head_major(memory.data(), 2, 10, 4);
    tokens_list const kept{1, 3, 9}, beyond{10}, negative{-1}, offsets{0, 2};
    std::array<token, 3> places_of_two{0, 3, 6};
    std::array<token, 2> lengths{3, 3};
    auto const out = ragged(memory.data() + 200, places_of_two, lengths, 4);
    auto const before = memory;
    auto const rebuild = [&](auto const& to, plan const& p) { return kv::ragged_rebuild(in, to, plans{{&p, 1}}); };
    plan const fine = select_rows(kept, 10);
    CHECK(rebuild(ragged(memory.data() + 200, places_of_two, lengths, 5), fine) == errc::bad_shape);
    CHECK(rebuild(ragged(memory.data() + 200, std::span{places_of_two}.first(2), {}, 4), fine) == errc::bad_shape);
    CHECK(rebuild(out, select_rows(kept, 11)) == errc::bad_shape);
    CHECK(rebuild(out, select_rows(beyond, 10)) == errc::bad_shape);
    CHECK(rebuild(out, select_rows(negative, 10)) == errc::bad_shape);
    CHECK(rebuild(out, {.tokens = 10, .sources = std::span{kept}.first(2), .offsets = offsets}) == errc::bad_plan);
    CHECK(rebuild(ragged(memory.data() + 8, places_of_two, {}, 4), fine) == errc::aliased);
    CHECK(rebuild(ragged(memory.data(), places_of_two, {}, 4, 5), fine) == errc::aliased);
    std::array<token, 3> const tight{0, 2, 6};
    CHECK(rebuild(ragged(memory.data() + 200, tight, {}, 4), fine) == errc::bad_shape);
    CHECK(kv::ragged_rebuild(in, out, plans{}) == errc::bad_shape);
    CHECK(memory == before);
    CHECK(rebuild(out, fine) == errc::ok);

    std::array<token, 3> where{7, 7, 7};
    plan const item = fine;
    CHECK(kv::place_heads(plans{{&item, 1}}, -1, where, lengths).error() == errc::bad_setting);
    CHECK(kv::place_heads(plans{{&item, 1}}, max_tokens, where, lengths).error() == errc::bad_shape);
    CHECK(kv::place_heads(plans{{&item, 1}}, 1, std::span{where}.first(2), lengths).error() == errc::bad_shape);
    CHECK(kv::place_heads(plans{}, 1, where, lengths).error() == errc::bad_shape);
    CHECK(where[0] == 7);
}

TEST_CASE("the list of moves does what compact does", "[kv][layouts][moves]") {
    struct row {
        tokens_list kept;
        std::vector<kv::row_move> moves;
    };
    auto const r = GENERATE(values<row>({
        {{}, {}},
        {{0, 1, 2}, {}},
        {{0, 1, 5}, {{5, 2, 1}}},
        {{4, 5, 6}, {{4, 0, 3}}},
        {{0, 2, 3, 7, 8, 9}, {{2, 1, 2}, {7, 3, 3}}},
        {{9}, {{9, 0, 1}}},
    }));
    arena memory;
    plan const p = select_rows(r.kept, 10);
    CHECK(list(kv::moves(p, memory).value()) == r.moves);
    CHECK(kv::freed(p) == 10 - std::ssize(r.kept));
    CHECK(kv::freed(plans{{&p, 1}}, 4) == 4 * (10 - std::ssize(r.kept)));
}

TEST_CASE("random lists of moves do what compact does", "[kv][layouts][moves]") {
    for (unsigned seed = 0; seed < 60; ++seed) {
        index const n = 1 + seed * 3;
        auto const kept = chosen(n, 1 + seed % 5, seed);
        plan const p = select_rows(kept, n);
        auto ours = numbers<float>(n * 3, seed), theirs = ours;
        CHECK(kv::compact(head_major(theirs.data(), 1, n, 3), plans{{&p, 1}}) == errc::ok);
        arena memory;
        index last = 0;
        auto const moves = kv::moves(p, memory).value();
        for (auto const& move : moves) {
            CHECK(move.to < move.from);
            CHECK((last == 0 || move.to == last || move.from > move.to));
            last = move.to + move.count;
            std::copy_n(ours.begin() + 3 * move.from, 3 * move.count, ours.begin() + 3 * move.to);
        }
        CHECK(ours == theirs);
    }
}

TEST_CASE("moves need an ascending selection and memory", "[kv][layouts][moves]") {
    tokens_list const back{3, 2}, twice{1, 1}, gaps{1, 3, 5}, offsets{0, 2};
    arena memory;
    CHECK(kv::moves(select_rows(back, 6), memory).error() == errc::bad_plan);
    CHECK(kv::moves(select_rows(twice, 6), memory).error() == errc::bad_plan);
    CHECK(kv::moves({.tokens = 6, .sources = std::span{gaps}.first(2), .offsets = offsets}, memory).error() ==
          errc::bad_plan);
    require_exact_peak([&](arena& m) { return kv::moves(select_rows(gaps, 6), m); });

    plan const two[] = {select_rows(gaps, 6), select_rows(std::span{gaps}.first(1), 6)};
    CHECK(kv::freed(plans{two}, 2) == 3 + 5);
}

}  // namespace terse::test
