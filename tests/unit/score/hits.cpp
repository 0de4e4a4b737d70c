#include <cmath>

#include <terse/score/hits.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using enum score::hit;

std::size_t at(index i) { return static_cast<std::size_t>(i); }

std::vector<float> row_of(result<scores> const& s, index row = 0) { return list(s.value().row(row)); }

/// The least and the most that score::hits may count by the whole attention matrix: rounding decides near the limits.
struct bounds {
    std::vector<std::vector<double>> least, most;
};
template <class T>
bounds reference(score::hits const& s, layer<T> const& l) {
    auto const a = attention_matrix(l);
    index const n = l.tokens(), skipped = s.queries == 0 ? 0 : l.window() - s.queries;
    std::vector<std::vector<double>> const zeros(at(l.kv_heads()), std::vector<double>(at(n), 0.0));
    bounds b{zeros, zeros};
    for (index h = 0; h < l.heads(); ++h)
        for (index i = skipped; i < l.window(); ++i) {
            index const seen = n - l.window() + i + 1;
            std::vector<double> row = a[at(h)][at(i)];
            row.resize(at(seen));
            auto sorted = row;
            std::sort(sorted.begin(), sorted.end());
            double const place = s.quantile * static_cast<double>(seen - 1);
            auto const below = static_cast<std::size_t>(place);
            double const above = below + 1 < sorted.size() ? sorted[below + 1] : sorted[below];
            double const quantile = sorted[below] + (place - std::floor(place)) * (above - sorted[below]);
            double const limit = s.counted == above_uniform ? 1 / static_cast<double>(seen) : quantile;
            for (index t = 0; t < seen; ++t) {
                double const x = row[at(t)];
                b.least[at(h / l.group())][at(t)] += s.counted == attention ? x * (1 - 2e-5) : x > limit * (1 + 2e-5);
                b.most[at(h / l.group())][at(t)] += s.counted == attention ? x * (1 + 2e-5) : x > limit * (1 - 2e-5);
            }
        }
    if (!s.per_visible) return b;
    for (auto* const rows : {&b.least, &b.most})
        for (auto& row : *rows)
            for (index t = 0; t < n; ++t) row[at(t)] /= static_cast<double>(std::min(l.window() - skipped, n - t));
    return b;
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

TEST_CASE("an equal share is no hit", "[score][hits]") {
    for (index const n : {1, 3, 49, 98, 1000}) {
        std::vector<float> const keys(at(n), 1.0F), equal(at(n), 1 / static_cast<float>(n)), zeros(at(n), 0.0F);
        layer<float> const l{.keys = head_major(keys.data(), 1, n, 1), .queries = head_major(keys.data(), 1, 1, 1)};
        arena memory;
        CHECK(row_of(score::hits{}(l, memory)) == zeros);
        CHECK(row_of(score::hits{}(given(equal, 1, 1), memory)) == zeros);
        CHECK(row_of(score::hits{.counted = above_quantile}(given(equal, 1, 1), memory)) == zeros);
    }
}

TEMPLATE_TEST_CASE("hits agree with the whole attention matrix", "[score][hits]", float, half, bfloat16) {
    struct shape {
        index heads, kv_heads, tokens, dim, window;
    };
    auto const s = GENERATE(values<shape>({{1, 1, 1, 1, 1},
                                           {4, 4, 9, 16, 5},
                                           {4, 1, 19, 33, 19},
                                           {8, 2, 65, 20, 16},
                                           {20, 1, 300, 64, 1},
                                           {6, 2, 1000, 8, 70}}));
    CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
    random_layer<TestType> const r{s.heads, s.kv_heads, s.tokens, s.dim, s.window, 3};
    layer<TestType> l = r.view();
    l.scale = 1.5F;
    std::vector<float> flat;
    for (auto const& head : attention_matrix(l))
        for (auto const& row : head) flat.insert(flat.end(), row.begin(), row.end());
    layer<TestType> const handed{.keys = {.heads = s.kv_heads, .tokens = s.tokens, .dim = s.dim},
                                 .attention = head_major<float const>(flat.data(), s.heads, s.window, s.tokens)};
    for (auto const counted : {above_uniform, above_quantile, attention})
        for (index const queries : {index{0}, (s.window + 1) / 2})
            for (bool const per_visible : {false, true}) {
                CAPTURE(static_cast<int>(counted), queries, per_visible);
                score::hits const scorer{queries, counted, 0.83, per_visible};
                auto const [least, most] = reference(scorer, l);
                arena memory;
                for (layer<TestType> const& from : {l, handed}) {
                    auto const got = scorer(from, memory).value();
                    REQUIRE(got.heads == s.kv_heads);
                    REQUIRE(got.tokens == s.tokens);
                    for (index h = 0; h < got.heads; ++h)
                        for (index t = 0; t < got.tokens; ++t) {
                            auto const x = static_cast<double>(got.row(h)[at(t)]);
                            REQUIRE(x >= least[at(h)][at(t)] - 1e-6);
                            REQUIRE(x <= most[at(h)][at(t)] + 1e-6);
                        }
                    for (index const workers : worker_counts)
                        REQUIRE(list(scorer(from, memory, threads{workers}).value().values) == list(got.values));
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
