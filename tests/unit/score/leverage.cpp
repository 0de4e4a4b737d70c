#include <cmath>

#include <Eigen/Dense>

#include <terse/score/leverage.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// Leverage by the plain inverse in double precision, as z-scores; infinity outside of [first, last).
template <class T, class S>
matrix reference(tensor<T> const& keys, S const& sketch_of, index columns, index first, index last) {
    index const n = last - first;
    Eigen::MatrixXd all(keys.heads, n);
    for (index h = 0; h < keys.heads; ++h) {
        Eigen::MatrixXd k(n, keys.dim), s(keys.dim, columns);
        for (index t = 0; t < n; ++t)
            for (index c = 0; c < keys.dim; ++c)
                k(t, c) = static_cast<double>(static_cast<float>(keys.row(first + t, h)[c]));
        for (index c = 0; c < keys.dim; ++c)
            for (index j = 0; j < columns; ++j) s(c, j) = static_cast<double>(sketch_of(h, c)[j]);
        Eigen::RowVectorXd const mean = k.colwise().mean();
        Eigen::MatrixXd const x = (k.rowwise() - mean) * s / std::sqrt(static_cast<double>(columns));
        Eigen::MatrixXd g = x.transpose() * x;
        g.diagonal().array() += static_cast<double>(0.01F);
        Eigen::MatrixXd const solved = g.ldlt().solve(x.transpose());
        for (index t = 0; t < n; ++t) all(h, t) = std::max(0.0, x.row(t).dot(solved.col(t)));
    }
    double const mean = all.mean(), count = static_cast<double>(all.size());
    double const deviation = count > 1 ? std::sqrt((all.array() - mean).square().sum() / (count - 1)) : 0;
    matrix scores;
    for (index h = 0; h < keys.heads; ++h) {
        auto& row = scores.emplace_back(static_cast<std::size_t>(keys.tokens), INFINITY);
        for (index t = 0; t < n; ++t)
            row[static_cast<std::size_t>(first + t)] = (all(h, t) - mean) / std::max(deviation, 1e-6);
    }
    return scores;
}
}  // namespace

TEMPLATE_TEST_CASE("leverage agrees with the plain inverse in double precision", "[score][leverage]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : key_shapes()) {
        index const columns = 1 + s.tokens % 24 * std::min<index>(s.dim, 48) / 24;
        index const sinks = s.tokens > 8 ? s.dim % 9 : 0, recent = s.tokens > 20 ? s.dim % 5 : 0;
        CAPTURE(s.kv_heads, s.tokens, s.dim, columns, sinks, recent);
        auto const keys = cast<TestType>(random_heads(s.kv_heads, s.tokens, s.dim, 3));
        auto const sketch = random_heads(s.kv_heads, s.dim, columns, 4);
        layer<TestType> const l{.keys = keys.by_head()};
        score::leverage const scorer{.sketch = sketch.by_head(), .sinks = sinks, .recent = recent};
        auto const of_head = [&](index h, index c) { return sketch.row(c, h); };
        arena memory;
        auto const got = scorer(l, memory).value();
        require_close(got, reference(keys, of_head, columns, sinks, s.tokens - recent), 2e-3, 2e-3);
        index const workers = 2 + s.tokens % 6;
        REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));

        // The same keys, given apart from those of the layer.
        auto const others = cast<TestType>(random_heads(s.kv_heads, s.tokens, s.dim, 9));
        score::leverage apart = scorer;
        apart.pre_rope_keys = keys.by_head();
        REQUIRE(list(apart(layer<TestType>{.keys = others.by_head()}, memory).value().values) == list(got.values));
    }
}

TEST_CASE("leverage by hand", "[score][leverage]") {
    // One channel, centred to -2, -1, 0, 3: leverage x^2 / (14 + ridge).
    std::vector<float> const k = {3, 4, 5, 8}, one = {1};
    layer<float> const l{.keys = head_major(k.data(), 1, 4, 1)};
    arena memory;
    auto const got = score::leverage{.sketch = {one.data(), 1, 1, 1, 1, 1}}(l, memory).value();
    std::vector<double> lengths = {4, 1, 0, 9};
    double const deviation = std::sqrt((0.25 + 6.25 + 12.25 + 30.25) / 3);
    for (std::size_t t = 0; t < 4; ++t) CHECK(got.row(0)[t] == Approx((lengths[t] - 3.5) / deviation));
}

TEST_CASE("leverage makes its own sketch, the same for all heads", "[score][leverage]") {
    auto const keys = random_heads(2, 90, 24, 3);
    std::vector<float> sketch(24 * 10);
    score::fill_sketch(sketch);
    layer<float> const l{.keys = keys.by_head()};
    arena memory;
    auto const got = score::leverage{.columns = 10}(l, memory).value();
    require_close(got,
                  reference(
                      keys, [&](index, index c) { return sketch.data() + c * 10; }, 10, 0, 90),
                  1e-3, 1e-3);
    auto const given = score::leverage{.sketch = head_major<float const>(sketch.data(), 1, 24, 10)}(l, memory).value();
    CHECK(list(given.values) == list(got.values));
}

TEST_CASE("a sketch is of mean 0 and variance 1", "[score][leverage]") {
    std::vector<float> x(100'000), other(100'000), again(100'000);
    score::fill_sketch(x), score::fill_sketch(other, 7), score::fill_sketch(again);
    CHECK(x == again);
    double sum = 0, squares = 0, fourth = 0, product = 0, next = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double const v = static_cast<double>(x[i]);
        sum += v, squares += v * v, fourth += v * v * v * v, product += v * static_cast<double>(other[i]);
        next += v * static_cast<double>(x[(i + 1) % x.size()]);
    }
    auto const n = static_cast<double>(x.size());
    CHECK(std::abs(sum / n) < 0.015);
    CHECK(std::abs(squares / n - 1) < 0.02);
    CHECK(std::abs(fourth / n - 3) < 0.15);
    CHECK(std::abs(product / n) < 0.015);
    CHECK(std::abs(next / n) < 0.015);
}

TEST_CASE("leverage is among the slots that a head holds", "[score][leverage]") {
    random_layer<> r{2, 2, 30, 8, 1, 6};
    uneven const held{30, {30, 17}};
    std::fill_n(r.keys.row(17, 1), 13 * 8, 5.0F);
    index const lengths[] = {30, 17};
    score::leverage const s{.columns = 6, .sinks = 2, .recent = 3};
    arena memory;
    auto const got = s(r.view(held), memory).value();
    double sum = 0, squares = 0;
    for (index h = 0; h < 2; ++h) {
        auto const want = s(r.alone(h, lengths[h]), memory).value().row(0), row = got.row(h);
        auto const last = static_cast<std::size_t>(lengths[h]) - 3;
        for (std::size_t t = 0; t < 30; ++t) {
            CAPTURE(h, t);
            if (t >= last + 3) {
                CHECK(std::isnan(row[t]));
            } else if (t < 2 || t >= last) {
                CHECK(row[t] == infinity);
            } else {  // as alone, but for the mean and the deviation, which are those of both heads
                sum += static_cast<double>(row[t]), squares += static_cast<double>(row[t] * row[t]);
                CHECK((row[t] - row[2]) * (want[3] - want[2]) ==
                      Approx((want[t] - want[2]) * (row[3] - row[2])).epsilon(1e-3).margin(1e-3));
            }
        }
    }
    CHECK(sum == Approx(0).margin(1e-3));
    CHECK(squares == Approx(36));  // of 37 slots
}

TEST_CASE("leverage takes odd input", "[score][leverage]") {
    auto keys = random_heads(2, 40, 8, 3);
    arena memory;
    auto const score_of = [&](index heads, index tokens, score::leverage const& s = {.columns = 6}) {
        return s(layer<float>{.keys = {keys.values.data(), heads, tokens, 8, 40 * 8, 8}}, memory).value();
    };
    // A row that is not finite has no score, and the others have those that they have without it.
    std::fill_n(keys.row(39), 8, not_a_number);
    auto const broken = list(score_of(1, 40).row(0));
    auto const whole = list(score_of(1, 39).row(0));
    CHECK(std::isnan(broken[39]));
    for (std::size_t t = 0; t < 39; ++t) CHECK(broken[t] == Approx(whole[t]).margin(1e-5));
    std::fill_n(keys.row(39), 8, 3e38F);  // of which no square is finite
    CHECK(std::isnan(score_of(1, 40).row(0)[39]));

    std::fill(keys.values.begin(), keys.values.end(), 0.3F);  // nothing stands out
    for (float const x : score_of(2, 40).values) CHECK(std::abs(x) < 0.1F);
    std::fill(keys.values.begin(), keys.values.end(), 1e18F);
    for (float const x : score_of(2, 40).values) CHECK((std::isnan(x) || std::isfinite(x)));
    CHECK(score_of(2, 0).tokens == 0);
    CHECK(score_of(2, 1).row(0)[0] == 0);
}

TEST_CASE("great keys in few directions keep their leverage", "[score][leverage]") {
    // Rank 3 of 8 channels, values up to some hundred: null directions weigh nothing but the ridge.
    auto const basis = random_heads(1, 3, 8, 1);
    auto const weights = uniform(500 * 3, 2, -300, 300);
    tensor<float> keys{std::vector<float>(500 * 8), 1, 500, 8};
    for (index t = 0; t < 500; ++t)
        for (index c = 0; c < 8; ++c)
            for (index k = 0; k < 3; ++k)
                keys.row(t)[c] += weights[static_cast<std::size_t>(t * 3 + k)] * basis.row(k)[c];
    auto const sketch = random_heads(1, 8, 8, 4);
    arena memory;
    auto const got = score::leverage{.sketch = sketch.by_head()}(layer<float>{.keys = keys.by_head()}, memory).value();
    require_close(got,
                  reference(
                      keys, [&](index, index c) { return sketch.row(c); }, 8, 0, 500),
                  5e-3, 5e-3);
}

TEST_CASE("leverage says what does not fit", "[score][leverage]") {
    auto const keys = random_heads(2, 20, 8, 1), sketch = random_heads(2, 8, 5, 2);
    auto const stored = cast<half>(keys);
    layer<float> const l{.keys = keys.by_head()};
    arena memory;
    auto const error = [&](score::leverage const& s) { return s(l, memory).error(); };
    CHECK(error({.columns = 0}) == errc::bad_setting);
    CHECK(error({.columns = -1}) == errc::bad_setting);
    CHECK(error({.ridge = 0}) == errc::bad_setting);
    CHECK(error({.ridge = -1}) == errc::bad_setting);
    CHECK(error({.ridge = not_a_number}) == errc::bad_setting);
    CHECK(error({.ridge = infinity}) == errc::bad_setting);
    CHECK(error({.sinks = -1}) == errc::bad_setting);
    CHECK(error({.recent = -1}) == errc::bad_setting);
    CHECK(error({.sketch = {sketch.values.data(), 2, 7, 5, 40, 5}}) == errc::bad_shape);
    CHECK(error({.sketch = {sketch.values.data(), 2, 9, 5, 40, 5}}) == errc::bad_shape);
    CHECK(error({.sketch = {sketch.values.data(), 3, 8, 5, 0, 5}}) == errc::bad_shape);
    CHECK(error({.sketch = {sketch.values.data(), 2, 8, 0, 40, 5}}) == errc::bad_setting);
    CHECK(error({.pre_rope_keys = stored.by_head()}) == errc::bad_shape);  // another element type
    auto shorter = keys.by_head();
    shorter.tokens = 19;
    CHECK(error({.pre_rope_keys = shorter}) == errc::bad_shape);
    auto fewer = keys.by_head();
    fewer.heads = 1;
    CHECK(error({.pre_rope_keys = fewer}) == errc::bad_shape);
    CHECK(score::leverage{}(layer<float>{}, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& a) { return score::leverage{.columns = 5}(l, a); });
}

}  // namespace terse::test
