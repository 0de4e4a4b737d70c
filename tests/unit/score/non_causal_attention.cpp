#include <cmath>

#include <terse/score/non_causal_attention.hpp>
#include <terse/score/weighted_sum.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// (x - mean) / deviation over all of them.
void standardise(matrix& all) {
    double sum = 0, squares = 0, count = 0;
    for (auto const& row : all)
        for (double const x : row) sum += x, ++count;
    for (auto const& row : all)
        for (double const x : row) squares += (x - sum / count) * (x - sum / count);
    double const deviation = std::max(count > 1 ? std::sqrt(squares / (count - 1)) : 0, 1e-6);
    for (auto& row : all)
        for (double& x : row) x = (x - sum / count) / deviation;
}

/// What the slots of each head score, from whole padded chunks in double precision; infinity outside of
/// [s.sinks, tokens - s.recent).
template <class T>
matrix reference(score::non_causal_attention const& s, layer<T> const& l) {
    index const first = s.sinks, n = l.tokens() - s.recent - first, c = s.chunk, group = l.group();
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    matrix all;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        matrix const keys = head_rows(l.keys, kv, l.tokens()), values = head_rows(l.values, kv, l.tokens());
        std::vector<double> row(at(n), 0.0);
        for (index h = kv * group; h < (kv + 1) * group; ++h) {
            matrix const queries = head_rows(l.queries, h, l.tokens());
            for (index chunk = 0; chunk < n; chunk += c) {
                for (index i = chunk; i < chunk + c; ++i) {
                    std::vector<double> logits(at(c), 0.0);
                    for (index j = chunk; i < n && j < std::min(n, chunk + c); ++j)
                        logits[at(j - chunk)] =
                            product(queries[at(first + i)], keys[at(first + j)]) * static_cast<double>(s.scale);
                    auto const received = softmax(std::move(logits));
                    for (index j = chunk; j < std::min(n, chunk + c); ++j)
                        row[at(j)] += received[at(j - chunk)] / static_cast<double>(group);
                }
            }
        }
        for (index t = 0; t < n; ++t) row[at(t)] *= std::sqrt(product(values[at(first + t)], values[at(first + t)]));
        auto& pooled = all.emplace_back();
        for (index t = 0; t < n; ++t) {
            double sum = 0;
            for (index k = std::max<index>(t - 1, 0); k <= std::min(t + 1, n - 1); ++k) sum += row[at(k)];
            pooled.push_back(sum / 3);
        }
    }
    standardise(all);
    for (auto& row : all) {
        row.insert(row.begin(), at(s.sinks), INFINITY);
        row.insert(row.end(), at(s.recent), INFINITY);
    }
    return all;
}

template <class T>
layer<T> all_of(random_layer<T> const& r) {
    return {.keys = r.keys.by_head(), .values = r.values.by_head(), .queries = r.queries.by_head()};
}
}  // namespace

TEMPLATE_TEST_CASE("attention without a mask agrees with whole chunks in double precision", "[score][non_causal]",
                   float, half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {  // their windows as chunks
        random_layer<TestType> const r{s.heads, s.kv_heads, s.tokens, s.dim, s.tokens, 5};
        score::non_causal_attention scorer{.chunk = s.window};
        if (s.tokens > 8 && s.dim % 2 == 0) scorer.sinks = 3, scorer.recent = s.tokens % 3;
        if (s.tokens == 65) scorer.scale = 0.4F;
        if (s.tokens == 9) scorer.chunk = 70;  // longer than all
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
        arena memory;
        auto const l = all_of(r);
        auto const got = scorer(l, memory).value();
        require_close(got, reference(scorer, l), 1e-4, 2e-4);
        index const workers = 2 + s.tokens % 6;
        REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));
    }
}

TEST_CASE("attention without a mask by hand", "[score][non_causal]") {
    // Keys and queries of ln 3 and 0 in two chunks of two; the second chunk is half padding.
    float const x = std::sqrt(std::log(3.0F));
    std::vector<float> const q = {x, 0, x}, values = {3, 6, 12};
    layer<float> const l{.keys = head_major(q.data(), 1, 3, 1),
                         .values = head_major(values.data(), 1, 3, 1),
                         .queries = head_major(q.data(), 1, 3, 1)};
    arena memory;
    auto const got = score::non_causal_attention{.chunk = 2}(l, memory).value();
    // Received: 3/4 + 1/2, 1/4 + 1/2, and 3/4 + 1/2 of the padding's query; times the values, and averaged.
    double const a = 3.75, b = 4.5, c = 15;
    matrix want = {{(a + b) / 3, (a + b + c) / 3, (b + c) / 3}};
    standardise(want);
    for (std::size_t t = 0; t < 3; ++t) CHECK(got.row(0)[t] == Approx(want[0][t]).epsilon(1e-5));
}

TEST_CASE("attention without a mask is among the slots that a head holds", "[score][non_causal]") {
    random_layer<> r{4, 2, 30, 8, 30, 6};
    uneven const held{30, {30, 17}};
    for (auto* const x : {&r.keys, &r.values}) std::fill_n(x->row(17, 1), 13 * 8, 5.0F);
    index const lengths[] = {30, 17};
    score::non_causal_attention const s{.chunk = 8, .sinks = 2, .recent = 3};
    arena memory;
    auto const got = s(r.view(held), memory).value();
    double sum = 0, squares = 0;
    for (index h = 0; h < 2; ++h) {
        auto l = r.alone(h, lengths[h]);
        l.queries.tokens = lengths[h];
        auto const want = s(l, memory).value().row(0), row = got.row(h);
        auto const first = std::size_t{2}, last = static_cast<std::size_t>(lengths[h]) - 3;
        for (std::size_t t = 0; t < 30; ++t) {
            CAPTURE(h, t);
            if (t >= last + 3) {
                CHECK(std::isnan(row[t]));
            } else if (t < first || t >= last) {
                CHECK(row[t] == infinity);
            } else {  // as alone, but for the mean and the deviation, which are those of both heads
                sum += static_cast<double>(row[t]), squares += static_cast<double>(row[t] * row[t]);
                CHECK((row[t] - row[2]) * (want[3] - want[2]) ==
                      Approx((want[t] - want[2]) * (row[3] - row[2])).epsilon(1e-3).margin(1e-4));
            }
        }
    }
    CHECK(sum == Approx(0).margin(1e-3));
    CHECK(squares == Approx(36));  // of 37 slots
}

TEST_CASE("attention without a mask takes odd input", "[score][non_causal]") {
    random_layer<> r{4, 2, 24, 8, 24, 6};
    arena memory;
    std::fill_n(r.keys.row(5), 8, not_a_number);
    std::fill_n(r.values.row(9), 8, not_a_number);
    auto const got = score::non_causal_attention{.chunk = 8}(all_of(r), memory).value();
    for (index t = 0; t < 24; ++t) {  // the neighbours of a value that is none have no score either
        bool const none = t >= 8 && t <= 10;
        CHECK(std::isnan(got.row(0)[static_cast<std::size_t>(t)]) == none);
        CHECK(std::isfinite(got.row(1)[static_cast<std::size_t>(t)]));
    }
    random_layer<> const nothing{4, 2, 0, 8, 0, 6};
    CHECK(score::non_causal_attention{}(all_of(nothing), memory).value().tokens == 0);
    auto const protected_all = score::non_causal_attention{.sinks = 20, .recent = 20}(all_of(r), memory).value();
    for (float const x : protected_all.values) CHECK(x == infinity);
}

TEST_CASE("attention without a mask says what does not fit", "[score][non_causal]") {
    random_layer<> const r{4, 2, 20, 8, 20, 1};
    arena memory;
    auto const error = [&](score::non_causal_attention const& s, layer<float> const& l) {
        return s(l, memory).error();
    };
    CHECK(error({.chunk = 0}, all_of(r)) == errc::bad_setting);
    CHECK(error({.chunk = -1}, all_of(r)) == errc::bad_setting);
    CHECK(error({.sinks = -1}, all_of(r)) == errc::bad_setting);
    CHECK(error({.recent = -1}, all_of(r)) == errc::bad_setting);
    CHECK(error({.scale = not_a_number}, all_of(r)) == errc::bad_setting);
    CHECK(error({}, {}) == errc::bad_shape);
    auto const without = [&](auto change) {
        layer<float> l = all_of(r);
        change(l);
        return error({.chunk = 8}, l);
    };
    CHECK(without([](layer<float>& l) { l.queries.tokens = 19; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.queries.heads = 3; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.queries.dim = 7; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.queries = {}; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.values = {}; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.values.tokens = 19; }) == errc::bad_shape);
    CHECK(without([](layer<float>& l) { l.values.heads = 1; }) == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& a) { return score::non_causal_attention{.chunk = 8}(all_of(r), a); });
}

TEST_CASE("a weighted sum of scorers", "[score][weighted_sum]") {
    std::vector<float> const a = {1, 2, infinity}, b = {10, not_a_number, infinity}, c = {1, 2};
    struct fixed {
        std::span<float const> row;
        result<scores> operator()(int, arena&, serial const&) const noexcept {
            return scores{row, 1, std::ssize(row), std::ssize(row)};
        }
    };
    arena memory;
    auto const sum = [&](std::span<float const> x, std::span<float const> y, float weight) {
        return score::weighted_sum<fixed, fixed>{{x}, {y}, weight}(0, memory);
    };
    auto const got = list(sum(a, b, 0.5F).value().values);
    CHECK(got[0] == 10.5F);
    CHECK(std::isnan(got[1]));
    CHECK(got[2] == infinity);
    CHECK(list(sum(a, a, 0).value().values) == a);  // not 0 * infinity
    CHECK(sum(a, b, -1).error() == errc::bad_setting);
    CHECK(sum(a, b, not_a_number).error() == errc::bad_setting);
    // Slots that one of the two leaves out have no sum.
    scores const common = sum(a, c, 1).value();
    CHECK(common.tokens == 2);
    CHECK(list(common.row(0)) == std::vector<float>{2, 4});
}

}  // namespace terse::test
