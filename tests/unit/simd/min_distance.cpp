#include <catch2/catch.hpp>

#include <terse/simd/min_distance.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

template <class Arch, class T>
void check_picks(samples::rows<T> const& rows, index count, index dim, index steps) {
    std::vector<float> inverse(static_cast<std::size_t>(count));
    simd::inverse_norms<Arch>(count, rows.view(), dim, inverse);
    std::vector<float> distance(inverse.size(), infinity), expected = distance;
    index pick = 0;
    for (index step = 0; step < steps && pick >= 0; ++step) {
        distance[static_cast<std::size_t>(pick)] = expected[static_cast<std::size_t>(pick)] = -infinity;
        index const plain = simd::scalar::min_distance(count, rows.view(), inverse, pick, dim, expected);
        pick = simd::min_distance<Arch>(count, rows.view(), inverse, pick, dim, distance);
        REQUIRE(pick == plain);
        for (std::size_t j = 0; j < distance.size(); ++j) {
            CAPTURE(step, j);
            if (simd::is_nan(expected[j]))
                CHECK(simd::is_nan(distance[j]));
            else if (!simd::is_finite(expected[j]))
                CHECK(distance[j] == expected[j]);
            else
                CHECK(distance[j] == Approx(expected[j]).margin(1e-6));
        }
    }
}

TEMPLATE_LIST_TEST_CASE("farthest points agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    index const v = simd::lanes<Arch>;
    for (index const count : {index{1}, v - 1, v, v + 1, 5 * v + 3}) {
        for (index const dim : {index{3}, v, 2 * v + 1}) {
            CAPTURE(count, dim);
            check_picks<Arch>(samples::rows<typename TestType::value>(count, dim, 1, 2, 1), count, dim, count + 1);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("rows that are not finite come last, and change nothing when picked", "[simd]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (float const bad : {not_a_number, infinity}) {
        samples::rows<T> rows(21, 9, 2);
        for (index const j : {index{3}, index{20}}) rows(j)[j % 9] = static_cast<T>(bad);
        check_picks<Arch>(rows, 21, 9, 22);
        rows(0)[8] = static_cast<T>(bad);  // the first pick
        check_picks<Arch>(rows, 21, 9, 22);
    }
}

TEMPLATE_LIST_TEST_CASE("of equally far rows the first", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    std::vector<T> const values{T(1), T(0), T(0), T(1), T(0), T(1), T(0), T(-1), T(0), T(-1),
                                T(1), T(0), T(1), T(0), T(1), T(0), T(1), T(0),  T(0), T(-1)};
    auto const row = [&](index i) { return values.data() + 2 * i; };
    std::vector<float> const inverse(10, 1.0F);
    std::vector<float> distance(10, infinity);
    distance[0] = -infinity;
    CHECK(simd::min_distance<Arch>(10, row, inverse, 0, 2, distance) == 1);
    CHECK(distance[1] == 1.0F);
    CHECK(distance[5] == 0.0F);
    distance[1] = -infinity;
    CHECK(simd::min_distance<Arch>(10, row, inverse, 1, 2, distance) == 3);
}

}  // namespace
}  // namespace terse::test
