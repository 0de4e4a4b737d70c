#include <cmath>

#include <terse/score/logits.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
std::size_t at(index i) { return static_cast<std::size_t>(i); }

/// Every product of the layer's queries and keys, scaled and capped: [heads, queries, tokens]. Unlike the logits that
/// attention has, those of slots after a query count.
template <class T, class Cache>
std::vector<matrix> products(layer<T, Cache> const& l) {
    double const scale = l.scale != 0 ? static_cast<double>(l.scale) : 1 / std::sqrt(static_cast<double>(l.keys.dim));
    double const cap = static_cast<double>(l.soft_cap);
    std::vector<matrix> all;
    for (index h = 0; h < l.heads(); ++h) {
        matrix const queries = head_rows(l.queries, h, l.window()), keys = head_rows(l.keys, h / l.group(), l.tokens());
        auto& head = all.emplace_back();
        for (auto const& query : queries) {
            auto& row = head.emplace_back();
            for (auto const& key : keys) {
                double const x = scale * product(query, key);
                row.push_back(cap > 0 ? cap * std::tanh(x / cap) : x);
            }
        }
    }
    return all;
}

/// What score::logits computes from them, before it pools.
template <class T, class Cache>
matrix reference(score::logits const& s, layer<T, Cache> const& l, std::vector<matrix> const& of) {
    index const voters = s.queries == 0 ? l.window() : s.queries, rows = s.across_heads ? 1 : l.kv_heads();
    index const group = l.heads() / rows;
    matrix out(at(rows), std::vector<double>(at(std::max<index>(l.tokens() - s.recent, 0)), 0.0));
    for (index h = 0; h < l.heads(); ++h)
        for (index i = l.window() - voters; i < l.window(); ++i)
            for (std::size_t t = 0; t < out[0].size(); ++t)
                out[at(h / group)][t] += of[at(h)][at(i)][t] / static_cast<double>(group);
    return out;
}

std::vector<float> row_of(result<scores> const& s, index row = 0) { return list(s.value().row(row)); }
}  // namespace

TEST_CASE("logits are the mean over query heads of scaled products", "[score][logits]") {
    // Two query heads on one kv head, two channels.
    std::vector<float> const keys = {1, 0, 0, 1, 2, -2}, queries = {1, 3, 5, 1};
    layer<float> const l{
        .keys = head_major(keys.data(), 1, 3, 2), .queries = head_major(queries.data(), 2, 1, 2), .scale = 0.5F};
    arena memory;
    CHECK(row_of(score::logits{}(l, memory)) == std::vector<float>{1.5F, 1, 1});
    CHECK(row_of(score::logits{.recent = 1}(l, memory)) == std::vector<float>{1.5F, 1});
    CHECK(row_of(score::logits{.recent = 9}(l, memory)).empty());
    CHECK(row_of(score::logits{.pool = score::pooling::max, .kernel = 3}(l, memory)) ==
          std::vector<float>{1.5F, 1.5F, 1});
    CHECK(row_of(score::logits{.recent = 1, .pool = score::pooling::average, .kernel = 5}(l, memory)) ==
          std::vector<float>{0.5F, 0.5F});
    CHECK(row_of(score::logits{.recent = 1, .pool = score::pooling::average_inside, .kernel = 5}(l, memory)) ==
          std::vector<float>{1.25F, 1.25F});
    // Of two queries the last one, or both.
    layer<float> two = l;
    two.queries = head_major(queries.data(), 1, 2, 2);
    CHECK(row_of(score::logits{}(two, memory)) == std::vector<float>{2.5F, 0.5F, 4});
    CHECK(row_of(score::logits{.queries = 0}(two, memory)) == std::vector<float>{3, 2, 2});
    // Attention rows say nothing about logits.
    layer<float> given = l;
    given.attention = head_major(keys.data(), 2, 1, 3);
    CHECK(row_of(score::logits{}(given, memory)) == std::vector<float>{1.5F, 1, 1});
}

TEMPLATE_TEST_CASE("logits agree with every product in double precision", "[score][logits]", float, half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 7};
        for (int const given : {0, 1, 2}) {
            layer<TestType> l = r.view();
            if (given > 0 && s.tokens * s.window > 100'000) continue;
            l.scale = given == 1 ? 0.3F : 0.0F;
            l.soft_cap = given == 2 ? 0.4F : 0.0F;
            auto const of = products(l);
            for (score::logits const& scorer :
                 {score::logits{}, score::logits{.recent = 1}, score::logits{.across_heads = true},
                  score::logits{.queries = 0, .across_heads = true}, score::logits{.queries = (s.window + 1) / 2}}) {
                CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, given);
                CAPTURE(scorer.queries, scorer.recent, scorer.across_heads);
                arena memory;
                auto const got = scorer(l, memory).value();
                double const sums = std::sqrt(static_cast<double>(s.window));  // of values of either sign
                require_close(got, reference(scorer, l, of), 2e-5, 4e-6 * sums);
                index const workers = 2 + s.tokens % 6;
                REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));
            }
        }
    }
}

TEST_CASE("slots that a head does not hold have no logit", "[score][logits]") {
    random_layer<> const r{4, 2, 300, 8, 1, 5};
    uneven const held{300, {300, 258}};
    auto const l = r.view(held);
    arena memory;
    auto const pooled = score::pooling::average_inside;
    auto const each = score::logits{.pool = pooled, .kernel = 3}(l, memory).value();
    auto const whole = score::logits{.pool = pooled, .kernel = 3}(r.view(), memory).value();
    CHECK(list(each.row(0)) == list(whole.row(0)));
    CHECK(list(each.row(1).first(257)) == list(whole.row(1).first(257)));
    CHECK(std::none_of(each.row(1).begin(), each.row(1).begin() + 258, simd::is_nan));
    CHECK(std::all_of(each.row(1).begin() + 258, each.row(1).end(), simd::is_nan));
    auto const shared = score::logits{.across_heads = true, .pool = pooled, .kernel = 3}(l, memory).value();
    CHECK(std::none_of(shared.values.begin(), shared.values.begin() + 258, simd::is_nan));
    CHECK(std::all_of(shared.values.begin() + 258, shared.values.end(), simd::is_nan));
}

TEST_CASE("logits take broken rows, and say what does not fit", "[score][logits]") {
    random_layer<> r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const before = row_of(score::logits{.across_heads = true}(r.view(), memory));
    r.keys.row(3)[0] = not_a_number;
    std::fill_n(r.keys.row(4), 8, 0.0F);
    auto const after = row_of(score::logits{.across_heads = true}(r.view(), memory));
    CHECK(simd::is_nan(after[3]));
    for (std::size_t t = 5; t < 20; ++t) CHECK(after[t] == before[t]);

    memory.rewind();
    auto const error = [&](score::logits const& s, layer<float> const& l) { return s(l, memory).error(); };
    CHECK(error({.queries = -1}, r.view()) == errc::bad_setting);
    CHECK(error({.recent = -1}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 4}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 0}, r.view()) == errc::bad_setting);
    CHECK(error({.queries = 6}, r.view()) == errc::bad_shape);
    layer<float> l = r.view();
    l.queries.heads = 3;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries.dim = 7;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries = {};
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.scale = infinity;
    CHECK(error({}, l) == errc::bad_setting);
    CHECK(memory.used() == 0);
    require_exact_peak(
        [&](arena& m) { return score::logits{.pool = score::pooling::max, .kernel = 3}(r.view(), m, threads{2}); });
}
}  // namespace terse::test
