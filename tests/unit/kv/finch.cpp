#include <cmath>

#include <terse/kv/compact.hpp>
#include <terse/kv/finch.hpp>
#include <terse/kv/rotate.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// The mean over the question and the group of its attention, times the slots before a query.
std::vector<std::vector<double>> reference(layer<float> const& l, bool normalise) {
    auto const a = attention_matrix(l);
    index const n = l.tokens(), w = l.window();
    std::vector<std::vector<double>> rows;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        auto& row = rows.emplace_back(static_cast<std::size_t>(n - w), 0.0);
        for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h)
            for (index i = 0; i < w; ++i)
                for (std::size_t j = 0; j < row.size(); ++j)
                    row[j] += a[static_cast<std::size_t>(h)][static_cast<std::size_t>(i)][j] *
                              (normalise ? static_cast<double>(n - w + i) : 1.0) / static_cast<double>(w * l.group());
    }
    return rows;
}

using shares = kv::finch<budget::ratio>;

}  // namespace

TEST_CASE("finch's scores are the question's attention, by what its queries see", "[kv][finch]") {
    for (index const group : {1, 2, 4})
        for (bool const normalise : {false, true}) {
            random_layer<> const r{4, 4 / group, 37, 16, 6, 9};
            CAPTURE(group, normalise);
            auto const want = reference(r.view(), normalise);
            arena memory;
            auto const got = kv::finch<>{.window = 6, .normalise = normalise}.scorer()(r.view(), memory).value();
            REQUIRE(got.tokens == 31);
            for (index h = 0; h < got.heads; ++h)
                for (std::size_t t = 0; t < 31; ++t)
                    REQUIRE(static_cast<double>(got.row(h)[t]) ==
                            Approx(want[static_cast<std::size_t>(h)][t]).epsilon(2e-5));
        }
}

TEST_CASE("finch keeps the best of every chunk and the question", "[kv][finch]") {
    random_layer<> const r{4, 2, 50, 16, 4, 9};
    for (index const chunk : {0, 7, 20, 25, 50, 64}) {
        shares const p{{.keep = .6}, 4, chunk};
        CAPTURE(chunk);
        arena memory;
        auto const got = p(r.view(), memory).value();
        auto const scores = p.scorer()(r.view(), memory).value();
        index const size = chunk == 0 ? 50 : chunk;
        for (index h = 0; h < 2; ++h) {
            tokens_list want;
            for (index begin = 0; begin < 50; begin += size) {
                index const length = std::min(size, 50 - begin);
                tokens_list order;
                for (index t = begin; t < begin + length; ++t) order.push_back(static_cast<token>(t));
                auto const score = [&](token t) {
                    return t < 46 ? scores.row(h)[static_cast<std::size_t>(t)] : infinity;
                };
                std::stable_sort(order.begin(), order.end(), [&](token a, token b) { return score(a) > score(b); });
                order.resize(static_cast<std::size_t>(std::max<index>(length * 6 / 10, 1)));
                std::sort(order.begin(), order.end());
                want.insert(want.end(), order.begin(), order.end());
            }
            CHECK(list(got[h].sources) == want);
            CHECK(got[h].kept() == p.count(50).value());
        }
        for (index const workers : worker_counts) {
            auto const again = p(r.view(), memory, threads{workers}).value();
            for (index h = 0; h < 2; ++h) require_same_plan(again[h], got[h]);
        }
        require_exact_peak([&](arena& a) { return p(r.view(), a); });
    }
}

TEST_CASE("finch keeps the question of prompts of any length, past what a short last chunk may keep", "[kv][finch]") {
    shares const p{{.keep = .5}, 8, 20};
    for (index n = 20; n <= 61; ++n) {
        CAPTURE(n);
        random_layer<> const r{4, 2, n, 16, 8, static_cast<unsigned>(n)};
        arena memory;
        auto const got = p(r.view(), memory).value();
        index const last = n % 20;
        for (index h = 0; h < 2; ++h) {
            auto const kept = list(got[h].sources);
            CHECK(std::ssize(kept) == p.count(n).value());
            CHECK(std::ssize(kept) == n / 20 * 10 + std::max(last / 2, std::min<index>(last, 8)));
            for (index t = 0; t < 8; ++t)
                CHECK(kept[kept.size() - 1 - static_cast<std::size_t>(t)] == static_cast<token>(n - 1 - t));
        }
        require_exact_peak([&](arena& a) { return p(r.view(), a); });
    }
    // Guarded slots of the short chunk stay as well, beside the question.
    random_layer<> const r{4, 2, 50, 16, 8, 3};
    std::vector<range> const guarded = {{40, 45}};
    auto l = r.view();
    l.guarded = guarded;
    arena memory;
    CHECK(p(l, memory).value()[1].kept() == 20 + 10);

    // The question stays where fewer of its queries are there.
    std::vector<token> const positions{48, 49};
    random_layer<> const fewer{4, 2, 50, 16, 2, 3};
    l = fewer.view();
    l.query_positions = positions;
    for (index h = 0; h < 2; ++h) {
        auto const kept = list(p(l, memory).value()[h].sources);
        CHECK(std::ssize(kept) == 20 + 8);
        CHECK(kept[20] == 42);
    }
}

TEST_CASE("after finch the kept keys stand at the positions from zero", "[kv][finch]") {
    index const n = 20, dim = 4;
    std::vector<float> const frequency = {1, .01F};
    auto keys = random_heads(2, n, dim, 3);
    auto const queries = random_heads(2, 3, dim, 4);
    layer<float> const l{.keys = keys.by_head(), .queries = queries.by_head()};
    arena memory;
    auto const plans = kv::finch<>{{8}, 3}(l, memory).value();
    auto const before = keys;
    heads_span<float> const cache{keys.values.data(), 2, n, dim, n * dim, dim};
    REQUIRE(kv::compact(cache, plans) == errc::ok);
    REQUIRE(kv::renumber(cache, plans, {}, {frequency}) == errc::ok);
    for (index h = 0; h < 2; ++h)
        for (index t = 0; t < 8; ++t)
            for (std::size_t i = 0; i < 2; ++i) {
                index const from = plans[h].sources[static_cast<std::size_t>(t)];
                double const angle = static_cast<double>(t - from) * static_cast<double>(frequency[i]);
                float const* const x = before.row(from, h) + i;
                float const* const y = keys.row(t, h) + i;
                auto const a = static_cast<double>(x[0]), b = static_cast<double>(x[2]);
                CHECK(static_cast<double>(y[0]) == Approx(a * std::cos(angle) - b * std::sin(angle)).margin(1e-5));
                CHECK(static_cast<double>(y[2]) == Approx(b * std::cos(angle) + a * std::sin(angle)).margin(1e-5));
            }
}

TEST_CASE("finch says what does not fit", "[kv][finch]") {
    random_layer<> const r{4, 2, 20, 8, 6, 1};
    arena memory;
    auto const error = [&](auto const& p) { return p(r.view(), memory).error(); };
    CHECK(error(kv::finch<>{{8}, 0}) == errc::bad_setting);
    CHECK(error(kv::finch<>{{8}, 6, -1}) == errc::bad_setting);
    CHECK(error(kv::finch<>{{0}, 6}) == errc::bad_budget);
    CHECK(error(kv::finch<>{{5}, 6}) == errc::bad_budget);          // less than the question
    CHECK(error(shares{{.keep = .5}, 6, 10}) == errc::bad_budget);  // five of ten, six of them the question
    CHECK(error(shares{{.keep = .6}, 6, 10}) == errc::ok);
    CHECK(error(shares{{.keep = 0}, 6}) == errc::bad_budget);
    CHECK(error(kv::finch<>{{8}, 7}) == errc::bad_shape);  // more voters than queries
    memory.rewind();
    CHECK(kv::finch<>{{8}, 6, 4}(r.view(), memory).value()[0].kept() == 20);
    random_layer<> const nothing{4, 2, 0, 8, 0, 1};
    CHECK(kv::finch<>{{8}, 6}(nothing.view(), memory).value()[0].kept() == 0);
}
}  // namespace terse::test
