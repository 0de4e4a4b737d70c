#include <terse/score/repetition.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
struct both {
    std::vector<double> echo, induction;
};

/// The two means from the whole attention, cell by cell: which tokens are the same is read off the prompt.
both by_cells(std::vector<std::vector<std::vector<double>>> const& attention, index group, index prefix, index period) {
    both found;
    for (std::size_t h = 0; h < attention.size(); ++h) {
        auto const n = static_cast<index>(attention[h][0].size()), w = std::ssize(attention[h]);
        auto const word = [&](index t) { return t < prefix ? -1 - t : (t - prefix) % period; };
        double echo = 0, induction = 0, voters = 0;
        for (index i = 0; i < w; ++i) {
            index const place = n - w + i;
            if (place < prefix + period) continue;
            ++voters;
            for (index j = 0; j < place; ++j) {
                auto const& row = attention[h][static_cast<std::size_t>(i)];
                if (word(j) != word(place)) continue;
                echo += row[static_cast<std::size_t>(j)];
                induction += row[static_cast<std::size_t>(j + 1)];
            }
        }
        if (static_cast<index>(h) % group == 0) found.echo.push_back(0), found.induction.push_back(0);
        found.echo.back() = std::max(found.echo.back(), echo / voters);
        found.induction.back() = std::max(found.induction.back(), induction / voters);
    }
    return found;
}
}  // namespace

TEST_CASE("heads that copy and heads that continue", "[score][repetition]") {
    // BOS, then a b three times. Queries: the last a and the last b.
    std::vector<float> const rows = {
        .0F, .1F, .2F, .3F, .1F, .3F,  .0F,  // a at 5: as at 1 and 3, bs after them at 2 and 4
        .2F, .0F, .5F, .1F, .1F, .05F, .05F  // b at 6: bs at 2 and 4, as after them at 3 and 5
    };
    arena memory;
    auto const got = score::repetition{.prefix = 1, .period = 2}(given(rows, 1, 2), memory).value();
    REQUIRE(got.echo.size() == 1);
    CHECK(got.echo[0] == Approx((.4 + .6) / 2));
    CHECK(got.induction[0] == Approx((.3 + .15) / 2));
    // No prefix, period 3: a b c a b c a. The last a looks at 0 and 3, then at 1 and 4; the c before at 2, then at 3.
    auto const other = score::repetition{.prefix = 0, .period = 3}(given(rows, 1, 2), memory).value();
    CHECK(other.echo[0] == Approx((.2 + .3) / 2));
    CHECK(other.induction[0] == Approx((.3 + .1) / 2));
}

TEST_CASE("queries of the first period do not vote, and a group has its best head's score", "[score][repetition]") {
    // A period of two, no prefix: the second query is the first that has seen its token before.
    std::vector<float> const one = {.5F, .5F, 0, .9F, .1F, 0}, two = {1, 0, 0, .2F, .3F, .5F};
    auto rows = one;
    rows.insert(rows.end(), two.begin(), two.end());
    arena memory;
    score::repetition const scorer{.prefix = 0, .period = 2};
    auto const got = scorer(given(rows, 2, 2), memory).value();
    REQUIRE(got.echo.size() == 1);
    CHECK(got.echo[0] == .9F);
    CHECK(got.induction[0] == .3F);
    auto const each = scorer(given(rows, 2, 2, 2), memory).value();
    CHECK(list(each.echo) == std::vector<float>{.9F, .2F});
    CHECK(list(each.induction) == std::vector<float>{.1F, .3F});
}

TEMPLATE_TEST_CASE("repetition scores are those of the whole attention", "[score][repetition]", float, half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, static_cast<unsigned>(s.tokens)};
        auto l = r.view();
        l.scale = s.tokens == 64 ? 0.0F : 1.0F;
        l.soft_cap = s.tokens == 65 ? 2.0F : 0.0F;
        auto const a = attention_matrix(l);
        auto const rows = packed(a);
        for (auto const& [prefix, period] : {std::pair<index, index>{0, 1}, {1, 10}, {4, 99}, {1, s.tokens / 3 + 1}}) {
            if (prefix + period > s.tokens - 1) continue;  // no query is in a later period
            CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, prefix, period);
            auto const expected = by_cells(a, s.group(), prefix, period);
            score::repetition const scorer{.prefix = prefix, .period = period};
            arena memory;
            auto const check = [&](score::repetition_scores const& got) {
                REQUIRE(got.echo.size() == expected.echo.size());
                for (std::size_t h = 0; h < got.echo.size(); ++h) {
                    REQUIRE(static_cast<double>(got.echo[h]) == Approx(expected.echo[h]).epsilon(1e-5));
                    REQUIRE(static_cast<double>(got.induction[h]) == Approx(expected.induction[h]).epsilon(1e-5));
                }
            };
            auto const got = scorer(l, memory).value();
            check(got);
            check(scorer(given(rows, s.heads, s.window, s.kv_heads), memory).value());
            auto const again = scorer(l, memory, threads{2 + s.tokens % 6}).value();
            REQUIRE(list(again.echo) == list(got.echo));
            REQUIRE(list(again.induction) == list(got.induction));
        }
    }
}

TEST_CASE("a head's repetitions are those among the slots that it holds", "[score][repetition]") {
    random_layer<> r{4, 2, 40, 8, 12, 4};
    uneven const held{40, {40, 25}};
    std::fill_n(r.keys.row(25, 1), 15 * 8, not_a_number);
    auto const rows = packed(attention_matrix(r.view(held)));
    auto given = r.view(held);
    given.attention = head_major(rows.data(), 4, 12, 40);
    score::repetition const scorer{.prefix = 3, .period = 10};  // the second head's first query to vote is its second
    arena memory;
    index const lengths[] = {40, 25};
    for (index h = 0; h < 2; ++h) {
        auto const want = scorer(r.alone(h, lengths[h]), memory).value();
        for (auto const& l : {r.view(held), given}) {
            auto const got = scorer(l, memory).value();
            CHECK(got.echo[static_cast<std::size_t>(h)] == Approx(want.echo[0]).epsilon(1e-5));
            CHECK(got.induction[static_cast<std::size_t>(h)] == Approx(want.induction[0]).epsilon(1e-5));
        }
    }
    // No query of a head is in a later period.
    CHECK(score::repetition{.prefix = 3, .period = 22}(r.view(held), memory).error() == errc::bad_shape);
}

TEST_CASE("repetition says what does not fit", "[score][repetition]") {
    random_layer<> const r{4, 2, 20, 8, 6, 1};
    arena memory;
    CHECK(score::repetition{.prefix = -1, .period = 3}(r.view(), memory).error() == errc::bad_setting);
    CHECK(score::repetition{.period = 0}(r.view(), memory).error() == errc::bad_setting);
    CHECK(score::repetition{.period = -4}(r.view(), memory).error() == errc::bad_setting);
    CHECK(score::repetition{.prefix = 1, .period = 19}(r.view(), memory).error() == errc::bad_shape);
    CHECK(score::repetition{.prefix = 1, .period = 18}(r.view(), memory));
    memory.rewind();
    auto l = r.view();
    l.queries.dim = 7;
    CHECK(score::repetition{.period = 5}(l, memory).error() == errc::bad_shape);
    l = r.view(), l.queries = {};
    CHECK(score::repetition{.period = 5}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) {
        auto const got = score::repetition{.period = 5}(r.view(), m);
        return got ? result<index>{1} : result<index>{got.error()};
    });
    random_layer<> nan{4, 2, 20, 8, 6, 1};
    nan.keys.row(3)[2] = not_a_number;
    CHECK(score::repetition{.period = 5}(nan.view(), memory));
}
}  // namespace terse::test
