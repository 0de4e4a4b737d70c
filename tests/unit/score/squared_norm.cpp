#include <terse/score/squared_norm.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {
using score::norm_of;

std::vector<float> scores_of(score::squared_norm const& s, std::vector<float> const& keys,
                             std::vector<float> const& values) {
    arena memory;
    layer<float> const l{.keys = head_major(keys.data(), 1, std::ssize(keys), 1),
                         .values = head_major(values.data(), 1, std::ssize(values), 1)};
    return list(s(l, memory).value().row(0));
}

void check_near(std::vector<float> const& got, std::vector<double> const& expected) {
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]));
}
}  // namespace

TEST_CASE("shares of squared norms need keys and values that fit", "[score][squared_norm]") {
    random_layer<> const r{2, 2, 9, 4, 1, 1};
    arena memory;
    layer<float> l = r.view();
    CHECK(score::squared_norm{.block = -1}(l, memory).error() == errc::bad_setting);
    l.values.tokens = 8;
    CHECK(score::squared_norm{}(l, memory).error() == errc::bad_shape);
    CHECK(score::squared_norm{.what = norm_of::values}(l, memory).error() == errc::bad_shape);
    l.values = {};
    CHECK(score::squared_norm{.what = norm_of::mean}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    CHECK(score::squared_norm{.what = norm_of::keys}(l, memory));
    for (auto const what : {norm_of::keys, norm_of::product})
        require_exact_peak([&](arena& m) { return score::squared_norm{.what = what}(r.view(), m, threads{2}); });
}

TEST_CASE("shares of squared norms by hand", "[score][squared_norm]") {
    std::vector<float> const keys = {1, -2, 3}, values = {2, 1, -1};  // squares 1 4 9 and 4 1 1
    auto const by = [&](norm_of what, index block) { return scores_of({what, block}, keys, values); };
    check_near(by(norm_of::product, 2), {.16 / 1.32, .16 / 1.32, 1 / 1.32});  // .2 .8 | 1 times .8 .2 | 1
    check_near(by(norm_of::mean, 2), {.25, .25, .5});
    check_near(by(norm_of::keys, 2), {.1, .4, .5});
    check_near(by(norm_of::values, 2), {.4, .1, .5});
    check_near(by(norm_of::product, 0), {4. / 17, 4. / 17, 9. / 17});
    check_near(by(norm_of::keys, 0), {1. / 14, 4. / 14, 9. / 14});
    check_near(by(norm_of::keys, 100), {1. / 14, 4. / 14, 9. / 14});
    check_near(by(norm_of::product, 1), {1. / 3, 1. / 3, 1. / 3});
    CHECK(scores_of({}, {}, {}).empty());
}

TEST_CASE("zeros have no share, and what is no number no part in a sum", "[score][squared_norm]") {
    CHECK(scores_of({.block = 2}, {0, 0, 1, 0}, {0, 0, 1, 1}) == std::vector<float>{0, 0, 1, 0});
    CHECK(scores_of({.block = 2}, {0, 0}, {1, 1}) == std::vector<float>{0, 0});
    for (float const poison : {not_a_number, infinity, 3e38F}) {
        auto const got = scores_of({.block = 2}, {1, poison, 1, 3}, {1, 1, 1, 1});
        CHECK(std::isnan(got[1]));
        check_near({got[0], got[2], got[3]}, {.5, .05, .45});  // .5, .1 * .5, .9 * .5
    }
}

TEMPLATE_LIST_TEST_CASE("shares of squared norms agree with double precision", "[score][squared_norm]", storages) {
    auto const what = GENERATE(norm_of::keys, norm_of::values, norm_of::mean, norm_of::product);
    auto const block = GENERATE(index{0}, index{1}, index{16});
    check_scores<TestType>(score::squared_norm{what, block}, [=](rows const& keys, rows const& values, index) {
        auto const shares = [](std::vector<double> x, std::size_t width) {
            for (std::size_t at = 0; at < x.size(); at += width) {
                std::size_t const end = std::min(at + width, x.size());
                double sum = 0;
                for (std::size_t t = at; t < end; ++t) sum += x[t];
                for (std::size_t t = at; t < end; ++t) x[t] /= sum;
            }
            return x;
        };
        auto const local = [&](rows const& of) {
            std::vector<double> squares;
            for (auto const& row : of) squares.push_back(product(row, row));
            return block == 0 ? squares : shares(squares, static_cast<std::size_t>(block));
        };
        auto all = local(keys);
        auto const other = local(values);
        for (std::size_t t = 0; t < all.size(); ++t) {
            if (what == norm_of::values) all[t] = other[t];
            if (what == norm_of::mean) all[t] = (all[t] + other[t]) / 2;
            if (what == norm_of::product) all[t] *= other[t];
        }
        return all.empty() ? all : shares(all, all.size());
    });
}
}  // namespace terse::test
