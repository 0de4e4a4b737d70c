#include <cmath>

#include <terse/score/attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {

namespace {
using matrix = std::vector<std::vector<double>>;

/// What score::attention computes, from whole matrices in double precision.
template <class T>
matrix reference(score::attention const& s, layer<T> const& l) {
    auto const a = attention_matrix(l);
    auto const n = static_cast<std::size_t>(l.tokens()), have = static_cast<std::size_t>(l.window());
    auto const voters = s.queries == 0 ? have : std::min(static_cast<std::size_t>(s.queries), n);
    std::size_t const scored = s.past_only ? n - voters : n;
    auto const pool = [&](std::vector<double> const& row) {
        auto const reach = static_cast<index>(s.kernel / 2), size = static_cast<index>(row.size());
        std::vector<double> out;
        for (index t = 0; t < size; ++t) {
            double sum = 0, highest = -INFINITY;
            for (index k = std::max<index>(0, t - reach); k <= std::min(size - 1, t + reach); ++k) {
                sum += row[static_cast<std::size_t>(k)];
                highest = std::max(highest, row[static_cast<std::size_t>(k)]);
            }
            out.push_back(s.pool == score::pooling::none  ? row[static_cast<std::size_t>(t)]
                          : s.pool == score::pooling::max ? highest
                                                          : sum / static_cast<double>(s.kernel));
        }
        return out;
    };
    matrix heads;
    for (auto const& head : a) {
        std::vector<double> row(scored, 0.0);
        for (std::size_t i = have - voters; i < have; ++i)
            for (std::size_t j = 0; j < scored; ++j) row[j] += head[i][j];
        for (std::size_t j = 0; j < scored; ++j) {
            if (s.per_visible)
                row[j] /= static_cast<double>(std::min(voters, n - j));
            else if (s.mean_queries)
                row[j] /= static_cast<double>(voters);
        }
        heads.push_back(s.pool_first ? pool(row) : row);
    }
    auto const rows = s.across_heads ? std::size_t{1} : static_cast<std::size_t>(l.kv_heads());
    std::size_t const group = heads.size() / rows;
    matrix out;
    for (std::size_t r = 0; r < rows; ++r) {
        std::vector<double> row = heads[r * group];
        for (std::size_t g = 1; g < group; ++g)
            for (std::size_t j = 0; j < scored; ++j) {
                double const x = heads[r * group + g][j];
                row[j] = s.group == score::reduction::max ? std::max(row[j], x) : row[j] + x;
            }
        if (s.group == score::reduction::mean)
            for (double& x : row) x /= static_cast<double>(group);
        out.push_back(s.pool_first ? row : pool(row));
    }
    return out;
}

void require_close(scores const& got, matrix const& want, double tolerance) {
    REQUIRE(got.heads == static_cast<index>(want.size()));
    REQUIRE(got.tokens == static_cast<index>(want[0].size()));
    for (index r = 0; r < got.heads; ++r)
        for (index t = 0; t < got.tokens; ++t) {
            CAPTURE(r, t);
            double const x = want[static_cast<std::size_t>(r)][static_cast<std::size_t>(t)];
            REQUIRE(static_cast<double>(got.row(r)[static_cast<std::size_t>(t)]) ==
                    Approx(x).epsilon(tolerance).margin(tolerance * 1e-2));
        }
}

std::vector<score::attention> const settings = {
    {},
    {.queries = 1, .across_heads = true},
    {.queries = 5, .past_only = true, .pool = score::pooling::average, .kernel = 5},
    {.queries = 5, .past_only = true, .mean_queries = true, .pool = score::pooling::max, .kernel = 7},
    {.past_only = true, .group = score::reduction::max, .pool = score::pooling::average, .kernel = 3},
    {.group = score::reduction::max, .pool = score::pooling::max, .kernel = 3, .pool_first = true},
    {.per_visible = true, .group = score::reduction::sum},
};
}  // namespace

TEMPLATE_TEST_CASE("attention scores agree with the whole matrix in double precision", "[score][attention]", float,
                   half, bfloat16) {
    struct shape {
        index heads, kv_heads, tokens, dim, window;
    };
    auto const s = GENERATE(values<shape>({{1, 1, 1, 1, 1},
                                           {4, 4, 7, 16, 5},
                                           {4, 1, 19, 33, 19},
                                           {8, 2, 65, 20, 16},
                                           {2, 1, 300, 64, 40},
                                           {6, 2, 129, 8, 129}}));
    CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
    random_layer<TestType> const memory_of_layer{s.heads, s.kv_heads, s.tokens, s.dim, s.window, 7};
    layer<TestType> l = memory_of_layer.view();
    for (score::attention const& scorer : settings) {
        if (scorer.queries > s.window) continue;
        l.soft_cap = &scorer == &settings[2] ? 0.5F : 0.0F;
        l.scale = &scorer == &settings[3] ? 0.7F : 0.0F;
        arena memory;
        require_close(scorer(l, memory).value(), reference(scorer, l), 2e-5);
    }
}

TEST_CASE("attention that the engine hands in scores as what is recomputed", "[score][attention]") {
    random_layer<> const r{4, 2, 40, 16, 9, 3};
    auto const a = attention_matrix(r.view());
    std::vector<float> flat;
    for (auto const& head : a)
        for (auto const& row : head) flat.insert(flat.end(), row.begin(), row.end());
    layer<float> const given{.keys = {.heads = 2, .tokens = 40},
                             .attention = head_major<float const>(flat.data(), 4, 9, 40)};
    for (score::attention const& scorer : settings) {
        arena memory;
        require_close(scorer(given, memory).value(), reference(scorer, r.view()), 1e-5);
    }
}

TEST_CASE("attention scores do not depend on the cache's layout or the workers", "[score][attention]") {
    random_layer<> const r{4, 2, 48, 24, 8, 11};
    score::attention const scorer{.queries = 6, .pool = score::pooling::average, .kernel = 5};
    arena memory;
    auto const expected = list(scorer(r.view(), memory).value().values);

    for (index const workers : worker_counts)
        CHECK(list(scorer(r.view(), memory, threads{workers}).value().values) == expected);

    // The same rows in blocks of 16 tokens, in another order, heads inside.
    std::vector<token> const blocks = {2, 0, 1};
    std::vector<float> pages(r.keys.values.size());
    paged_span<float> const keys{pages.data(), blocks, 2, 48, 24, 16, 2 * 16 * 24, 16 * 24, 24};
    for (index h = 0; h < 2; ++h)
        for (index t = 0; t < 48; ++t) std::copy_n(r.keys.row(t, h), 24, keys.row(h, t));
    layer<float, paged_view<float>> const paged{.keys = keys, .queries = r.queries.by_head()};
    CHECK(list(scorer(paged, memory).value().values) == expected);
}

TEST_CASE("attention says what does not fit", "[score][attention]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const error = [&](score::attention const& s, layer<float> const& l) { return s(l, memory).error(); };

    CHECK(error({.queries = -1}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 4}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 0}, r.view()) == errc::bad_setting);
    CHECK(error({.queries = 6}, r.view()) == errc::bad_shape);

    layer<float> l = r.view();
    l.soft_cap = -1;
    CHECK(error({}, l) == errc::bad_setting);
    l = r.view();
    l.scale = not_a_number;
    CHECK(error({}, l) == errc::bad_setting);
    l = r.view();
    l.queries.heads = 3;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries.dim = 7;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries = {};
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.keys.tokens = 4;  // fewer tokens than queries
    CHECK(error({}, l) == errc::bad_shape);
    CHECK(error({}, {}) == errc::bad_shape);
    CHECK(memory.used() == 0);

    require_exact_peak(
        [&](arena& a) { return score::attention{.pool = score::pooling::max, .kernel = 3}(r.view(), a); });
}

TEST_CASE("more voters than tokens are all the tokens", "[score][attention]") {
    random_layer<> const r{2, 2, 6, 8, 6, 5};
    arena memory;
    CHECK(list(score::attention{.queries = 32}(r.view(), memory).value().values) ==
          list(score::attention{}(r.view(), memory).value().values));
}

}  // namespace terse::test
