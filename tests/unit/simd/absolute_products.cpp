#include <catch2/catch.hpp>

#include <terse/simd/absolute_products.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

template <class Arch, class Row, class Other>
std::vector<float> sums_of(index count, Row row, index others, Other other, index dim, float before = 0) {
    std::vector<float> sums(static_cast<std::size_t>(count), before);
    std::vector<float> scratch(static_cast<std::size_t>(simd::absolute_products_scratch<Arch>(dim)), not_a_number);
    simd::add_absolute_products<Arch>(count, row, others, other, dim, sums, scratch);
    return sums;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("sums of absolute products agree with plain loops", "[simd][absolute-products]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const width = simd::panel_width<Arch>, chunk = simd::chunk_rows<Arch>;
    struct shape {
        index count, others, dim;
    };
    for (auto const [count, others, dim] : std::vector<shape>{{0, 3, 4},
                                                              {1, 1, 1},
                                                              {3, 0, 5},
                                                              {2, 3, 0},
                                                              {width - 1, chunk + 1, 7},
                                                              {width + 1, chunk - 1, 8},
                                                              {2 * width, 2 * chunk, 33},
                                                              {simd::absolute_rows + 3, 5, 12},
                                                              {19, 31, simd::tile_depth<Arch> + 9}}) {
        CAPTURE(count, others, dim);
        samples::rows<T> const left(count, dim, 1, 3, 1);
        samples::rows<float> const right(others, dim, 2, 2, 1);
        auto const got = sums_of<Arch>(count, left.view(), others, right.view(), dim, 0.5F);
        std::vector<float> want(got.size(), 0.5F);
        simd::scalar::add_absolute_products(count, left.view(), others, right.view(), dim, want);
        for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == Approx(want[i]).epsilon(2e-5));
    }
}

TEMPLATE_LIST_TEST_CASE("absolute products of small whole numbers are exact, and NaN stays in its row",
                        "[simd][absolute-products]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    std::vector<float> const left = {1, -2, 0, 0, 3, 1};    // rows (1, -2), (0, 0), (3, 1)
    std::vector<float> const right = {1, 1, -1, 0, 2, -1};  // (1, 1), (-1, 0), (2, -1)
    std::vector<T> stored;
    for (float const x : left) stored.push_back(static_cast<T>(x));
    auto const row = [&](index i) { return stored.data() + 2 * i; };
    auto const other = [&](index i) { return right.data() + 2 * i; };
    CHECK(sums_of<Arch>(3, row, 3, other, 2) == std::vector<float>{1 + 1 + 4, 0, 4 + 3 + 5});
    stored[3] = static_cast<T>(not_a_number);
    auto const got = sums_of<Arch>(3, row, 3, other, 2);
    CHECK(got[0] == 6);
    CHECK(simd::is_nan(got[1]));
    CHECK(got[2] == 12);
}

}  // namespace terse::test
