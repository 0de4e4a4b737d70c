#include <terse/budget/span_search.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
using budget::elastic_span;
using budget::span_profile;
using budget::span_search;

struct choice {
    tokens_list candidate;
    std::vector<double> loss, density;
};

std::vector<choice> search(span_search const& s, span_profile const& p) {
    arena memory;
    std::vector<choice> all;
    auto const found = s(p, memory).value();
    for (auto const& c : found) all.push_back({list(c.candidate), list(c.loss), list(c.density)});
    return all;
}

/// Loss and density of a choice, and whether a layer has more than two candidates.
struct facts {
    std::vector<double> loss, density;
    bool many = false;
};
facts of(span_profile const& p, tokens_list const& chosen) {
    facts f;
    for (std::size_t l = 0; l < p.lengths.size(); ++l) {
        f.loss.push_back(0), f.density.push_back(0);
        for (std::size_t h = 0; h < chosen.size(); ++h) {
            auto const& span = p.candidates[static_cast<std::size_t>(chosen[h])];
            auto const n = static_cast<double>(p.lengths[l]);
            f.loss.back() += p.at(static_cast<index>(l), static_cast<index>(h), chosen[h]);
            f.density.back() += std::clamp(span.base + span.slope * n, 0.0, n) / n / static_cast<double>(chosen.size());
        }
    }
    auto const each = chosen.size() / static_cast<std::size_t>(p.layers);
    for (std::size_t begin = 0; begin < chosen.size(); begin += each) {
        tokens_list layer(chosen.begin() + static_cast<std::ptrdiff_t>(begin),
                          chosen.begin() + static_cast<std::ptrdiff_t>(begin + each));
        std::sort(layer.begin(), layer.end());
        f.many = f.many || std::unique(layer.begin(), layer.end()) - layer.begin() > 2;
    }
    return f;
}

/// Every way to give heads a candidate.
template <class Body>
void for_all(index heads, index candidates, Body const& body) {
    tokens_list chosen(static_cast<std::size_t>(heads), 0);
    while (true) {
        body(chosen);
        std::size_t i = 0;
        while (i < chosen.size() && ++chosen[i] == candidates) chosen[i++] = 0;
        if (i == chosen.size()) return;
    }
}

bool allowed(facts const& f, span_search const& s) {
    return !(s.two_a_layer && f.many) &&
           std::all_of(f.density.begin(), f.density.end(), [&](double d) { return d <= s.density + 1e-9; });
}
}  // namespace

TEST_CASE("candidates cover something at the shortest length and no more than all at the longest", "[budget][spans]") {
    arena memory;
    auto const few = budget::span_candidates{.shortest = 2, .longest = 4, .step = 2, .slopes = 2}(memory).value();
    // Starts -2, 0, 2, 4 by slopes 0, 1/2, 1.
    std::vector<std::pair<double, double>> got;
    for (auto const& s : few) got.emplace_back(s.base, s.slope);
    CHECK(got == std::vector<std::pair<double, double>>{{0, 0.5}, {0, 1}, {2, 0}, {2, 0.5}, {4, 0}});
    auto const all = budget::span_candidates{}(memory).value();
    for (auto const& s : all) {
        CHECK(s.at(2048) > 0);
        CHECK(s.at(8192) <= 8192);
        CHECK(std::fmod(s.base, 1024) == 0);
    }
    CHECK(all.size() == 48);
    CHECK(budget::span_candidates{.shortest = 0}(memory).error() == errc::bad_setting);
    CHECK(budget::span_candidates{.shortest = 9, .longest = 8}(memory).error() == errc::bad_setting);
    CHECK(budget::span_candidates{.step = 0}(memory).error() == errc::bad_setting);
    CHECK(budget::span_candidates{.slopes = 0}(memory).error() == errc::bad_setting);
    CHECK(budget::span_candidates{.shortest = 10, .longest = 10, .step = 1000, .slopes = 1}(memory));
}

TEST_CASE("elastic spans as shares of a length", "[budget][spans]") {
    CHECK(elastic_span{0, 0.5}.density(100) == 0.5);
    CHECK(elastic_span{-100, 1}.density(100) == 0);
    CHECK(elastic_span{-100, 0}.density(100) == 0);
    CHECK(elastic_span{300, 0}.density(100) == 1);
    CHECK(elastic_span{-50, 1}.density(100) == 0.5);
    CHECK(elastic_span{0, 1}.density(0) == 0);
    CHECK(elastic_span{5, 0}.density(0) == 1);
    CHECK_FALSE(elastic_span{0, static_cast<double>(not_a_number)}.is_finite());
    CHECK_FALSE(elastic_span{static_cast<double>(infinity), 0}.is_finite());
}

TEST_CASE("the search gives long spans to the heads that need them", "[budget][spans]") {
    // Spans of a quarter, of a half and of all.
    std::vector<elastic_span> const candidates = {{0, .25}, {0, .5}, {0, 1}};
    std::vector<index> const lengths = {1024};
    std::vector<float> const loss = {
        9, 4,   0,  // needs all
        1, .9F, 0,  // hardly anything
        1, .8F, 0,  // the same
        2, 0,   0   // half
    };
    span_profile const p{candidates, lengths, loss, 1};
    auto const found = search({.density = 0.5}, p);
    REQUIRE(found.size() == 1);
    CHECK(found[0].candidate == tokens_list{2, 0, 0, 0});  // two a layer: 4 instead of 2
    CHECK(found[0].loss == std::vector<double>{4});
    CHECK(found[0].density == std::vector<double>{0.4375});
    auto const free = search({.density = 0.5, .two_a_layer = false}, p);
    CHECK(free[0].candidate == tokens_list{2, 0, 0, 1});
    CHECK(free[0].loss == std::vector<double>{2});
    CHECK(free[0].density == std::vector<double>{0.5});
    CHECK(search({.density = 1}, p)[0].candidate == tokens_list{2, 2, 2, 2});  // dense enough
    CHECK(search({.density = 0.25}, p)[0].candidate == tokens_list{0, 0, 0, 0});

    // In layers of their own the heads share no limit.
    span_profile const apart{candidates, lengths, loss, 4};
    CHECK(search({.density = 0.5}, apart)[0].candidate == tokens_list{2, 0, 0, 1});
}

TEST_CASE("what the bound leaves is used, though it gains nothing", "[budget][spans]") {
    std::vector<elastic_span> const candidates = {{0, .25}, {0, .5}, {0, 1}};
    std::vector<index> const lengths = {1024};
    std::vector<float> const loss = {1, 1, 1, 1, 1, 1.5F};
    span_profile const p{candidates, lengths, loss, 1};
    auto const found = search({.density = 0.5}, p);
    CHECK(found[0].candidate == tokens_list{1, 1});
    CHECK(found[0].density == std::vector<double>{0.5});
    CHECK(search({.density = 0.5, .least = 0}, p)[0].candidate == tokens_list{0, 0});
    CHECK(search({.density = 0.5, .least = 0.7}, p)[0].density[0] >= 0.35);
}

TEST_CASE("several lengths: the choices that no other beats", "[budget][spans]") {
    // One head. The second length is best served by what the first suffers from.
    std::vector<elastic_span> const candidates = {{100, 0}, {0, .5}, {50, .25}, {50, .2}};
    std::vector<index> const lengths = {200, 400};
    std::vector<float> const loss = {0, 4, 1, 3, 5, 0, 1, 1.5F};
    span_profile const p{candidates, lengths, loss, 1};
    auto const found = search({.density = 0.6, .least = 0}, p);
    REQUIRE(found.size() == 3);
    CHECK(found[0].candidate == tokens_list{0});
    CHECK(found[1].candidate == tokens_list{2});
    CHECK(found[2].candidate == tokens_list{1});
    CHECK(found[1].loss == std::vector<double>{1, 1});
    CHECK(search({.density = 0.6, .least = 0, .grid = 2}, p).size() == 2);
}

TEST_CASE("three lengths are weighed in every way", "[budget][spans]") {
    // One head. Each of the first three candidates is best at one length; the last one where the first and the last
    // length count.
    std::vector<elastic_span> const candidates = {{1, 0}, {2, 0}, {3, 0}, {4, 0}};
    std::vector<index> const lengths = {100, 200, 300};
    std::vector<float> const loss = {0, 4, 4, 1, 4, 0, 4, 4, 4, 4, 0, 1};
    auto const found = search({.density = 1, .least = 0}, {candidates, lengths, loss, 1});
    REQUIRE(found.size() == 4);
    CHECK(found[0].candidate == tokens_list{0});
    CHECK(found[1].candidate == tokens_list{3});
    CHECK(found[2].candidate == tokens_list{1});
    CHECK(found[3].candidate == tokens_list{2});
    // A length that loses nothing by any choice has no say; what is as good at one length and worse at another goes.
    std::vector<float> const level = {0, 4, 4, 1, 2, 2, 2, 2};
    auto const by_first = search({.density = 1, .least = 0}, {candidates, std::span{lengths}.first(2), level, 1});
    REQUIRE(by_first.size() == 1);
    CHECK(by_first[0].candidate == tokens_list{0});
    std::vector<float> const half_as_good = {0, 0, 4, 4, 5, 3, 9, 9};
    auto const better = search({.density = 1, .least = 0}, {candidates, std::span{lengths}.first(2), half_as_good, 1});
    REQUIRE(better.size() == 1);
    CHECK(better[0].candidate == tokens_list{1});

    // At the first length the other head loses nine times as much: so the second length decides for this one, unless it
    // has no weight.
    std::vector<float> const great = {0, 36, 36, 36, 0, 1, 4, 4, 0, 0, 0, 0, 4, 2, 0, 4};
    auto const two = search({.density = 1, .least = 0, .two_a_layer = false, .grid = 3},
                            {candidates, std::span{lengths}.first(2), great, 1});
    REQUIRE(two.size() == 2);
    CHECK(two[0].candidate == tokens_list{0, 0});
    CHECK(two[1].candidate == tokens_list{0, 2});
}

TEST_CASE("of heads that gain as much the first has the longer span", "[budget][spans]") {
    std::vector<elastic_span> const candidates = {{0, .25}, {0, .5}};
    std::vector<index> const lengths = {1024};
    std::vector<float> const loss = {1, 0, 1, 0};
    CHECK(search({.density = 0.375}, {candidates, lengths, loss, 1})[0].candidate == tokens_list{1, 0});
}

TEST_CASE("the search is near the best of all ways", "[budget][spans]") {
    double worst = 0, sum = 0;
    index runs = 0;
    for (unsigned seed = 1; seed <= 40; ++seed) {
        for (bool const two : {true, false}) {
            for (index const lengths : {1, 2}) {
                CAPTURE(seed, two, lengths);
                index const heads = 6, layers = seed % 2 == 0 ? 2 : 1;
                std::vector<elastic_span> const candidates = {{64, 0}, {0, .25}, {-128, .75}, {128, .5}};
                std::vector<index> const sizes = {512, 1024};
                // Longer spans lose less, by head more or less so.
                std::vector<float> loss;
                auto const noise = uniform(lengths * heads * 4, seed, 0, 1);
                for (index l = 0; l < lengths; ++l)
                    for (index h = 0; h < heads; ++h)
                        for (std::size_t c = 0; c < 4; ++c) {
                            double const density = candidates[c].density(sizes[static_cast<std::size_t>(l)]);
                            auto const need = static_cast<double>(1 + (seed * 7 + static_cast<unsigned>(h * h)) % 5);
                            loss.push_back(static_cast<float>(need * (1 - density)) + 0.2F * noise[loss.size()]);
                        }
                span_profile const p{candidates, std::span{sizes}.first(static_cast<std::size_t>(lengths)), loss,
                                     layers};
                span_search const s{.density = 0.5, .two_a_layer = two};
                auto const found = search(s, p);
                REQUIRE(!found.empty());
                double best = 1e9, largest = 0;
                for (index h = 0; h < heads; ++h) {
                    double low = 1e9, high = 0;
                    for (index c = 0; c < 4; ++c) {
                        low = std::min(low, p.at(0, h, c));
                        high = std::max(high, p.at(0, h, c));
                    }
                    largest = std::max(largest, high - low);
                }
                for_all(heads, 4, [&](tokens_list const& chosen) {
                    auto const f = of(p, chosen);
                    if (!allowed(f, s)) return;
                    best = std::min(best, f.loss[0]);
                    // Nothing that is allowed beats a choice that was found by more than one head's choice is worth.
                    for (auto const& c : found) {
                        double slack = 1e9;
                        for (std::size_t l = 0; l < f.loss.size(); ++l) slack = std::min(slack, c.loss[l] - f.loss[l]);
                        REQUIRE(slack <= largest + 1e-6);
                    }
                });
                for (auto const& c : found) {
                    auto const f = of(p, c.candidate);
                    REQUIRE(allowed(f, s));
                    for (std::size_t l = 0; l < f.loss.size(); ++l) {
                        CHECK(c.loss[l] == Approx(f.loss[l]));
                        CHECK(c.density[l] == Approx(f.density[l]));
                    }
                    for (auto const& other : found)
                        if (&other != &c)
                            CHECK_FALSE(
                                std::equal(c.loss.begin(), c.loss.end(), other.loss.begin(), std::less_equal<>{}));
                }
                if (lengths == 1) {
                    REQUIRE(found.size() == 1);
                    CHECK(found[0].loss[0] >= best - 1e-6);
                    worst = std::max(worst, found[0].loss[0] / best);
                    sum += found[0].loss[0] / best;
                    ++runs;
                }
            }
        }
    }
    CAPTURE(worst, sum / static_cast<double>(runs));
    CHECK(worst < 1.15);  // of six heads
    CHECK(sum / static_cast<double>(runs) < 1.03);
}

TEST_CASE("over many heads the search reaches the bound of any price", "[budget][spans]") {
    index const heads = 256;
    arena memory;
    auto const candidates = budget::span_candidates{.shortest = 1024, .longest = 2048, .slopes = 4}(memory).value();
    std::vector<index> const lengths = {2048};
    auto const noise = uniform(heads * std::ssize(candidates), 5, 0, 1), need = uniform(heads, 6, 0, 4);
    std::vector<float> loss;
    for (float const n : need)
        for (auto const& c : candidates)
            loss.push_back(n * std::exp(-4 * static_cast<float>(c.density(2048))) + 0.05F * noise[loss.size()]);
    span_profile const p{candidates, lengths, loss, 16};
    double bound = 0;  // what no choice goes below, whatever its layers hold
    for (double price = 0; price < 20; price += 0.01) {
        double value = -price * 0.5 * static_cast<double>(heads);
        for (index h = 0; h < heads; ++h) {
            double least = 1e9;
            for (index c = 0; c < std::ssize(candidates); ++c)
                least = std::min(least, p.at(0, h, c) + price * candidates[static_cast<std::size_t>(c)].density(2048));
            value += least;
        }
        bound = std::max(bound, value);
    }
    auto const free = search({.two_a_layer = false}, p), pairs = search({}, p);
    CHECK(free[0].loss[0] >= bound - 1e-6);
    CHECK(free[0].loss[0] <= 1.002 * bound);
    CHECK(pairs[0].loss[0] >= free[0].loss[0] - 1e-6);
    CHECK_FALSE(of(p, pairs[0].candidate).many);
    CHECK(of(p, free[0].candidate).many);
    for (auto const& c : {free[0], pairs[0]}) {
        CHECK(c.density[0] <= 0.5 + 1e-9);
        CHECK(c.density[0] >= 0.45);
    }
}

TEST_CASE("the search says what does not fit", "[budget][spans]") {
    std::vector<elastic_span> const candidates = {{0, .25}, {0, .5}},
                                    endless = {{0, .25}, {0, static_cast<double>(infinity)}};
    std::vector<index> const lengths = {1024}, five(5, 1024), none = {0};
    std::vector<float> const loss(8, 1), bad = {1, 1, 1, not_a_number}, odd(7, 1);
    span_profile const p{candidates, lengths, loss, 2};
    arena memory;
    for (double const density : {0.0, -1.0, 1.1, static_cast<double>(not_a_number)})
        CHECK(span_search{.density = density}(p, memory).error() == errc::bad_setting);
    for (double const least : {-0.1, 1.1, static_cast<double>(not_a_number)})
        CHECK(span_search{.least = least}(p, memory).error() == errc::bad_setting);
    CHECK(span_search{.grid = 1}(p, memory).error() == errc::bad_setting);
    CHECK(span_search{.density = 0.2}(p, memory).error() == errc::bad_budget);
    CHECK(span_search{}({candidates, lengths, loss, 3}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, lengths, loss, 0}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, lengths, odd, 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, lengths, {}, 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({{}, lengths, loss, 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, {}, loss, 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, five, std::vector<float>(40, 1), 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, none, loss, 1}, memory).error() == errc::bad_shape);
    CHECK(span_search{}({candidates, lengths, bad, 1}, memory).error() == errc::bad_setting);
    CHECK(span_search{}({endless, lengths, loss, 1}, memory).error() == errc::bad_setting);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return span_search{}(p, m); });
}
}  // namespace terse::test
