#include <cmath>
#include <type_traits>

#include <catch2/catch.hpp>

#include <terse/simd/rotate.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

/// Half a step of numbers up to two, twice: the kernel's sums are rounded before.
template <class T>
constexpr float rounding = std::is_same_v<T, float>  ? 0x1p-22F
                           : std::is_same_v<T, half> ? 0x1p-10F
                                                     : 0x1p-7F;

TEMPLATE_TEST_CASE("cosines and sines of many turns", "[simd][rotate]", samples::best, samples::base) {
    for (index const pairs : samples::lengths<TestType>()) {
        auto const frequency = uniform(pairs, 3, 0, 1);
        std::vector<float> cosine(frequency.size()), sine(cosine), plain_cosine(cosine), plain_sine(cosine);
        for (index const steps : {0, 1, -1, 7, 131071, -1000000}) {
            CAPTURE(pairs, steps);
            simd::rotation<TestType>(steps, frequency, cosine, sine);
            simd::scalar::rotation(steps, frequency, plain_cosine, plain_sine);
            for (std::size_t i = 0; i < cosine.size(); ++i) {
                REQUIRE(std::abs(cosine[i] - plain_cosine[i]) <= 3e-7F);
                REQUIRE(std::abs(sine[i] - plain_sine[i]) <= 3e-7F);
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("pairs turn, side by side and apart", "[simd][rotate]", samples::kernels) {
    using T = typename TestType::value;
    for (index const pairs : samples::lengths<typename TestType::Arch>()) {
        std::vector<float> cosine(static_cast<std::size_t>(pairs)), sine(cosine);
        simd::scalar::rotation(5, uniform(pairs, 4, 0, 1), cosine, sine);
        for (index const offset : {0, 1, 3}) {
            for (bool const apart : {true, false}) {
                CAPTURE(pairs, offset, apart);
                samples::rows<T> got(1, 2 * pairs + 1, 5, 0, offset), want(got);
                index const step = apart ? 1 : 2, second = apart ? pairs : 1;
                simd::rotate_pairs<typename TestType::Arch>(got(0), got(0) + second, step, cosine, sine);
                simd::scalar::rotate_pairs(want(0), want(0) + second, step, cosine, sine);
                for (std::size_t i = 0; i < got.data.size(); ++i) {
                    float const x = static_cast<float>(got.data[i]), y = static_cast<float>(want.data[i]);
                    REQUIRE(std::abs(x - y) <= rounding<T>);
                }
                CHECK(static_cast<float>(got(0)[2 * pairs]) == static_cast<float>(want(0)[2 * pairs]));
            }
        }
    }
}

}  // namespace
}  // namespace terse::test
