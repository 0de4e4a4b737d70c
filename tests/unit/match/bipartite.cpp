#include <cmath>

#include <terse/match/bipartite.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
template <class T, executor Run = serial>
result<match::links> even_to_odd(tensor<T> const& x, arena& memory, Run const& run = {}) {
    auto const even = x.view().every(2), odd = x.view().every(2, 1);
    return match::bipartite(
        even.tokens, [=](index i) noexcept { return even.row(i); }, odd.tokens,
        [=](index i) noexcept { return odd.row(i); }, x.dim, memory, run);
}

template <class T>
double cosine(tensor<T> const& x, index a, index b) {
    double dot = 0, left = 0, right = 0;
    for (index c = 0; c < x.dim; ++c) {
        double const u = static_cast<double>(static_cast<float>(x.row(a)[c]));
        double const v = static_cast<double>(static_cast<float>(x.row(b)[c]));
        dot += u * v, left += u * u, right += v * v;
    }
    return dot == 0 ? 0 : dot / std::sqrt(left * right);
}
}  // namespace

TEMPLATE_TEST_CASE("every left token is linked to its nearest right token", "[match][bipartite]", float, half,
                   bfloat16) {
    auto const [n, dim] = GENERATE(table<index, index>({{2, 1}, {3, 8}, {33, 24}, {130, 64}, {257, 37}}));
    auto const clustered = GENERATE(false, true);
    auto const x = cast<TestType>(clustered ? clustered_tokens(n, dim, 5, 3) : random_tokens(n, dim, 3));
    for (index const workers : worker_counts) {
        arena memory;
        auto const links = even_to_odd(x, memory, threads{workers}).value();
        REQUIRE(std::ssize(links.partner) == (n + 1) / 2);
        for (index a = 0; a < (n + 1) / 2; ++a) {
            CAPTURE(n, dim, a);
            double best = -2;
            for (index b = 0; b < n / 2; ++b) best = std::max(best, cosine(x, 2 * a, 2 * b + 1));
            auto const i = static_cast<std::size_t>(a);
            REQUIRE(static_cast<double>(links.similarity[i]) == Approx(best).margin(2e-6));
            REQUIRE(cosine(x, 2 * a, 2 * links.partner[i] + 1) == Approx(best).margin(4e-6));
        }
    }
}

TEST_CASE("links of degenerate tokens are defined", "[match][bipartite]") {
    arena memory;
    SECTION("equal cosines: the lower right token") {
        tensor<float> const x{{1, 0, 2, 0, 0, 1, 3, 0}, 1, 4, 2};
        CHECK(list(even_to_odd(x, memory)->partner) == tokens_list{0, 0});
    }
    SECTION("zero rows are similar to nothing") {
        tensor<float> const x{{0, 0, 1, 0, -1, 0, 0, 0}, 1, 4, 2};
        auto const links = even_to_odd(x, memory).value();
        CHECK(list(links.partner) == tokens_list{0, 1});
        CHECK(list(links.similarity) == std::vector<float>{0, 0});
    }
    SECTION("NaN never wins, and compares with nothing") {
        tensor<float> const x{{1, 0, not_a_number, 0, not_a_number, 1, 0, 1}, 1, 4, 2};
        auto const links = even_to_odd(x, memory).value();
        CHECK(list(links.partner) == tokens_list{1, -1});
        CHECK(list(links.similarity) == std::vector<float>{0, -infinity});
    }
    SECTION("no right token") {
        tensor<float> const x{{1, 0}, 1, 1, 2};
        CHECK(list(even_to_odd(x, memory)->partner) == tokens_list{-1});
    }
    SECTION("no token") { CHECK(even_to_odd(tensor<float>{{}, 1, 0, 2}, memory)->partner.empty()); }
    require_exact_peak([](arena& m) { return even_to_odd(random_tokens(9, 4, 1), m); });
}
}  // namespace terse::test
