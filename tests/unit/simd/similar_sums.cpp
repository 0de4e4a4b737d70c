#include <cmath>

#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>
#include <terse/simd/similar_sums.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

struct answer {
    std::vector<float> sums;
    tokens_list nth;

    explicit answer(index count) : sums(static_cast<std::size_t>(count), 7), nth(static_cast<std::size_t>(count), 77) {}
};

template <class Arch, class T>
answer similar_sums(samples::rows<T> const& x, index count, index dim, float threshold, index most) {
    auto const n = static_cast<std::size_t>(count);
    answer a{count};
    std::vector<float> inverse(n),
        scratch(static_cast<std::size_t>(simd::similar_sums_scratch<Arch>(count, dim)) + 1, not_a_number);
    scratch.back() = 42;
    simd::inverse_norms<Arch>(count, x.view(), dim, inverse);
    simd::similar_sums<Arch>(count, x.view(), dim, inverse, threshold, most, a.sums, a.nth,
                             std::span(scratch).first(scratch.size() - 1));
    CHECK(scratch.back() == 42);
    return a;
}

template <class Arch, class T>
void check(samples::rows<T> const& x, index count, index dim, float threshold, index most) {
    CAPTURE(count, dim, threshold, most);
    std::vector<float> inverse(static_cast<std::size_t>(count));
    answer expected{count};
    simd::scalar::inverse_norms(count, x.view(), dim, inverse);
    simd::scalar::similar_sums(count, x.view(), dim, inverse, threshold, most, expected.sums, expected.nth);
    auto const got = similar_sums<Arch>(x, count, dim, threshold, most);
    CHECK(got.nth == expected.nth);
    bool close = true;
    for (std::size_t i = 0; i < got.sums.size(); ++i)
        close = close && got.sums[i] == Approx(expected.sums[i]).epsilon(1e-5).margin(1e-4);
    CHECK(close);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the sums of the last rows like each agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const count : {0, 1, 2, 5, 23, 25, 191, 192, 193, 400, 600}) {
        for (index const dim : {3, 37}) {
            // Halves, whose products are exact: no cosine is as near to a threshold as rounding reaches.
            samples::rows<T> x(count, dim, static_cast<unsigned>(count + dim), 2, 1);
            for (T& value : x.data) value = static_cast<T>(std::round(2 * static_cast<float>(value)) / 2);
            for (float const threshold : {-2.0F, -0.101F, 0.303F, 0.7071F, 2.0F})
                for (index const most : {1, 2, 9, 250, 1000}) check<Arch>(x, count, dim, threshold, most);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("the sums of the last rows like each where few are alike, and most", "[simd]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const count = 500, dim = 300;  // of 300 channels hardly any two are alike
    samples::rows<T> x(count, dim, 5);
    auto const copy = [&](index from, index to) { std::copy_n(x(from), dim, x(to)); };
    copy(3, 499), copy(3, 250), copy(10, 11), copy(10, 12), copy(200, 440), copy(0, 498);
    std::fill_n(x(400), dim, static_cast<T>(0.0F));
    x(401)[7] = static_cast<T>(not_a_number);
    for (index const most : {1, 2, 3}) check<Arch>(x, count, dim, 0.5F, most);
    auto const two = similar_sums<Arch>(x, count, dim, 0.5F, 2);
    CHECK(two.nth[3] == 250);
    CHECK(two.nth[499] == 3);
    CHECK(two.nth[10] == 11);
    CHECK(two.nth[12] == 10);
    CHECK(two.nth[0] == -1);
    CHECK(two.nth[400] == -1);
    CHECK(two.nth[401] == -1);
    CHECK(two.sums[250] == Approx(2));
    CHECK(two.sums[498] == Approx(1));
    CHECK(two.sums[400] == 0);
    CHECK(two.sums[401] == 0);

    // All alike but a few, which keep looking.
    for (index i = 5; i < 490; ++i)
        if (i % 97 != 3) copy(7, i);
    for (index const most : {1, 5, 200, 490}) check<Arch>(x, count, dim, 0.5F, most);
}

}  // namespace terse::test
