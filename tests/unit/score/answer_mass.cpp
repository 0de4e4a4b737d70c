#include <algorithm>

#include <terse/score/answer_mass.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// A sum for each query head, from the whole attention.
std::vector<double> reference(score::answer_mass const& s, std::vector<matrix> const& attention) {
    std::vector<double> sums;
    for (auto const& head : attention) {
        double sum = 0;
        for (std::size_t i = 0; i < head.size(); ++i) {
            auto const times = std::count(s.answer_ids.begin(), s.answer_ids.end(), s.query_ids[i]);
            for (index j = s.answer.begin; j < s.answer.end; ++j)
                sum += static_cast<double>(s.once ? std::min<index>(times, 1) : times) *
                       head[i][static_cast<std::size_t>(j)];
        }
        sums.push_back(sum);
    }
    return sums;
}

std::vector<token> ids(index count, index many, unsigned seed) {
    std::vector<token> all;
    for (float const x : uniform(count, seed, 0, static_cast<float>(many))) all.push_back(static_cast<token>(x));
    return all;
}
}  // namespace

TEST_CASE("the mass of an answer by hand", "[score][answer_mass]") {
    // Three queries over four slots, of which the answer's are 1 and 2: tokens 5 and 5. The queries give 5, 6, 5.
    std::vector<float> const a = {.5F, .25F, .125F, .125F, .25F, .25F, .25F, .25F, 0, .5F, .25F, .25F};
    std::vector<token> const answer = {5, 5}, steps = {5, 6, 5};
    arena memory;
    score::answer_mass s{.answer = {1, 3}, .answer_ids = answer, .query_ids = steps};
    CHECK(list(s(given(a, 1, 3), memory).value().row(0)) == std::vector<float>{2 * .375F + 2 * .75F});
    s.once = true;
    CHECK(list(s(given(a, 1, 3), memory).value().row(0)) == std::vector<float>{.375F + .75F});
    std::vector<token> const others(3, 1);
    s.query_ids = others;
    CHECK(list(s(given(a, 1, 3), memory).value().row(0)) == std::vector<float>{0});
}

TEMPLATE_TEST_CASE("heads are ranked by what they attend to of an answer that they give", "[score][answer_mass]", float,
                   half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
        random_layer<TestType> const r{s, 8};
        auto l = r.view();
        l.scale = s.tokens == 64 ? 0.9F : 0.0F;
        l.soft_cap = s.tokens == 65 ? 0.6F : 0.0F;
        auto const a = attention_matrix(l);
        auto const rows = packed(a), logs = logs_of_sums(l);
        index const first = s.tokens / 3, last = std::min(first + 1 + s.dim, s.tokens);
        auto const answer = ids(last - first, 5, 1), steps = ids(s.window, 5, 2);
        for (bool const once : {false, true}) {
            score::answer_mass const scorer{
                .answer = {first, last}, .answer_ids = answer, .query_ids = steps, .once = once};
            matrix const want{reference(scorer, a)};
            arena memory;
            auto const got = scorer(l, memory).value();
            require_close(got, want, 2e-5, 1e-7);
            require_close(scorer(given(rows, s.heads, s.window, s.kv_heads), memory).value(), want, 2e-5, 1e-7);
            auto known = l;
            known.log_sum_exp = view(logs.data(), s.heads, s.window);
            require_close(scorer(known, memory).value(), want, 2e-5, 1e-7);
            index const workers = 2 + s.tokens % 6;
            REQUIRE(list(scorer(l, memory, threads{workers}).value().values) == list(got.values));
        }
    }
}

TEST_CASE("a known sum spares the keys behind the answer", "[score][answer_mass]") {
    random_layer<> r{6, 2, 40, 8, 6, 4};
    std::vector<token> const ids = {1, 2, 3, 2, 5}, steps = {1, 2, 7, 3, 1, 5};
    score::answer_mass const s{.answer = {20, 25}, .answer_ids = ids, .query_ids = steps};
    arena memory;
    auto l = r.view();
    auto const want = list(s(l, memory).value().values);
    auto const logs = logs_of_sums(l);
    l.log_sum_exp = view(logs.data(), 6, 6);
    for (index h = 0; h < 2; ++h) std::fill_n(r.keys.row(25, h), 15 * 8, not_a_number);
    auto const got = list(s(l, memory).value().values);
    for (std::size_t h = 0; h < 6; ++h) CHECK(got[h] == Approx(want[h]).epsilon(2e-5));
}

TEST_CASE("an answer has no mass in slots that a head does not hold", "[score][answer_mass]") {
    random_layer<> r{6, 2, 40, 8, 6, 4};
    uneven const held{40, {40, 25}};
    std::fill_n(r.keys.row(25, 1), 15 * 8, not_a_number);
    std::vector<token> const ids = {1, 2, 3, 2, 5, 9, 9, 9, 9, 9}, steps = {1, 2, 7, 3, 1, 5};
    score::answer_mass const whole{.answer = {20, 30}, .answer_ids = ids, .query_ids = steps},
        half{.answer = {20, 25}, .answer_ids = std::span{ids}.first(5), .query_ids = steps};
    auto rows = packed(attention_matrix(r.view(held)));
    for (std::size_t i = 3 * 6 * 40; i < rows.size(); ++i)
        if (i % 40 >= 25) rows[i] = 9;
    auto given = r.view(held);
    given.attention = head_major(rows.data(), 6, 6, 40);
    arena memory;
    auto const first = list(whole(r.alone(0, 40), memory).value().row(0)),
               second = list(half(r.alone(1, 25), memory).value().row(0));
    for (auto const& l : {r.view(held), given}) {
        auto const got = whole(l, memory).value().row(0);
        for (std::size_t h = 0; h < 6; ++h) CHECK(got[h] == Approx(h < 3 ? first[h] : second[h - 3]).epsilon(1e-5));
    }
}

TEST_CASE("the mass of an answer says what does not fit", "[score][answer_mass]") {
    random_layer<> const r{6, 2, 50, 12, 9, 8};
    std::vector<token> const answer = {7, 3, 7, 5}, steps = {3, 9, 7, 1, 5, 7, 2, 3, 8};
    arena memory;
    auto const error = [&](score::answer_mass const& wrong) { return wrong(r.view(), memory).error(); };
    CHECK(error({.answer = {11, 14}, .answer_ids = answer, .query_ids = steps}) == errc::bad_shape);
    CHECK(error({.answer = {48, 52}, .answer_ids = answer, .query_ids = steps}) == errc::bad_shape);
    CHECK(error({.answer = {-1, 3}, .answer_ids = answer, .query_ids = steps}) == errc::bad_shape);
    CHECK(error({.answer = {11, 15}, .answer_ids = answer, .query_ids = answer}) == errc::bad_shape);
    std::vector<token> const ten(10, 3);
    CHECK(error({.answer = {11, 15}, .answer_ids = answer, .query_ids = ten}) == errc::bad_shape);
    CHECK(memory.used() == 0);
    score::answer_mass const s{.answer = {11, 15}, .answer_ids = answer, .query_ids = steps};
    require_exact_peak([&](arena& m) { return s(r.view(), m); });
}

}  // namespace terse::test
