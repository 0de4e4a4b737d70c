#include <cmath>

#include <terse/score/redundancy.hpp>
#include <terse/score/weighted_sum.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// The cosines of keys, with themselves 0.
matrix cosines(matrix const& keys) {
    std::size_t const n = keys.size();
    matrix all(n, std::vector<double>(n, 0.0));
    std::vector<double> norms;
    for (auto const& key : keys) norms.push_back(std::sqrt(product(key, key)));
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < i; ++j)
            all[i][j] = all[j][i] = norms[i] * norms[j] == 0 ? 0 : product(keys[i], keys[j]) / (norms[i] * norms[j]);
    return all;
}

/// The redundancy of a head's slots from the whole matrix of cosines, in double precision.
std::vector<double> reference(score::redundancy const& s, matrix cosine) {
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    auto const n = std::ssize(cosine);
    auto const share = static_cast<index>(std::floor(s.forgive_share * static_cast<double>(n) + 1e-6));
    index const count = s.forgive_share > 0 ? std::max<index>(share, 1) : s.forgive;
    for (index i = 0; i < n; ++i) {
        std::vector<index> like, listed;
        for (index j = 0; j < n; ++j) {
            bool const alike = i != j && cosine[at(i)][at(j)] > static_cast<double>(s.threshold);
            if (alike) like.push_back(j);
            listed.push_back(alike ? j : 0);
        }
        if (s.published) {
            std::sort(listed.begin(), listed.end());
            cosine[at(i)][at(s.forgive_oldest ? listed[at(std::min(count, n) - 1)] : listed.back())] = 0;
        } else {
            if (!s.forgive_oldest) std::reverse(like.begin(), like.end());
            like.resize(std::min(like.size(), at(count)));
            for (index const j : like) cosine[at(i)][at(j)] = 0;
        }
    }
    std::vector<double> mean(at(n), 0.0);
    for (auto const& row : cosine)
        for (std::size_t j = 0; j < row.size(); ++j) mean[j] += row[j] / static_cast<double>(n);
    mean = softmax(mean);
    for (double& x : mean) x = -x;
    return mean;
}

layer<float> one_head(std::vector<float> const& keys, index dim) {
    return {.keys = head_major(keys.data(), 1, std::ssize(keys) / dim, dim)};
}
}  // namespace

TEST_CASE("redundancy by hand", "[score][redundancy]") {
    // Slots 0 and 2 are alike, 1 and 3 apart from all. Columns, of -0, 1, 0, 1 / 4 less what is left out:
    std::vector<float> const keys = {1, 0, 0, 2, 3, 0, 0, 0};
    arena memory;
    auto const of = [&](score::redundancy const& s) { return list(s(one_head(keys, 2), memory).value().values); };
    // Each of the two leaves the other out: all columns are 0.
    for (float const x : of({})) CHECK(x == Approx(-0.25));
    // Nothing is alike: columns 0 and 2 have one cosine of 1 each.
    double const e = std::exp(0.25), total = 2 * e + 2;
    auto const apart = of({.threshold = 1.5F});
    CHECK(static_cast<double>(apart[0]) == Approx(-e / total));
    CHECK(static_cast<double>(apart[1]) == Approx(-1 / total));
    CHECK(static_cast<double>(apart[2]) == Approx(-e / total));
    CHECK(static_cast<double>(apart[3]) == Approx(-1 / total));
    // As published, then all leave out column 0, where slot 2 had its cosine.
    auto const published = of({.threshold = 1.5F, .published = true});
    CHECK(static_cast<double>(published[0]) == Approx(-1 / (e + 3)));
    CHECK(static_cast<double>(published[2]) == Approx(-e / (e + 3)));

    // Three alike: how many cosines of 1 each column has left.
    std::vector<float> const three = {1, 2, 3};
    auto const check = [&](score::redundancy const& s, std::vector<double> const& left) {
        CAPTURE(s.forgive, s.forgive_share, s.forgive_oldest, s.published);
        auto const found = list(s(one_head(three, 1), memory).value().values);
        double sum = 0;
        for (double const x : left) sum += std::exp(x / 3);
        for (std::size_t j = 0; j < 3; ++j)
            CHECK(static_cast<double>(found[j]) == Approx(-std::exp(left[j] / 3) / sum));
    };
    check({.forgive = 0}, {2, 2, 2});
    check({}, {2, 1, 0});  // slots 0 and 1 leave out 2, slot 2 leaves out 1
    check({.forgive_oldest = true}, {0, 1, 2});
    check({.forgive = 2}, {0, 0, 0});
    check({.forgive = 5, .forgive_oldest = true}, {0, 0, 0});
    check({.forgive_share = 0.4}, {2, 1, 0});  // of three slots one
    check({.forgive_share = 0.1}, {2, 1, 0});  // at least
    check({.forgive_share = 0.7}, {0, 0, 0});
    check({.forgive_share = 1}, {0, 0, 0});
    // As published: lists 0 1 2, 0 0 2 and 0 0 1.
    check({.published = true}, {2, 1, 0});
    check({.forgive = 2, .published = true}, {2, 1, 0});
    check({.forgive_share = 0.7, .published = true}, {2, 1, 0});
    check({.forgive_oldest = true, .published = true}, {0, 2, 2});
    check({.forgive = 2, .forgive_oldest = true, .published = true}, {0, 1, 2});
    check({.forgive = 3, .forgive_oldest = true, .published = true}, {2, 1, 0});
    check({.forgive = 5, .forgive_oldest = true, .published = true}, {2, 1, 0});  // the last of the list
    check({.forgive_share = 0.7, .forgive_oldest = true, .published = true}, {0, 1, 2});
}

TEST_CASE("a share of the slots is the count that its writer means", "[score][redundancy]") {
    std::vector<float> const alike(100, 1.0F);
    arena memory;
    auto const of = [&](score::redundancy const& s) { return list(s(one_head(alike, 1), memory).value().values); };
    CHECK(of({.forgive_share = 0.29}) == of({.forgive = 29}));  // 0.29 * 100 < 29
    CHECK(of({.forgive_share = 0.29}) != of({.forgive = 28}));
}

TEMPLATE_TEST_CASE("redundancy agrees with the whole matrix of cosines", "[score][redundancy]", float, half, bfloat16) {
    score::redundancy const settings[] = {
        {},
        {.threshold = 0.9F, .published = true},
        {.forgive = 3},
        {.forgive_oldest = true},
        {.threshold = 0.3F, .forgive_share = 0.2},
        {.threshold = 0.3F, .forgive_share = 0.1, .forgive_oldest = true},
        {.threshold = -0.9F, .forgive_share = 0.2, .forgive_oldest = true, .published = true}};
    std::size_t next = 0;
    for (scorer_shape const& s : key_shapes()) {
        // Clusters, so that some keys are alike.
        auto const all = clustered_tokens(s.kv_heads * s.tokens, s.dim, 9, 3, 0.4F);
        auto const keys = cast<TestType>(tensor<float>{all.values, s.kv_heads, s.tokens, s.dim});
        layer<TestType> const l{.keys = keys.by_head()};
        std::vector<matrix> cosine;
        for (index h = 0; h < s.kv_heads; ++h) cosine.push_back(cosines(head_rows(keys, h, s.tokens)));
        std::size_t const count = s.tokens > 300 ? 2 : std::size(settings);
        for (std::size_t k = 0; k < count; ++k) {
            score::redundancy const& scorer = settings[next++ % std::size(settings)];
            CAPTURE(s.kv_heads, s.tokens, s.dim, scorer.threshold, scorer.forgive, scorer.forgive_share,
                    scorer.forgive_oldest, scorer.published);
            arena memory;
            auto const got = scorer(l, memory).value();
            matrix want;
            for (index h = 0; h < s.kv_heads; ++h)
                want.push_back(reference(scorer, cosine[static_cast<std::size_t>(h)]));
            require_close(got, want, 2e-5, 0);
            index const workers = 2 + s.tokens % 6;
            REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));
        }
    }
}

TEST_CASE("redundancy of what is not finite, of zero rows and of ragged heads", "[score][redundancy]") {
    auto x = random_heads(2, 40, 12, 4);
    auto const clean = x;
    arena memory;
    x.row(7)[3] = not_a_number;
    x.row(9)[0] = infinity;
    auto const poisoned = score::redundancy{}(layer<float>{.keys = x.by_head()}, memory).value();
    double total = 0;
    for (std::size_t t = 0; t < 40; ++t) {
        CHECK(simd::is_nan(poisoned.row(0)[t]) == (t == 7 || t == 9));
        if (t != 7 && t != 9) total += static_cast<double>(poisoned.row(0)[t]);
    }
    CHECK(total == Approx(-1));
    // Nor does what is not finite spoil the first slot, which it leaves out as published.
    auto const published = score::redundancy{.published = true}(layer<float>{.keys = x.by_head()}, memory).value();
    for (std::size_t t = 0; t < 40; ++t) CHECK(simd::is_nan(published.row(0)[t]) == (t == 7 || t == 9));

    std::vector<float> const zeros(6);
    CHECK(list(score::redundancy{}(one_head(zeros, 3), memory).value().values) == std::vector<float>{-0.5F, -0.5F});
    CHECK(score::redundancy{}(layer<float>{.keys = {zeros.data(), 1, 0, 3, 0, 3}}, memory).value().tokens == 0);

    uneven const held{40, {40, 13}};
    layer<float, ragged_view<float>> const l{.keys = held.of(clean)};
    auto const shorter = score::redundancy{}(l, memory).value();
    auto const want = reference(score::redundancy{}, cosines(head_rows(clean, 1, 13)));
    for (std::size_t t = 0; t < 40; ++t) {
        CHECK(simd::is_nan(shorter.row(1)[t]) == (t >= 13));
        if (t < 13) CHECK(static_cast<double>(shorter.row(1)[t]) == Approx(want[t]).epsilon(1e-5));
    }
}

TEST_CASE("redundancy says what does not fit", "[score][redundancy]") {
    auto const x = random_heads(2, 30, 8, 4);
    arena memory;
    auto const error = [&](score::redundancy const& s) { return s(layer<float>{.keys = x.by_head()}, memory).error(); };
    CHECK(error({.threshold = not_a_number}) == errc::bad_setting);
    CHECK(error({.forgive = -1}) == errc::bad_setting);
    CHECK(error({.forgive_share = -0.1}) == errc::bad_setting);
    CHECK(error({.forgive_share = 1.1}) == errc::bad_setting);
    CHECK(error({.forgive_share = std::numeric_limits<double>::quiet_NaN()}) == errc::bad_setting);
    CHECK(score::redundancy{}(layer<float>{}, memory).error() == errc::bad_shape);
    CHECK(score::redundancy{}(layer<float>{.keys = {.heads = 1, .tokens = 3, .dim = 2}}, memory).error() ==
          errc::bad_shape);
    CHECK(memory.used() == 0);
    for (index const forgive : {0, 1, 4})
        require_exact_peak(
            [&](arena& a) { return score::redundancy{.forgive = forgive}(layer<float>{.keys = x.by_head()}, a); });
}

TEST_CASE("a weighted sum has the slots that both score", "[score][weighted_sum]") {
    std::vector<float> const x = {1, 2, 3, 4, 5, 6}, y = {10, 20, 30, 40};
    auto const of = [](std::vector<float> const& values) {
        return [&values](int, arena&, serial const&) noexcept -> result<scores> {
            index const tokens = std::ssize(values) / 2;
            return scores{values, 2, tokens, tokens};
        };
    };
    using sum = score::weighted_sum<decltype(of(x)), decltype(of(y))>;
    arena memory;
    auto const s = sum{of(x), of(y), 2, 0.5F}(0, memory).value();
    CHECK(s.tokens == 2);
    CHECK(list(s.row(0)) == std::vector<float>{7, 14});
    CHECK(list(s.row(1)) == std::vector<float>{23, 30});
    CHECK(list(sum{of(y), of(x), 2, 1}(0, memory).value().row(1)) == std::vector<float>{64, 85});
    // At a weight of 0 the second by itself, with all that it scores.
    CHECK(list(sum{of(y), of(x), 0, 0.5F}(0, memory).value().row(1)) == std::vector<float>{4, 5, 6});
    CHECK(sum{of(x), of(y), infinity, 1}(0, memory).error() == errc::bad_setting);
    CHECK(sum{of(x), of(y), 1, infinity}(0, memory).error() == errc::bad_setting);
    CHECK(sum{of(x), of(y), -1, 1}(0, memory).error() == errc::bad_setting);
    CHECK(sum{of(x), of(y), 1, -1}(0, memory).error() == errc::bad_setting);
    CHECK(sum{of(x), of(y), 1, not_a_number}(0, memory).error() == errc::bad_setting);

    auto const one_row = [&x](int, arena&, serial const&) noexcept -> result<scores> { return scores{x, 1, 3, 3}; };
    memory.rewind();
    CHECK(score::weighted_sum<decltype(of(x)), decltype(one_row)>{of(x), one_row}(0, memory).error() ==
          errc::bad_shape);
    CHECK(score::weighted_sum<decltype(one_row), decltype(of(x))>{one_row, of(x)}(0, memory).error() ==
          errc::bad_shape);
    CHECK(memory.used() == 0);
}

}  // namespace terse::test
