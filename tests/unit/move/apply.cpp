#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/core/arena.hpp>
#include <terse/move/apply.hpp>

using terse::errc;
using terse::token;

namespace {

// Rows cut one by one, last first: a result that depends on the cut shows.
struct backwards {
    [[nodiscard]] static constexpr terse::index workers() noexcept { return 1; }
    template <class Body>
    void operator()(terse::index count, Body&& body) const noexcept {
        for (terse::index i = count; i-- > 0;) body(i, i + 1, terse::index{0});
    }
};

// Three rows of five inputs: a copy, a weighted pair, nothing; input 4 is dropped.
std::vector<token> const offsets{0, 1, 3, 3};
std::vector<token> const sources{2, 0, 3};
std::vector<float> const weights{1, 0.25F, 0.5F};
std::vector<token> const anchor{2, 3, -1};
std::vector<token> const owner{1, -1, 0, 1, -1};
terse::plan const mixed{
    .tokens = 5, .sources = sources, .offsets = offsets, .weights = weights, .anchor = anchor, .owner = owner};
std::vector<token> const picked{1, 4};
terse::plan const selection = terse::select_rows(picked, 5);

template <class T>
std::vector<T> ramp(std::size_t n) {
    std::vector<T> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<T>(static_cast<float>(i));
    return x;
}

template <class T>
std::vector<float> floats(std::vector<T> const& x) {
    std::vector<float> y;
    for (T const v : x) y.push_back(static_cast<float>(v));
    return y;
}

}  // namespace

TEMPLATE_TEST_CASE("apply sums the weighted sources", "[move][apply]", float, terse::half, terse::bfloat16) {
    auto const in = ramp<TestType>(10);  // [5, 2]: 0 1, 2 3, 4 5, 6 7, 8 9
    std::vector<TestType> out(6, TestType{-1.0F});
    CHECK(terse::apply(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 3, 3.75F, 0, 0});
    CHECK(terse::apply_mean(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 4, 5, 0, 0});
    CHECK(terse::apply_max(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 6, 7, 0, 0});
    out.resize(4);
    CHECK(terse::apply(selection, terse::view(in.data(), 5, 2), terse::view(out.data(), 2, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{2, 3, 8, 9});
}

TEMPLATE_TEST_CASE("apply agrees with a product in double", "[move][apply]", float, terse::half, terse::bfloat16) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (terse::index const dim : {1, 3, 7, 8, 9, 16, 31, 64, 67, 200}) {
        constexpr terse::index tokens = 23;
        std::vector<token> begin{0}, from;
        std::vector<float> weight;
        for (int i = 0; i < 11; ++i) {
            for (token j = 0; j < tokens; ++j) {
                if (random() % 5 != 0) continue;
                from.push_back(j);
                weight.push_back(normal(random));
            }
            begin.push_back(static_cast<token>(from.size()));
        }
        terse::plan const p{.tokens = tokens, .sources = from, .offsets = begin, .weights = weight};
        REQUIRE(is_valid(p));
        terse::index const in_stride = dim + 3, out_stride = dim + 5;
        std::vector<TestType> in(static_cast<std::size_t>(tokens * in_stride));
        for (TestType& x : in) x = static_cast<TestType>(normal(random));
        std::vector<TestType> out(static_cast<std::size_t>(p.kept() * out_stride), TestType{-9.0F}), cut = out;
        terse::tokens_view<TestType> const x = terse::view(in.data(), tokens, dim, in_stride);
        auto const y = terse::view(out.data(), p.kept(), dim, out_stride);
        CHECK(terse::apply(p, x, y) == errc::ok);
        CHECK(terse::apply(p, x, terse::view(cut.data(), p.kept(), dim, out_stride), backwards{}) == errc::ok);
        CHECK(floats(out) == floats(cut));
        double const unit = std::is_same_v<TestType, float>         ? 1e-6
                            : std::is_same_v<TestType, terse::half> ? 1e-3
                                                                    : 8e-3;
        for (terse::index i = 0; i < p.kept(); ++i) {
            for (terse::index c = 0; c < dim; ++c) {
                double sum = 0, scale = 1e-6;
                for (std::size_t k = 0; k < p.row(i).sources.size(); ++k) {
                    double const term = static_cast<double>(p.row(i).weight(k)) *
                                        static_cast<double>(static_cast<float>(x.row(p.row(i).sources[k])[c]));
                    sum += term;
                    scale += std::abs(term);
                }
                CHECK(std::abs(static_cast<double>(static_cast<float>(y.row(i)[c])) - sum) <= unit * scale);
            }
            for (terse::index c = dim; c < out_stride; ++c)  // padding is not touched
                CHECK(static_cast<float>(out[static_cast<std::size_t>(i * out_stride + c)]) == -9);
        }
    }
}
