#include <cmath>
#include <numeric>

#include <terse/score/hits.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using enum score::hit;

std::size_t at(index i) { return static_cast<std::size_t>(i); }

std::vector<float> row_of(result<scores> const& s, index row = 0) { return list(s.value().row(row)); }

/// The whole attention matrix, and of each of its rows the quantile.
struct whole {
    std::vector<matrix> attention;
    double quantile;
    matrix limits;

    template <class T>
    whole(layer<T> const& l, double q) : attention{attention_matrix(l)}, quantile{q} {
        for (auto const& head : attention) {
            auto& own = limits.emplace_back();
            for (index i = 0; i < l.window(); ++i) {
                auto sorted = head[at(i)];
                sorted.resize(at(l.visible(0, i)));
                std::sort(sorted.begin(), sorted.end());
                double const place = q * static_cast<double>(sorted.size() - 1);
                auto const below = static_cast<std::size_t>(place);
                double const above = below + 1 < sorted.size() ? sorted[below + 1] : sorted[below];
                own.push_back(sorted[below] + (place - std::floor(place)) * (above - sorted[below]));
            }
        }
    }
};

/// The least and the most that score::hits may count by it: rounding decides near the limits.
struct bounds {
    matrix least, most;
};
template <class T>
bounds reference(score::hits const& s, layer<T> const& l, whole const& of) {
    double const rounding = 5e-5;
    index const n = l.tokens(), skipped = s.queries == 0 ? 0 : l.window() - s.queries;
    matrix const zeros(at(l.kv_heads()), std::vector<double>(at(n), 0.0));
    bounds b{zeros, zeros};
    for (index h = 0; h < l.heads(); ++h)
        for (index i = skipped; i < l.window(); ++i) {
            auto const& row = of.attention[at(h)][at(i)];
            index const seen = n - l.window() + i + 1;
            double const limit = s.counted == above_uniform ? 1 / static_cast<double>(seen) : of.limits[at(h)][at(i)];
            auto &least = b.least[at(h / l.group())], &most = b.most[at(h / l.group())];
            for (std::size_t t = 0; t < at(seen); ++t) {
                double const x = row[t];
                least[t] += s.counted == attention ? x * (1 - rounding) : x > limit * (1 + rounding);
                most[t] += s.counted == attention ? x * (1 + rounding) : x > limit * (1 - rounding);
            }
        }
    if (!s.per_visible) return b;
    for (auto* const all : {&b.least, &b.most})
        for (auto& row : *all)
            for (index t = 0; t < n; ++t) row[at(t)] /= static_cast<double>(std::min(l.window() - skipped, n - t));
    return b;
}

void require_within(bounds const& b, scores const& got) {
    REQUIRE(got.heads == std::ssize(b.least));
    for (index h = 0; h < got.heads; ++h) {
        auto const &least = b.least[at(h)], &most = b.most[at(h)];
        REQUIRE(got.tokens == std::ssize(least));
        for (std::size_t t = 0; t < least.size(); ++t) {
            auto const x = static_cast<double>(got.row(h)[t]);
            if (x >= least[t] - 1e-6 && x <= most[t] + 1e-6) continue;
            CAPTURE(h, t, x, least[t], most[t]);
            FAIL("other hits");
        }
    }
}
}  // namespace

TEST_CASE("a hit is more than an equal share, or than a quantile", "[score][hits]") {
    // Two heads, two queries, five slots.
    std::vector<float> const a = {.5F,  .25F, .125F, .125F, 0,      //
                                  .25F, .25F, .25F,  .125F, .125F,  //
                                  .25F, .25F, .25F,  .25F,  0,      //
                                  0,    .5F,  0,     .25F,  .25F};
    arena memory;
    layer<float> const l = given(a, 2, 2);
    CHECK(row_of(score::hits{}(l, memory)) == std::vector<float>{2, 2, 1, 1, 1});
    CHECK(row_of(score::hits{.queries = 1}(l, memory)) == std::vector<float>{1, 2, 1, 1, 1});
    CHECK(row_of(score::hits{.counted = attention}(l, memory)) == std::vector<float>{1, 1.25F, .625F, .75F, .375F});
    CHECK(row_of(score::hits{.queries = 1, .counted = attention}(l, memory)) ==
          std::vector<float>{.25F, .75F, .25F, .375F, .375F});
    CHECK(row_of(score::hits{.counted = attention, .per_visible = true}(l, memory)) ==
          std::vector<float>{.5F, .625F, .3125F, .375F, .375F});
    // Medians .1875, .25, .25, .25; quantiles 0.75 of .3125, .25, .25, .25.
    CHECK(row_of(score::hits{.counted = above_quantile, .quantile = 0.5}(l, memory)) ==
          std::vector<float>{1, 2, 0, 0, 0});
    CHECK(row_of(score::hits{.counted = above_quantile, .quantile = 0.75}(l, memory)) ==
          std::vector<float>{1, 1, 0, 0, 0});
    CHECK(row_of(score::hits{.counted = above_quantile, .quantile = 0}(l, memory)) ==
          std::vector<float>{2, 3, 1, 1, 1});
    CHECK(row_of(score::hits{.counted = above_quantile, .quantile = 1}(l, memory)) == std::vector<float>(5, 0.0F));
}

TEST_CASE("what is little more than an equal share is a hit, and what no query sees is none", "[score][hits]") {
    std::vector<float> const keys = {2e-5F, 0}, one = {1};  // 1e-5 more than half
    layer<float> const near{.keys = head_major(keys.data(), 1, 2, 1), .queries = head_major(one.data(), 1, 1, 1)};
    arena memory;
    CHECK(row_of(score::hits{}(near, memory)) == std::vector<float>{1, 0});

    std::vector<float> const a = {.75F, .25F, 0};
    std::vector<token> const second = {1};
    layer<float> early = given(a, 1, 1);
    early.query_positions = second;
    CHECK(row_of(score::hits{.counted = attention, .per_visible = true}(early, memory)) == a);
}

TEST_CASE("an equal share is no hit", "[score][hits]") {
    for (index const n : {1, 3, 49, 98, 1000}) {
        std::vector<float> const keys(at(n), 1.0F), equal(at(n), 1 / static_cast<float>(n)), zeros(at(n), 0.0F);
        layer<float> const l{.keys = head_major(keys.data(), 1, n, 1), .queries = head_major(keys.data(), 1, 1, 1)};
        arena memory;
        CHECK(row_of(score::hits{}(l, memory)) == zeros);
        for (float const rounding : {-2e-7F, 0.0F, 2e-7F}) {  // of the engine's log
            std::vector<float> const log{(1 + rounding) * std::log(static_cast<float>(n)) + rounding + 1};
            layer<float> known = l;
            known.scale = 1;
            known.log_sum_exp = view(log.data(), 1, 1);
            CHECK(row_of(score::hits{}(known, memory)) == zeros);
        }
        CHECK(row_of(score::hits{}(given(equal, 1, 1), memory)) == zeros);
        CHECK(row_of(score::hits{.counted = above_quantile}(given(equal, 1, 1), memory)) == zeros);
    }
}

TEMPLATE_TEST_CASE("hits agree with the whole attention matrix", "[score][hits]", float, half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 3};
        layer<TestType> l = r.view();
        l.scale = 1.5F;
        if (s.tokens == 65) l.soft_cap = 0.8F;
        whole const of{l, 0.83};
        auto const rows = packed(of.attention), logs = logs_of_sums(l);
        layer<TestType> handed = l, known = l;
        handed.attention = head_major(rows.data(), s.heads, s.window, s.tokens);
        known.log_sum_exp = view(logs.data(), s.heads, s.window);
        for (auto const counted : {above_uniform, above_quantile, attention})
            for (index const queries : {index{0}, (s.window + 1) / 2})
                for (bool const per_visible : {false, true}) {
                    bool const large = s.tokens * s.window > 100'000;
                    if (large && (queries > 0 || per_visible)) continue;
                    CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
                    CAPTURE(static_cast<int>(counted), queries, per_visible);
                    score::hits const scorer{queries, counted, of.quantile, per_visible};
                    auto const expected = reference(scorer, l, of);
                    arena memory;
                    for (layer<TestType> const& from : {l, handed, known}) {
                        auto const got = scorer(from, memory).value();
                        require_within(expected, got);
                        index const workers = 2 + s.tokens % 6;
                        if (!large) REQUIRE(list(scorer(from, memory, threads{workers})->values) == list(got.values));
                    }
                }
    }
}

TEST_CASE("the engine's log of a query's sum spares hits the search for it", "[score][hits]") {
    random_layer<> const r{6, 2, 700, 24, 40, 29};
    layer<float> l = r.view();
    auto logs = logs_of_sums(l);
    for (float& x : logs) x += 1;  // it is the engine's that counts: all is exp(1) too small
    l.log_sum_exp = view<float const>(logs.data(), 6, 40);
    for (index const queries : {0, 1}) {
        arena with, without;
        auto const of = [&](score::hit counted) {
            score::hits const scorer{.queries = queries, .counted = counted};
            return std::pair{list(scorer(l, with).value().values), list(scorer(r.view(), without).value().values)};
        };
        auto const [less, full] = of(attention);
        for (std::size_t t = 0; t < less.size(); ++t) CHECK(less[t] * 2.7182818F == Approx(full[t]).epsilon(1e-4));
        CHECK(with.peak() < without.peak());
        auto const [few, hits] = of(above_uniform);
        CHECK(std::accumulate(few.begin(), few.end(), 0.0F) < std::accumulate(hits.begin(), hits.end(), 0.0F) / 2);
        auto const [same, ranked] = of(above_quantile);  // ranks do not depend on sums
        CHECK(same == ranked);
    }
    // A query whose sum is not known hits nothing.
    std::fill(logs.begin(), logs.end(), -infinity);
    arena memory;
    for (auto const counted : {above_uniform, above_quantile, attention})
        CHECK(row_of(score::hits{.counted = counted}(l, memory)) == std::vector<float>(700, 0.0F));
}

TEST_CASE("hits of heads that hold different numbers of slots", "[score][hits]") {
    random_layer<> r{6, 2, 40, 8, 30, 7};
    uneven const held{40, {40, 25}};  // the second head's first five queries see nothing
    std::fill_n(r.keys.row(25, 1), 15 * 8, not_a_number);
    auto const rows = packed(attention_matrix(r.view(held))), logs = logs_of_sums(r.view(held));
    auto handed = r.view(held), known = r.view(held);
    handed.attention = head_major(rows.data(), 6, 30, 40);
    known.log_sum_exp = view(logs.data(), 6, 30);
    arena memory;
    for (auto const counted : {above_uniform, above_quantile, attention})
        for (bool const per_visible : {false, true}) {
            CAPTURE(static_cast<int>(counted), per_visible);
            score::hits const of_all{.queries = 30, .counted = counted, .per_visible = per_visible};
            score::hits of_second = of_all;
            of_second.queries = 25;
            auto short_head = r.alone(1, 25);
            short_head.queries.data = short_head.queries.row(0, 5), short_head.queries.tokens = 25;
            auto const first = list(of_all(r.alone(0, 40), memory).value().row(0)),
                       second = list(of_second(short_head, memory).value().row(0));
            for (auto const& l : {r.view(held), handed, known}) {
                auto const got = of_all(l, memory).value();
                for (std::size_t t = 0; t < 40; ++t) {
                    CHECK(got.row(0)[t] == Approx(first[t]).epsilon(1e-4));
                    if (t < 25)
                        CHECK(got.row(1)[t] == Approx(second[t]).epsilon(1e-4));
                    else
                        CHECK(std::isnan(got.row(1)[t]));
                }
            }
        }
}

TEST_CASE("hits say what does not fit", "[score][hits]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const error = [&](score::hits const& s) { return s(r.view(), memory).error(); };
    CHECK(error({.queries = -1}) == errc::bad_setting);
    CHECK(error({.quantile = -0.1}) == errc::bad_setting);
    CHECK(error({.quantile = 1.1}) == errc::bad_setting);
    CHECK(error({.quantile = static_cast<double>(not_a_number)}) == errc::bad_setting);
    CHECK(error({.queries = 6}) == errc::bad_shape);
    layer<float> l = r.view();
    l.queries = {};
    CHECK(score::hits{}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    for (auto const counted : {above_uniform, above_quantile, attention})
        require_exact_peak([&](arena& m) { return score::hits{.counted = counted}(r.view(), m, threads{2}); });
}

TEST_CASE("broken attention hits nothing", "[score][hits]") {
    std::vector<float> const a = {not_a_number, .5F, .25F, .25F};
    arena memory;
    CHECK(row_of(score::hits{}(given(a, 1, 1), memory)) == std::vector<float>{0, 1, 0, 0});
    std::vector<float> const none(4, not_a_number);
    for (auto const counted : {above_uniform, above_quantile})
        CHECK(row_of(score::hits{.counted = counted}(given(none, 1, 1), memory)) == std::vector<float>(4, 0.0F));
}
}  // namespace terse::test
