#include <cmath>

#include <terse/simd/dots.hpp>
#include <terse/simd/scalar.hpp>

#include "samples.hpp"

namespace terse::test {

TEMPLATE_LIST_TEST_CASE("a row's product with many rows agrees with plain loops", "[simd][dots]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>;
    for (index const dim : samples::lengths<Arch>()) {
        auto const x = uniform(dim, 3);
        samples::rows<T> const rows(5 * v + 9, dim, 4, 3, 1);
        for (index const count : {index{0}, index{1}, v - 1, v, v + 1, 4 * v, 5 * v + 2}) {
            for (index const first : {index{0}, index{7}}) {
                CAPTURE(dim, count, first);
                std::vector<float> out(static_cast<std::size_t>(count + 1), 42.0F);
                simd::dots<Arch>(first, first + count, 5 * v + 9, rows.view(), x.data(), dim, out.data());
                CHECK(out.back() == 42.0F);
                for (index i = 0; i < count; ++i) {
                    double const expected =
                        static_cast<double>(simd::scalar::dot(rows.view()(first + i), x.data(), dim));
                    REQUIRE(static_cast<double>(out[static_cast<std::size_t>(i)]) ==
                            Approx(expected).epsilon(1e-5).margin(1e-5));
                    float alone = 0;
                    simd::dots<Arch>(first + i, first + i + 1, first + i + 1, rows.view(), x.data(), dim, &alone);
                    REQUIRE(out[static_cast<std::size_t>(i)] == alone);
                }
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("a product has the same bits among few rows and among more than a cache holds", "[simd][dots]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const dim = 133, count = simd::near_floats / dim + 5;
    auto const x = uniform(dim, 3);
    samples::rows<T> const rows(count, dim, 4, 3, 1);
    std::vector<float> out(static_cast<std::size_t>(count + 1), 42.0F);
    simd::dots<Arch>(0, count, count, rows.view(), x.data(), dim, out.data());
    CHECK(out.back() == 42.0F);
    for (index i = 0; i < count; ++i) {
        float alone = 0;
        simd::dots<Arch>(i, i + 1, i + 1, rows.view(), x.data(), dim, &alone);
        REQUIRE(out[static_cast<std::size_t>(i)] == alone);
    }
}

TEMPLATE_LIST_TEST_CASE("the norms of many rows agree with plain loops", "[simd][dots]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>;
    for (index const dim : samples::lengths<Arch>()) {
        samples::rows<T> const rows(5 * v + 9, dim, 4, 3, 1);
        for (index const count : {index{0}, index{1}, v - 1, v, v + 1, 5 * v + 2}) {
            CAPTURE(dim, count);
            std::vector<float> squares(static_cast<std::size_t>(count + 1), 42.0F), norms = squares;
            simd::squared_norms<Arch>(7, count, rows.view(), dim, squares.data());
            simd::norms<Arch>(7, count, rows.view(), dim, norms.data());
            CHECK((squares.back() == 42.0F && norms.back() == 42.0F));
            for (index i = 0; i < count; ++i) {
                float const expected = simd::scalar::squared_norm(rows.view()(7 + i), dim);
                float const square = squares[static_cast<std::size_t>(i)];
                REQUIRE(square == Approx(expected).epsilon(1e-5));
                REQUIRE(norms[static_cast<std::size_t>(i)] == std::sqrt(square));
            }
        }
    }
}

}  // namespace terse::test
