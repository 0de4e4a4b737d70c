#include <cmath>

#include <Eigen/Dense>

#include <terse/score/expected_attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
std::vector<float> frequencies(index pairs, float base = 100) {
    std::vector<float> w;
    for (index i = 0; i < pairs; ++i) w.push_back(std::pow(base, -static_cast<float>(i) / static_cast<float>(pairs)));
    return w;
}

/// A mean and a covariance of each query head.
struct statistics {
    tensor<float> mean, covariance;

    statistics(index heads, index dim, unsigned seed)
        : mean{random_heads(heads, 1, dim, seed)}, covariance{random_heads(heads, dim, dim, seed + 1)} {
        for (index h = 0; h < heads; ++h) {
            Eigen::Map<row_major<float>> c(covariance.row(0, h), dim, dim);
            c = (c * c.transpose()).eval() / static_cast<float>(dim);
        }
    }
    [[nodiscard]] tokens_view<float> means() const { return {mean.values.data(), mean.heads, mean.dim, mean.dim}; }
};

/// The rotation to a position as a matrix, added up position by position.
Eigen::MatrixXd mean_rotation(rope const& r, index dim, index first, index count) {
    Eigen::MatrixXd sum = Eigen::MatrixXd::Zero(dim, dim);
    auto const pairs = static_cast<index>(r.inverse_frequency.size());
    for (index p = first; p < first + count; ++p) {
        Eigen::MatrixXd one = Eigen::MatrixXd::Identity(dim, dim);
        for (index i = 0; i < pairs; ++i) {
            bool const split = r.layout == rope_layout::half_split;
            index const a = split ? i : 2 * i, b = split ? i + pairs : 2 * i + 1;
            double const angle =
                static_cast<double>(p) * static_cast<double>(r.inverse_frequency[static_cast<std::size_t>(i)]);
            one(a, a) = one(b, b) = std::cos(angle);
            one(a, b) = -std::sin(angle);
            one(b, a) = std::sin(angle);
        }
        sum += one;
    }
    return sum / static_cast<double>(count);
}

/// The scores by whole matrices in double precision; infinity for sinks.
template <class T>
matrix reference(score::expected_attention const& s, layer<T> const& l, index next) {
    index const dim = l.keys.dim, n = l.tokens(), group = s.mean.tokens / l.kv_heads();
    auto const turn = mean_rotation(s.encoding, dim, next, s.future);
    auto const scale = static_cast<double>(l.logit_scale());
    matrix all;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        matrix const keys = head_rows(l.keys, kv, n), values = head_rows(l.values, kv, n);
        std::vector<double> row(keys.size(), 0.0);
        for (index h = kv * group; h < (kv + 1) * group; ++h) {
            Eigen::VectorXd mean(dim);
            Eigen::MatrixXd c = Eigen::MatrixXd::Zero(dim, dim);
            for (index i = 0; i < dim; ++i) {
                mean(i) = static_cast<double>(s.mean.row(h)[i]);
                for (index j = 0; s.covariance.data != nullptr && j < dim; ++j)
                    c(i, j) = static_cast<double>(s.covariance.row(h, i)[j]);
            }
            mean = turn * mean;
            c = turn * c * turn.transpose();
            std::vector<double> logits;
            for (auto const& key : keys) {
                Eigen::Map<Eigen::VectorXd const> const k(key.data(), dim);
                logits.push_back(scale * mean.dot(k) + scale * scale / 2 * k.dot(c * k));
            }
            std::fill_n(logits.begin(), s.sinks, -INFINITY);
            auto const probabilities = softmax(std::move(logits));
            for (std::size_t t = 0; t < row.size(); ++t) row[t] += probabilities[t] / static_cast<double>(group);
        }
        for (std::size_t t = 0; s.value_norm && t < row.size(); ++t)
            row[t] = (row[t] + static_cast<double>(s.epsilon)) * std::sqrt(product(values[t], values[t]));
        std::fill_n(row.begin(), s.sinks, INFINITY);
        all.push_back(row);
    }
    return all;
}

template <class T>
layer<T> cache_of(random_layer<T> const& r) {
    return {.keys = r.keys.by_head(), .values = r.values.by_head()};
}
}  // namespace

TEMPLATE_TEST_CASE("expected attention agrees with whole matrices in double precision", "[score][expected]", float,
                   half, bfloat16) {
    int variant = 0;
    for (scorer_shape const& s : key_shapes()) {
        random_layer<TestType> const r{s, 5};
        statistics const known(s.heads, s.dim, 6);
        index const rotary = variant % 3 == 0 ? s.dim / 2 * 2 : variant % 3 == 1 ? s.dim / 4 * 2 : 0;
        auto const f = frequencies(rotary / 2);
        score::expected_attention scorer{
            .mean = known.means(),
            .covariance = variant % 5 == 0 ? heads_view<float>{} : known.covariance.by_head(),
            .encoding = {f, variant % 2 == 0 ? rope_layout::interleaved : rope_layout::half_split},
            .future = 37,
            .sinks = std::min<index>(variant % 5, s.tokens - 1)};
        auto l = cache_of(r);
        switch (variant++ % 4) {
            case 1:
                scorer.value_norm = false;
                break;
            case 2:
                scorer.epsilon = 0.02F;
                break;
            case 3:
                scorer.next = 5000, scorer.future = 512, l.scale = 0.4F;
                break;
        }
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, variant);
        arena memory;
        auto const got = scorer(l, memory).value();
        require_close(got, reference(scorer, l, scorer.next > 0 ? scorer.next : s.tokens), 5e-5, 1e-8);
        index const workers = 2 + s.tokens % 6;
        REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));
    }
}

TEST_CASE("expected attention by hand", "[score][expected]") {
    // Unturned queries of mean (1, 0) and covariance diag(0, 2): logits k0 + k1^2, with a scale of 1.
    std::vector<float> const keys = {std::log(2.0F), 0, 0, 0, 0, std::sqrt(std::log(5.0F))},
                             values = {3, 4, 1, 0, 0, 2}, mean = {1, 0}, covariance = {0, 0, 0, 2};
    layer<float> const l{
        .keys = head_major(keys.data(), 1, 3, 2), .values = head_major(values.data(), 1, 3, 2), .scale = 1};
    score::expected_attention s{.mean = {mean.data(), 1, 2, 2}, .covariance = {covariance.data(), 1, 2, 2, 4, 2}};
    arena memory;
    auto const check = [&](std::vector<double> const& want) {
        auto const got = s(l, memory).value();
        for (std::size_t t = 0; t < 3; ++t) CHECK(got.row(0)[t] == Approx(want[t]));
    };
    check({5 * 0.25, 1 * 0.125, 2 * 0.625});
    s.epsilon = 1;
    check({5 * 1.25, 1 * 1.125, 2 * 1.625});
    s.value_norm = false;
    check({0.25, 0.125, 0.625});
    s.covariance = {};
    check({0.5, 0.25, 0.25});
    s.sinks = 1;
    check({static_cast<double>(infinity), 0.5, 0.5});

    // A pair of frequency 1 turns a query at positions 3 and 4: the mean of both rotations.
    std::vector<float> const one = {1};
    s = {.mean = s.mean, .encoding = {one}, .next = 3, .future = 2, .value_norm = false};
    double const c = (std::cos(3.0) + std::cos(4.0)) / 2, d = (std::sin(3.0) + std::sin(4.0)) / 2;
    std::vector<double> e = {std::exp(c * static_cast<double>(keys[0])), 1, std::exp(d * static_cast<double>(keys[5]))};
    double const total = e[0] + e[1] + e[2];
    check({e[0] / total, e[1] / total, e[2] / total});
    s.next = 0;  // after the three slots
    check({e[0] / total, e[1] / total, e[2] / total});
}

TEST_CASE("expected attention is spread over the slots that a head holds", "[score][expected]") {
    random_layer<> r{4, 2, 30, 8, 1, 3};
    statistics const known(4, 8, 6);
    auto const f = frequencies(4);
    uneven const held{30, {30, 17}};
    std::fill_n(r.keys.row(17, 1), 13 * 8, 3.0F);
    index const lengths[] = {30, 17};
    arena memory;
    for (bool const squares : {false, true}) {
        score::expected_attention s{.mean = known.means(), .encoding = {f}, .next = 50, .sinks = 2};
        if (squares) s.covariance = known.covariance.by_head();
        auto const got = s(r.view(held), memory).value();
        for (index h = 0; h < 2; ++h) {
            score::expected_attention own = s;
            own.mean = {known.mean.row(0, 2 * h), 2, 8, 8};
            if (squares) own.covariance = head_major(known.covariance.row(0, 2 * h), 2, 8, 8);
            auto const want = own(r.alone(h, lengths[h]), memory).value().row(0);
            for (std::size_t t = 0; t < 30; ++t) {
                if (static_cast<index>(t) >= lengths[h])
                    CHECK(std::isnan(got.row(h)[t]));
                else if (t < 2)
                    CHECK(got.row(h)[t] == infinity);
                else
                    CHECK(got.row(h)[t] == Approx(want[t]).epsilon(1e-5));
            }
        }
        // The next position is the one after the longest head's last.
        s.next = 0;
        auto const first = list(s(r.view(held), memory).value().row(1));
        s.next = 30;
        auto const same = list(s(r.view(held), memory).value().row(1));
        CHECK(std::equal(first.begin(), first.begin() + 17, same.begin()));
    }
}

TEST_CASE("positions to come follow the last slot's position", "[score][expected]") {
    random_layer<> const r{2, 2, 10, 8, 1, 3};
    statistics const known(2, 8, 6);
    auto const f = frequencies(4);
    score::expected_attention s{.mean = known.means(), .covariance = known.covariance.by_head(), .encoding = {f}};
    arena memory;
    auto const plain = list(s(cache_of(r), memory).value().values);
    s.next = 10;
    CHECK(list(s(cache_of(r), memory).value().values) == plain);
    s.next = 91;
    auto const late = list(s(cache_of(r), memory).value().values);
    CHECK(late != plain);
    s.next = 0;
    std::vector<token> const positions = {0, 1, 2, 3, 10, 20, 30, 40, 50, 90};
    layer<float> l = cache_of(r);
    l.positions = view<token const>(positions.data(), 1, 10);
    CHECK(list(s(l, memory).value().values) == late);
}

TEST_CASE("frequencies that turn whole circles do not move", "[score][expected]") {
    random_layer<> const r{1, 1, 10, 4, 1, 3};
    statistics const known(1, 4, 6);
    auto const circle = static_cast<float>(2 * std::acos(-1.0));
    std::vector<float> const still = {0, 0}, tiny = {1e-20F, -1e-20F}, turning = {circle, 0};
    score::expected_attention s{.mean = known.means(), .covariance = known.covariance.by_head(), .encoding = {still}};
    arena memory;
    auto const want = list(s(cache_of(r), memory).value().values);
    s.encoding = {};
    CHECK(list(s(cache_of(r), memory).value().values) == want);
    s.encoding = {tiny};
    CHECK(list(s(cache_of(r), memory).value().values) == want);
    s.encoding = {turning};
    auto const near = list(s(cache_of(r), memory).value().values);
    for (std::size_t t = 0; t < 10; ++t) CHECK(near[t] == Approx(want[t]).epsilon(1e-3));
}

TEST_CASE("expected attention takes odd input", "[score][expected]") {
    statistics const known(2, 8, 6);
    arena memory;
    for (bool const squares : {true, false}) {
        random_layer<> r{2, 1, 20, 8, 1, 3};
        score::expected_attention s{.mean = known.means(), .sinks = 2};
        if (squares) s.covariance = known.covariance.by_head();
        std::fill_n(r.keys.row(7), 8, not_a_number);
        auto const got = s(cache_of(r), memory).value();
        CHECK(got.row(0)[7] == 0);
        CHECK(got.row(0)[8] > 0);
        std::fill_n(r.values.row(8), 8, not_a_number);
        CHECK(std::isnan(s(cache_of(r), memory).value().row(0)[8]));
        s.sinks = 20;
        auto const most = s(cache_of(r), memory).value();
        for (float const x : most.values) CHECK(x == infinity);
        s.sinks = 50;
        auto const all = s(cache_of(r), memory).value();
        for (float const x : all.values) CHECK(x == infinity);
        random_layer<> const nothing{2, 1, 0, 8, 1, 3};
        CHECK(s(cache_of(nothing), memory).value().tokens == 0);
    }
}

TEST_CASE("expected attention says what does not fit", "[score][expected]") {
    random_layer<> const r{4, 2, 20, 8, 1, 3};
    statistics const known(4, 8, 6);
    auto const f = frequencies(4), many = frequencies(5);
    std::vector<float> const bad = {not_a_number};
    score::expected_attention const right{
        .mean = known.means(), .covariance = known.covariance.by_head(), .encoding = {f}};
    arena memory;
    auto const error = [&](auto change) {
        auto s = right;
        auto l = cache_of(r);
        change(s, l);
        return s(l, memory).error();
    };
    using scorer = score::expected_attention;
    CHECK(error([](scorer& s, auto&) { s.future = 0; }) == errc::bad_setting);
    CHECK(error([](scorer& s, auto&) { s.future = -1; }) == errc::bad_setting);
    CHECK(error([](scorer& s, auto&) { s.next = -1; }) == errc::bad_setting);
    CHECK(error([](scorer& s, auto&) { s.sinks = -1; }) == errc::bad_setting);
    CHECK(error([](scorer& s, auto&) { s.epsilon = -1; }) == errc::bad_setting);
    CHECK(error([](scorer& s, auto&) { s.epsilon = not_a_number; }) == errc::bad_setting);
    CHECK(error([](scorer&, auto& l) { l.scale = not_a_number; }) == errc::bad_setting);
    CHECK(error([&](scorer& s, auto&) { s.encoding = {bad}; }) == errc::bad_setting);
    CHECK(error([&](scorer& s, auto&) { s.encoding = {many}; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.mean = {}; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.mean.dim = 7; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.mean.tokens = 3; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.mean.tokens = 3, s.covariance = {}; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.encoding.axis = {0, 2}; }) == errc::bad_setting);
    std::vector<token> const positions(19);
    CHECK(error([&](scorer&, auto& l) { l.positions = view(positions.data(), 1, 19); }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.covariance.heads = 2; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.covariance.tokens = 7; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto&) { s.covariance.dim = 7; }) == errc::bad_shape);
    CHECK(error([](scorer&, auto& l) { l.values = {}; }) == errc::bad_shape);
    CHECK(error([](scorer&, auto& l) { l = {}; }) == errc::bad_shape);
    CHECK(error([](scorer& s, auto& l) { l.values = {}, s.value_norm = false; }) == errc::ok);
    memory.rewind();
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& a) { return right(cache_of(r), a); });
    auto means = right;
    means.covariance = {};
    require_exact_peak([&](arena& a) { return means(cache_of(r), a); });
}

}  // namespace terse::test
