#include <terse/score/lag.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {
std::vector<float> scores_of(score::lag const& s, std::vector<float> const& keys, std::vector<float> const& values,
                             index dim) {
    arena memory;
    index const n = std::ssize(keys) / dim;
    layer<float> const l{.keys = head_major(keys.data(), 1, n, dim),
                         .values = head_major(values.data(), 1, n, std::ssize(values) / n)};
    return list(s(l, memory).value().row(0));
}

void check_near(std::vector<float> const& got, std::vector<double> const& expected) {
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]));
}

/// By the book.
std::vector<double> reference(score::lag const& s, rows const& keys, rows const& values) {
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    auto const n = std::ssize(keys);
    std::vector<double> all(keys.size(), 1.0);
    if (n < s.sinks + 2 * s.partition) {
        for (index t = s.sinks; t < n; ++t)
            all[at(t)] = static_cast<double>(t - s.sinks) / static_cast<double>(n - s.sinks);
        return all;
    }
    auto const softmax = [&](rows const& x, index first) {
        std::vector<double> e;
        for (index j = first; j < first + s.partition; ++j) {
            std::vector<double> z;
            for (std::size_t c = 0; c < x[0].size(); ++c) {
                double low = std::numeric_limits<double>::infinity(), high = -low;
                for (index t = first + s.partition; t < first + 2 * s.partition; ++t)
                    low = std::min(low, x[at(t)][c]), high = std::max(high, x[at(t)][c]);
                if (high > low) z.push_back((x[at(j)][c] - low) / (high - low));
            }
            double mean = 0, squares = 0;
            for (double const v : z) mean += v / static_cast<double>(z.size());
            for (double const v : z) squares += (v - mean) * (v - mean);
            e.push_back(z.size() < 2 ? 0 : std::sqrt(squares / static_cast<double>(z.size() - 1)));
        }
        double const top = *std::max_element(e.begin(), e.end());
        double sum = 0;
        for (double& v : e) sum += v = std::exp(v - top);
        for (double& v : e) v /= sum;
        return e;
    };
    for (index first = s.sinks; first + 2 * s.partition <= n; first += s.partition) {
        auto const k = softmax(keys, first), v = softmax(values, first);
        for (index j = 0; j < s.partition; ++j) {
            double const own = k[at(j)] + v[at(j)];
            index lower = 0;
            for (index i = 0; i < s.partition; ++i) {
                double const other = k[at(i)] + v[at(i)];
                lower += other < own || (other == own && i > j) ? 1 : 0;
            }
            all[at(first + j)] = s.ranks ? static_cast<double>(lower) / static_cast<double>(s.partition) : own / 2;
        }
    }
    return all;
}
}  // namespace

TEST_CASE("lag wants partitions, and values for its keys", "[score][lag]") {
    random_layer<> const r{2, 2, 9, 4, 1, 1};
    arena memory;
    layer<float> l = r.view();
    CHECK(score::lag{.sinks = -1}(l, memory).error() == errc::bad_setting);
    CHECK(score::lag{.partition = 0}(l, memory).error() == errc::bad_setting);
    CHECK(score::lag{.partition = std::numeric_limits<index>::max()}(l, memory));
    CHECK(score::lag{.sinks = std::numeric_limits<index>::max()}(l, memory));
    memory.rewind();
    l.values.tokens = 8;
    CHECK(score::lag{}(l, memory).error() == errc::bad_shape);
    l.values = {};
    CHECK(score::lag{}(l, memory).error() == errc::bad_shape);
    l = r.view();
    l.values.heads = 1;
    CHECK(score::lag{}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return score::lag{.sinks = 1, .partition = 3}(r.view(), m, threads{2}); });
    require_exact_peak([&](arena& m) { return score::lag{}(r.view(), m); });
}

TEST_CASE("a slot is scored in the scale of the next partition, by hand", "[score][lag]") {
    // Bounds 0 and 1 a channel; deviations 0 and sqrt 2, of which the softmax is .1956 and .8044.
    double const low = 1 / (1 + std::exp(std::sqrt(2.0))), high = 1 - low;
    std::vector<float> const x = {0, 0, 0, 2, 0, 0, 1, 1};
    score::lag const raw{.sinks = 0, .partition = 2, .ranks = false}, ranks{.sinks = 0, .partition = 2};
    check_near(scores_of(raw, x, x, 2), {low, high, 1, 1});
    check_near(scores_of(ranks, x, x, 2), {0, .5, 1, 1});
    check_near(scores_of(raw, x, {1, 2, 7, 7}, 2), {(low + .5) / 2, (high + .5) / 2, 1, 1});  // values of one channel
    // A channel that does not vary over the next partition is left out.
    check_near(scores_of(raw, {0, 0, 1, 0, 2, 9, 0, 0, 7, 1, 1, 7}, x, 3), {low, high, 1, 1});
    // Nor does one whose range has no inverse count.
    check_near(scores_of(raw, {0, 0, 1, 0, 2, 9, 0, 0, 0, 1, 1, 1e-40F}, x, 3), {low, high, 1, 1});
    // None varies: all alike; of equals the earlier ranks higher.
    check_near(scores_of(raw, {0, 0, 0, 2, 3, 3, 3, 3}, {1, 2, 7, 7}, 2), {.5, .5, 1, 1});
    check_near(scores_of(ranks, {0, 0, 0, 2, 3, 3, 3, 3}, {1, 2, 7, 7}, 2), {.5, 0, 1, 1});
    // What is left after the last whole partition; too few for two partitions.
    check_near(scores_of({.sinks = 1, .partition = 1, .ranks = false}, {5, 1, 2, 3}, {5, 1, 2, 3}, 1), {1, 1, 1, 1});
    check_near(scores_of({.sinks = 1, .partition = 2}, {5, 1, 2, 3, 4}, {5, 1, 2, 3, 4}, 1), {1, .5, 0, 1, 1});
    check_near(scores_of({.sinks = 1, .partition = 3}, {5, 1, 2, 3, 4}, {5, 1, 2, 3, 4}, 1), {1, 0, .25, .5, .75});
    check_near(scores_of({.sinks = 9, .partition = 3}, {5, 1}, {5, 1}, 1), {1, 1});
}

TEST_CASE("while decoding, where there are no two partitions nothing has a score of its own", "[score][lag]") {
    score::lag const s{.sinks = 4, .partition = 2, .once = true};
    std::vector<float> const x = {5, 1, 2, 3, 4};
    CHECK(scores_of(s, x, x, 1) == std::vector<float>(5, 1.0F));
    // All of two slots are sinks; behind what was lost, the next partition begins at position 8.
    std::vector<token> const positions = {0, 1, 2, 3, 7};
    layer<float> l{.keys = head_major(x.data(), 1, 2, 1)};
    l.positions = view(positions.data(), 1, 2);
    CHECK(s.scored(l, 0).begin == 2);
    CHECK(s.scored(l, 0).end == 2);
    l.keys.tokens = 5;
    l.positions.dim = 5;
    CHECK(s.scored(l, 0).begin == 5);
    CHECK(s.scored(l, 0).end == 5);
}

TEST_CASE("heads of different lengths are each scored by their own", "[score][lag]") {
    // The first head has two partitions, the second only two slots behind the sink.
    random_layer<> const r{2, 2, 7, 4, 1, 1};
    uneven const held{7, {7, 3}};
    arena memory;
    auto const s = score::lag{.sinks = 1, .partition = 3}(r.view(held), memory).value();
    CHECK(list(s.row(0).last(3)) == std::vector<float>(3, 1.0F));
    CHECK(list(s.row(1).first(3)) == std::vector<float>{1, 0, 0.5F});
    CHECK(std::all_of(s.row(1).begin() + 3, s.row(1).end(), simd::is_nan));
}

TEST_CASE("of 400 slots after 4 sinks and with a lag of 128, slots 4 to 259 are scored", "[score][lag]") {
    random_layer<> const r{2, 2, 400, 16, 1, 3};
    arena memory;
    score::lag const s;
    CHECK(s.unscored(400) == 140);
    CHECK(s.unscored(259) == 0);
    CHECK(s.unscored(260) == 128);
    CHECK(s.unscored(3) == 0);
    auto const all = s(r.view(), memory).value();
    for (index t = 0; t < 400; ++t) {
        CAPTURE(t);
        CHECK((all.row(1)[static_cast<std::size_t>(t)] < 1) == (4 <= t && t <= 259));
    }
}

TEST_CASE("what is no number is neither in the bounds nor in the softmax", "[score][lag]") {
    score::lag const s{.sinks = 0, .partition = 4, .ranks = false};
    auto const keys = random_heads(1, 8, 3, 1).values, values = random_heads(1, 8, 3, 2).values;
    for (float const poison : {not_a_number, infinity, -infinity}) {
        auto bad = keys;
        bad[4] = poison;
        auto const got = scores_of(s, bad, values, 3);
        CHECK(std::isnan(got[1]));
        CHECK(got[0] + got[2] + got[3] == Approx(1));
        auto const ranked = scores_of({.sinks = 0, .partition = 4}, bad, values, 3);
        CHECK(std::isnan(ranked[1]));
        CHECK(ranked[0] * ranked[2] * ranked[3] == Approx(.25 * .5 * .75));
        // In the next partition it costs its channel, or is passed over.
        bad = keys;
        bad[19] = poison;
        for (float const x : scores_of(s, bad, values, 3)) CHECK_FALSE(std::isnan(x));
    }
}

TEMPLATE_LIST_TEST_CASE("lag agrees with double precision", "[score][lag]", storages) {
    auto const [sinks, partition] = GENERATE(values<std::pair<index, index>>({{0, 1}, {4, 3}, {0, 16}, {4, 128}}));
    score::lag const s{.sinks = sinks, .partition = partition, .ranks = false};
    check_scores<TestType>(
        s, [&](rows const& keys, rows const& values, index) { return reference(s, keys, values); }, 1e-4);
}

TEST_CASE("ranks agree with double precision", "[score][lag]") {
    for (score::lag const& s : {score::lag{.sinks = 4, .partition = 16}, score::lag{.sinks = 0, .partition = 7}})
        check_scores<float>(
            s, [&](rows const& keys, rows const& values, index) { return reference(s, keys, values); }, 1e-6);
}
}  // namespace terse::test
