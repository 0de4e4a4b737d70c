#include <cmath>

#include <terse/kv/compresskv.hpp>
#include <terse/kv/r_kv.hpp>

#include "attention_reference.hpp"

namespace terse::test {
TEST_CASE("r_kv keeps what is attended to and not repeated, and the window", "[kv][r_kv]") {
    // Two channels, and a window of one query that looks along the second. Slots 0, 1 and 2 are alike, 4 stands apart.
    std::vector<float> const keys = {3, 0.1F, 3, 0, 3, 0, 2, -2, 0, 1, 1, 1}, query = {0, 5};
    layer<float> const l{.keys = head_major(keys.data(), 1, 6, 2), .queries = head_major(query.data(), 1, 1, 2)};
    arena memory;
    // Attention alone: slots 4 and 0.
    CHECK(kept(kv::r_kv{.keep = 2, .window = 1, .kernel = 1, .importance = 1}(l, memory)) == tokens_list{4, 5});
    CHECK(kept(kv::r_kv{.keep = 3, .window = 1, .kernel = 1, .importance = 1}(l, memory)) == tokens_list{0, 4, 5});
    // Redundancy alone: slots 4 and 3, and what protects.
    CHECK(kept(kv::r_kv{.keep = 3, .window = 1, .kernel = 1, .importance = 0}(l, memory)) == tokens_list{3, 4, 5});
    CHECK(kept(kv::r_kv{.keep = 3, .window = 1, .sinks = 2, .kernel = 1}(l, memory)) == tokens_list{0, 1, 5});
    CHECK(kept(kv::r_kv{.keep = 6, .window = 1}(l, memory)) == tokens_list{0, 1, 2, 3, 4, 5});
    // The neighbours of slot 4 share its attention.
    CHECK(kept(kv::r_kv{.keep = 3, .window = 1, .kernel = 3, .importance = 1}(l, memory)) == tokens_list{3, 4, 5});
}

TEST_CASE("R-KV hands on which keys it forgives", "[kv][r_kv]") {
    auto const last = kv::r_kv{}.scorer().second;
    CHECK((last.forgive == 1 && last.forgive_share == 0 && !last.forgive_oldest && !last.published));
    kv::r_kv const policy{.forgive = 3, .forgive_share = 0.25, .forgive_oldest = true, .published = true};
    auto const several = policy.scorer().second;
    CHECK((several.forgive == 3 && several.forgive_share == 0.25 && several.forgive_oldest && several.published));
}

TEST_CASE("r_kv's scores are both parts' in proportion", "[kv][r_kv]") {
    random_layer<> const r{8, 2, 90, 12, 8, 21};
    kv::r_kv const policy{.keep = 40, .importance = 0.3F, .threshold = 0.4F};
    arena memory;
    auto const all = policy.scorer()(r.view(), memory).value();
    auto const logits = logit_matrix(r.view());
    auto const repeated = score::redundancy{.threshold = 0.4F}(r.view(), memory).value();
    REQUIRE(all.tokens == 82);
    for (std::size_t kv = 0; kv < 2; ++kv) {
        std::vector<double> mean(82, 0.0);
        for (std::size_t i = 0; i < 8; ++i) {
            std::vector<double> row(82, -INFINITY);
            for (std::size_t h = 4 * kv; h < 4 * kv + 4; ++h)
                for (std::size_t j = 0; j < row.size(); ++j) row[j] = std::max(row[j], logits[h][i][j]);
            row = softmax(row);
            for (std::size_t j = 0; j < row.size(); ++j) mean[j] += row[j] / 8;
        }
        for (std::size_t j = 0; j < mean.size(); ++j) {
            double highest = 0;
            for (std::size_t t = std::max<std::size_t>(j, 3) - 3; t <= std::min<std::size_t>(81, j + 3); ++t)
                highest = std::max(highest, mean[t]);
            double const redundancy = static_cast<double>(repeated.row(static_cast<index>(kv))[j]);
            CHECK(static_cast<double>(all.row(static_cast<index>(kv))[j]) ==
                  Approx(0.3 * highest + 0.7 * redundancy).margin(1e-6));
        }
    }
}

TEST_CASE("r_kv says what does not fit", "[kv][r_kv]") {
    random_layer<> const r{2, 2, 20, 8, 4, 1};
    arena memory;
    auto const error = [&](kv::r_kv const& policy) { return policy(r.view(), memory).error(); };
    CHECK(error({.keep = 8, .window = 0}) == errc::bad_setting);
    CHECK(error({.keep = 8, .window = 4, .kernel = 2}) == errc::bad_setting);
    CHECK(error({.keep = 8, .window = 4, .importance = -0.1F}) == errc::bad_setting);
    CHECK(error({.keep = 8, .window = 4, .importance = 1.1F}) == errc::bad_setting);
    CHECK(error({.keep = 8, .window = 4, .importance = not_a_number}) == errc::bad_setting);
    CHECK(error({.keep = 8, .window = 4, .threshold = not_a_number}) == errc::bad_setting);
    CHECK(error({.keep = 1000, .window = 4, .importance = 1.1F}) == errc::bad_setting);  // even where all stay
    CHECK(error({.keep = 3, .window = 4}) == errc::bad_budget);
    CHECK(error({.keep = 8, .window = 5}) == errc::bad_shape);
    CHECK(kv::r_kv{.keep = 2, .window = 1}(given(std::vector<float>(6, 0.1F), 1, 1, 1), memory).error() ==
          errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::r_kv{.keep = 8, .window = 4}(r.view(), m); });
}

TEST_CASE("compresskv asks a few heads, and keeps the same for all", "[kv][compresskv]") {
    // Three heads, a query, five tokens; each head looks at another one.
    std::vector<float> const a = {.7F, .1F, .1F, .05F, .05F, .1F, .7F, .1F, .05F, .05F, .1F, .2F, .6F, .05F, .05F};
    arena memory;
    auto const with = [&](std::vector<index> const& heads, index keep) {
        auto const plans =
            kv::compresskv{.heads = heads, .keep = keep, .window = 1, .pool = score::pooling::none, .kernel = 1}(
                given(a, 3, 1, 3), memory);
        CHECK(plans->shared());
        return kept(plans);
    };
    CHECK(with({0}, 2) == tokens_list{0, 4});
    CHECK(with({1}, 2) == tokens_list{1, 4});
    CHECK(with({2}, 3) == tokens_list{1, 2, 4});
    CHECK(with({1, 2}, 3) == tokens_list{1, 2, 4});
    CHECK(with({0, 1, 2}, 2) == tokens_list{1, 4});
    CHECK(with({0}, 5) == tokens_list{0, 1, 2, 3, 4});
    std::vector<index> const first{0};
    CHECK(kept(kv::compresskv{.heads = first, .keep = 3, .window = 1, .sinks = 2}(given(a, 3, 1, 3), memory)) ==
          tokens_list{0, 1, 4});

    // Each head is pooled before they are averaged: maxima of 0.7 0.7 0.1 0.1 and 0.2 0.6 0.6 0.6, not of the mean.
    std::vector<index> const two{0, 2};
    kv::compresskv const pooled{.heads = two, .keep = 3, .window = 1, .pool = score::pooling::max, .kernel = 3};
    auto const s = pooled.scorer()(given(a, 3, 1, 3), memory).value();
    CHECK(s.heads == 1);
    CHECK(s.tokens == 4);  // those before the window
    CHECK(s.row(0)[0] == Approx(0.45F));
    CHECK(s.row(0)[1] == Approx(0.65F));
    CHECK(s.row(0)[2] == Approx(0.35F));
    CHECK(kept(pooled(given(a, 3, 1, 3), memory)) == tokens_list{0, 1, 4});

    random_layer<> const r{4, 2, 20, 8, 4, 1};
    auto const error = [&](kv::compresskv const& policy) { return policy(r.view(), memory).error(); };
    std::vector<index> const beyond{4}, twice{1, 1};
    CHECK(error({.keep = 8, .window = 4}) == errc::bad_setting);
    CHECK(error({.heads = beyond, .keep = 8, .window = 4}) == errc::bad_setting);
    CHECK(error({.heads = twice, .keep = 8, .window = 4}) == errc::bad_setting);
    CHECK(error({.heads = two, .keep = 8, .window = 0}) == errc::bad_setting);
    CHECK(error({.heads = two, .keep = 8, .window = 4, .kernel = 4}) == errc::bad_setting);
    CHECK(error({.heads = two, .keep = 3, .window = 4}) == errc::bad_budget);
    require_exact_peak([&](arena& m) { return kv::compresskv{.heads = two, .keep = 8, .window = 4}(r.view(), m); });
}

TEST_CASE("the best heads ascend, equal ones by number", "[kv][compresskv]") {
    auto const best = [](std::vector<float> const& scores, std::size_t count) {
        std::vector<index> room(count);
        return list(kv::best_heads(scores, room));
    };
    using heads = std::vector<index>;
    CHECK(best({1, 5, 3, 4}, 2) == heads{1, 3});
    CHECK(best({1, 5, 3, 4}, 4) == heads{0, 1, 2, 3});
    CHECK(best({1, 5}, 4) == heads{0, 1});
    CHECK(best({2, 2, 2}, 2) == heads{0, 1});
    CHECK(best({not_a_number, -infinity, 1}, 2) == heads{1, 2});
    CHECK(best({1, 2}, 0).empty());
    CHECK(best({}, 3).empty());
}

}  // namespace terse::test
