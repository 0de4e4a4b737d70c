#include <catch2/catch.hpp>

#include <terse/simd/last_similar.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

template <class Arch, class T>
std::vector<token> last_similar(samples::rows<T> const& x, index count, index dim, float threshold) {
    auto const n = static_cast<std::size_t>(count);
    std::vector<float> inverse(n),
        scratch(static_cast<std::size_t>(simd::last_similar_scratch<Arch>(count, dim)), not_a_number);
    std::vector<token> last(n, 77);
    scratch.push_back(42.0F);
    simd::inverse_norms<Arch>(count, x.view(), dim, inverse);
    simd::last_similar<Arch>(count, x.view(), dim, inverse, threshold, last,
                             std::span(scratch).first(scratch.size() - 1));
    CHECK(scratch.back() == 42.0F);
    return last;
}

template <class Arch, class T>
void check(samples::rows<T> const& x, index count, index dim, float threshold) {
    CAPTURE(count, dim, threshold);
    std::vector<float> inverse(static_cast<std::size_t>(count));
    std::vector<token> expected(static_cast<std::size_t>(count));
    simd::scalar::inverse_norms(count, x.view(), dim, inverse);
    simd::scalar::last_similar(count, x.view(), dim, inverse, threshold, expected);
    CHECK(last_similar<Arch>(x, count, dim, threshold) == expected);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the last row like each agrees with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const count : {0, 1, 2, 5, 23, 24, 25, 191, 192, 193, 400, 650}) {
        for (index const dim : {3, 16, 37}) {
            samples::rows<T> const x(count, dim, static_cast<unsigned>(count + dim), 2, 1);
            for (float const threshold : {-2.0F, -0.101F, 0.303F, 0.7071F, 0.9503F, 2.0F})
                check<Arch>(x, count, dim, threshold);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("the last row like each where few are alike, and far apart", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const count = 700, dim = 300;  // of 300 channels hardly any two are alike
    samples::rows<T> x(count, dim, 5);
    check<Arch>(x, count, dim, 0.5F);
    auto const copy = [&](index from, index to) { std::copy_n(x(from), dim, x(to)); };
    copy(3, 699), copy(10, 11), copy(10, 12), copy(200, 640), copy(201, 390), copy(205, 206), copy(0, 500);
    std::fill_n(x(400), dim, static_cast<T>(0.0F));
    x(401)[7] = static_cast<T>(not_a_number);
    check<Arch>(x, count, dim, 0.5F);
    auto const last = last_similar<Arch>(x, count, dim, 0.5F);
    CHECK(last[3] == 699);
    CHECK(last[699] == 3);
    CHECK(last[10] == 12);
    CHECK(last[12] == 11);
    CHECK(last[640] == 200);
    CHECK(last[390] == 201);
    CHECK(last[206] == 205);
    CHECK(last[0] == 500);
    CHECK(last[400] == -1);
    CHECK(last[401] == -1);

    // All alike but some of the first and of the last.
    for (index i = 5; i < 690; ++i)
        if (i % 97 != 3) copy(7, i);
    check<Arch>(x, count, dim, 0.5F);
}

}  // namespace terse::test
