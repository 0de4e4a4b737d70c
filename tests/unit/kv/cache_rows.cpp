// What reads and turns the rows of caches in 8 bit and of ragged ones, against rows of floats one by one.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include <terse/kv/compact.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/razor_attention.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/score/attention.hpp>
#include <terse/score/block_diversity.hpp>
#include <terse/score/channel_energy.hpp>
#include <terse/score/key_difference.hpp>
#include <terse/score/lag.hpp>
#include <terse/score/leverage.hpp>
#include <terse/score/non_causal_attention.hpp>
#include <terse/score/norm.hpp>
#include <terse/score/redundancy.hpp>
#include <terse/simd/quantise.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// A ragged cache's heads: with slack, nothing at all, and full.
constexpr index heads = 3;
constexpr std::array<token, 3> held{29, 0, 17};
constexpr std::array<token, 4> places{2, 36, 36, 53};

/// Keys in 8 bit, and the floats that their codes stand for.
template <class Scale>
struct in_8_bit {
    tensor<float> exact;
    index group;
    std::vector<std::int8_t> codes;
    std::vector<Scale> scales;

    in_8_bit(tensor<float> const& x, index g)
        : exact{x}, group{g}, codes(x.values.size()), scales(x.values.size() / static_cast<std::size_t>(g)) {
        auto const row = [&](index i) { return x.values.data() + i * x.dim; };
        if (g == 1) {
            std::fill(scales.begin(), scales.end(), static_cast<Scale>(0.01F));
            std::transform(x.values.begin(), x.values.end(), codes.begin(),
                           [](float value) { return static_cast<std::int8_t>(value * 100); });
        } else {
            simd::quantise_int8(x.heads * x.tokens, row, x.dim, g, codes.data(), scales.data());
        }
        index i = 0;
        for (float& value : exact.values) {
            value = static_cast<float>(codes[static_cast<std::size_t>(i)]) *
                    static_cast<float>(scales[static_cast<std::size_t>(i / g)]);
            ++i;
        }
    }
    [[nodiscard]] auto span() {
        return quantised(head_major(codes.data(), exact.heads, exact.tokens, exact.dim),
                         head_major(scales.data(), exact.heads, exact.tokens, exact.dim / group), group);
    }
    [[nodiscard]] quantised_view<Scale> view() const {
        return quantised(head_major<std::int8_t const>(codes.data(), exact.heads, exact.tokens, exact.dim),
                         head_major<Scale const>(scales.data(), exact.heads, exact.tokens, exact.dim / group), group);
    }
};

static_assert(cache_rows<quantised_view<half>> && cache_rows<ragged_view<bfloat16>>);
static_assert(!cache_rows<transposed_view<float>>);

}  // namespace

TEMPLATE_TEST_CASE("scorers read keys in 8 bit as the keys that they stand for", "[kv][cache_rows][quantised]", float,
                   half) {
    for (index const n : {1, 2, 33, 150}) {
        for (index const group : {32, 64}) {
            index const window = std::min<index>(n, 5);
            random_layer<TestType> const r{8, 2, n, 64, window, static_cast<unsigned>(n)};
            in_8_bit<TestType> const keys{cast<float>(r.keys), group};
            layer<TestType, quantised_view<TestType>> const ours{.keys = keys.view(), .queries = r.queries.by_head()};
            auto const queries = cast<float>(r.queries);
            layer<float> const exact{.keys = keys.exact.by_head(), .queries = queries.by_head()};
            arena memory;
            for (index const workers : worker_counts) {
                auto const norms = score::norm{}(ours, memory, threads{workers}).value();
                auto const all = score::attention{}(ours, memory, threads{workers}).value();
                auto const one = score::attention{.queries = 1}(ours, memory, threads{workers}).value();
                auto const expected = attention_matrix(exact);
                for (index h = 0; h < 2; ++h) {
                    for (index t = 0; t < n; ++t) {
                        auto const at = static_cast<std::size_t>(t);
                        double square = 0, sum = 0, last = 0;
                        for (index c = 0; c < 64; ++c) square += std::pow(keys.exact.row(t, h)[c], 2);
                        CHECK(norms.row(h)[at] == Approx(-std::sqrt(square)).epsilon(1e-6));
                        for (std::size_t q = 0; q < 4; ++q) {
                            auto const& head = expected[static_cast<std::size_t>(h) * 4 + q];
                            for (auto const& row : head) sum += row[at] / 4;
                            last += head.back()[at] / 4;
                        }
                        CHECK(all.row(h)[at] == Approx(sum).epsilon(1e-4).margin(1e-6));
                        CHECK(one.row(h)[at] == Approx(last).epsilon(1e-4).margin(1e-6));
                    }
                }
            }
        }
    }
}

TEST_CASE("scorers read keys and values in 8 bit as those that they stand for", "[kv][cache_rows][quantised]") {
    for (index const n : {1, 33, 150}) {
        for (index const group : {1, 32, 64}) {
            CAPTURE(n, group);
            random_layer<half> const r{4, 2, n, 64, n, static_cast<unsigned>(n)};
            in_8_bit<half> const keys{cast<float>(r.keys), group}, values{cast<float>(r.values), group};
            auto const queries = cast<float>(r.queries);
            layer<half, quantised_view<half>> const ours{
                .keys = keys.view(), .values = values.view(), .queries = r.queries.by_head()};
            layer<float> const exact{
                .keys = keys.exact.by_head(), .values = values.exact.by_head(), .queries = queries.by_head()};
            auto const check = [&](auto const& score) {
                arena memory;
                auto const expected = score(exact, memory).value();
                for (index const workers : worker_counts) {
                    auto const got = score(ours, memory, threads{workers}).value();
                    REQUIRE(got.heads == expected.heads);
                    REQUIRE(got.tokens == expected.tokens);
                    for (index h = 0; h < got.heads; ++h)
                        for (std::size_t t = 0; t < got.row(h).size(); ++t)
                            CHECK(got.row(h)[t] == Approx(expected.row(h)[t]).epsilon(1e-3).margin(1e-5));
                }
            };
            check(score::key_difference{});
            check(score::lag{.partition = 16, .ranks = false});
            check(score::redundancy{});
            check(score::redundancy{.threshold = 0.1F, .forgive = 5});
            check(score::redundancy{.forgive_share = 0.5, .forgive_oldest = true, .published = true});
            check(score::leverage{.columns = 8});
            check(score::non_causal_attention{.chunk = 32, .scale = 0.1F});
            check(score::channel_energy{});
            check(score::block_diversity{.block = 8, .slots = {0, n / 8 * 8}});
        }
    }
}

TEST_CASE("the mean of what local heads drop is that of the keys that 8 bit stand for", "[kv][cache_rows][quantised]") {
    in_8_bit<float> const keys{random_heads(2, 300, 64, 3), 32}, values{random_heads(2, 300, 64, 4), 64};
    auto const mean_of = [](auto const& l) {
        std::vector<float> sums(2 * 2 * 64), sizes(2);
        kv::compensation rows{
            .keys = view(sums.data(), 2, 64), .values = view(sums.data() + 2 * 64, 2, 64), .sizes = sizes};
        for (range const gone : {range{3, 290}, range{290, 291}}) REQUIRE(rows.add(l, {}, gone) == errc::ok);
        return sums;
    };
    auto const got = mean_of(layer<float, quantised_view<float>>{.keys = keys.view(), .values = values.view()});
    auto const want = mean_of(layer<float>{.keys = keys.exact.by_head(), .values = values.exact.by_head()});
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(want[i]).margin(1e-6));
}

TEST_CASE("the norm of what a head does not hold is NaN, and goes first", "[kv][cache_rows][ragged]") {
    auto const values = uniform(60 * 8, 3);
    auto const cache = ragged(values.data(), places, held, 8);
    layer<float, ragged_view<float>> const l{.keys = cache};
    arena memory;
    for (index const workers : worker_counts) {
        auto const s = score::norm{}(l, memory, threads{workers}).value();
        CHECK(s.tokens == 29);
        for (index h = 0; h < heads; ++h)
            for (index t = 0; t < 29; ++t) {
                float const score = s.row(h)[static_cast<std::size_t>(t)];
                if (t < held[static_cast<std::size_t>(h)])
                    CHECK(score == Approx(-std::sqrt(simd::squared_norm(cache.row(h, t), 8))));
                else
                    CHECK(simd::is_nan(score));
            }
    }
    auto const kept = kv::key_norm{.keep = 12}(l, memory).value();
    CHECK(kept[2].sources.back() < 17);
}

TEMPLATE_TEST_CASE("keys in 8 bit turn within half a step of their new scale", "[kv][cache_rows][quantised]", float,
                   half) {
    index const n = 20, dim_of_keys = 128;
    std::vector<float> frequency;
    for (index i = 0; i < dim_of_keys / 2; ++i) frequency.push_back(std::pow(10000.0F, -static_cast<float>(i) / 64));
    tokens_list from(static_cast<std::size_t>(n)), to;
    std::iota(from.begin(), from.end(), token{0});
    for (token const t : from) to.push_back(t * 3 + 7);
    for (auto const layout : {kv::rope_layout::half_split, kv::rope_layout::interleaved}) {
        kv::rope const r{frequency, layout};
        for (index const group : {32, 128}) {
            in_8_bit<TestType> keys{random_heads(2, n, dim_of_keys, 4), group};
            auto turned = keys.exact;
            auto const exact = head_major(turned.values.data(), 2, n, dim_of_keys);
            CHECK(kv::rotate(exact, from, to, r) == errc::ok);
            CHECK(kv::rotate(keys.span(), from, to, r, threads{2}) == errc::ok);
            for (index h = 0; h < 2; ++h)
                for (index t = 0; t < n; ++t)
                    for (index c = 0; c < dim_of_keys; ++c) {
                        auto const row = keys.span().row(h, t);
                        float const step = static_cast<float>(row.scales[c / group]);
                        CHECK(std::abs(row[c] - turned.row(t, h)[c]) <= 0.5001F * step);
                    }
        }
    }
    kv::rope const r{frequency};
    in_8_bit<TestType> keys{random_heads(2, n, dim_of_keys, 4), 32};
    auto const codes = keys.codes;
    auto shared = keys.span();
    shared.granularity = 2, shared.scales.tokens = n / 2;
    CHECK(kv::rotate(shared, from, to, r) == errc::bad_setting);
    auto single = keys.span();
    single.group = 1, single.scales.dim = dim_of_keys;
    CHECK(kv::rotate(single, from, to, r) == errc::bad_setting);
    auto wrong = keys.span();
    wrong.scales.tokens = 3;
    CHECK(kv::rotate(wrong, from, to, r) == errc::bad_shape);
    CHECK(keys.codes == codes);
}

TEST_CASE("a ragged cache turns and is renumbered as each of its heads alone", "[kv][cache_rows][ragged]") {
    std::vector<float> const frequency{1, 0.1F, 0.01F, 0.001F};
    kv::rope const r{frequency};
    auto memory = uniform(60 * 8, 3);
    auto const cache = ragged(memory.data(), places, held, 8);
    auto expected = memory;
    tokens_list from(29), to(29);
    std::iota(from.begin(), from.end(), token{0});
    std::iota(to.begin(), to.end(), token{11});
    CHECK(kv::rotate(cache, from, to, r, threads{2}) == errc::ok);
    for (std::size_t h = 0; h < 3; ++h) {
        auto const count = static_cast<std::size_t>(held[h]);
        auto const alone = head_major(expected.data() + places[h] * 8, 1, held[h], 8);
        CHECK(kv::rotate(alone, std::span<token const>{from}.first(count), std::span<token const>{to}.first(count),
                         r) == errc::ok);
    }
    CHECK(memory == expected);

    std::vector<tokens_list> const kept{{3, 9, 28}, {}, {1, 16}};
    std::vector<plan> items;
    for (auto const& list : kept) items.push_back(select_rows(list, 29));
    CHECK(kv::compact(cache, plans{items}) == errc::ok);
    CHECK(kv::renumber(cache, plans{items}, {}, r) == errc::ok);
    for (std::size_t h = 0; h < 3; ++h) {
        auto const alone = head_major(expected.data() + places[h] * 8, 1, held[h], 8);
        plan const p = select_rows(kept[h], held[h]);
        CHECK(kv::compact(alone, plans{{&p, 1}}) == errc::ok);
        CHECK(kv::renumber(alone, plans{{&p, 1}}, {}, r) == errc::ok);
    }
    CHECK(memory == expected);
    tokens_list const all = kept[0];
    plan const shared = select_rows(all, 29);
    CHECK(kv::renumber(cache, plans{{&shared, 1}}, {}, r) == errc::bad_shape);
}

}  // namespace terse::test
