#include <cmath>

#include <terse/simd/columns.hpp>
#include <terse/simd/scalar.hpp>
#include <terse/simd/softmax.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

std::size_t size(index n) { return static_cast<std::size_t>(n); }

}  // namespace

TEMPLATE_LIST_TEST_CASE("squares and bounds of columns agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const dim : samples::lengths<Arch>()) {
        for (index const count : {0, 1, 2, 33}) {
            CAPTURE(dim, count);
            samples::rows<T> x(count + 1, dim, 7, 3, 1);
            for (index c = 0; c < dim; ++c) x(count)[c] = static_cast<T>(99.0F);  // beyond the last row
            std::vector<float> got(size(dim) + 1, 7.0F), expected(size(dim));
            simd::column_squares<Arch>(count, x.view(), std::span{got}.first(size(dim)));
            simd::scalar::column_squares(count, x.view(), expected);
            for (std::size_t c = 0; c < expected.size(); ++c) CHECK(got[c] == Approx(expected[c]).margin(1e-5));
            CHECK(got.back() == 7);

            if (count > 1 && dim > 0) x(0)[dim - 1] = x(1)[0] = static_cast<T>(not_a_number);
            std::vector<float> high = got, least(size(dim)), most(size(dim));
            simd::column_bounds<Arch>(count, x.view(), std::span{got}.first(size(dim)),
                                      std::span{high}.first(size(dim)));
            simd::scalar::column_bounds(count, x.view(), least, most);
            CHECK(std::equal(least.begin(), least.end(), got.begin()));
            CHECK(std::equal(most.begin(), most.end(), high.begin()));
            CHECK((got.back() == 7 && high.back() == 7));
        }
    }
}

TEMPLATE_LIST_TEST_CASE("weighted sums of rows agree with plain loops, and leave out what has no weight", "[simd]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const dim : samples::lengths<Arch>()) {
        for (index const count : {0, 1, 2, 33}) {
            CAPTURE(dim, count);
            samples::rows<T> x(count + 1, dim, 8, 3, 1);
            samples::rows<float> const factors(1, count + 1, 9);
            std::vector<float> weights(factors.view()(0), factors.view()(0) + count + 1);
            for (index t = 1; t < count; t += 5) {
                weights[size(t)] = t % 2 == 0 ? 0 : not_a_number;
                if (dim > 0) x(t)[dim / 2] = static_cast<T>(not_a_number);
            }
            std::vector<float> got(size(dim) + 1, 7.0F), expected(size(dim), 7.0F);
            simd::add_weighted<Arch>(count, x.view(), weights.data(), std::span{got}.first(size(dim)));
            simd::scalar::add_weighted(count, x.view(), weights.data(), expected);
            for (std::size_t c = 0; c < expected.size(); ++c) CHECK(got[c] == Approx(expected[c]).margin(1e-5));
            CHECK(got.back() == 7);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("the deviation of scaled channels agrees with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const dim : samples::lengths<Arch>()) {
        if (dim < 2) continue;
        for (float const offset : {0.0F, 2000.0F}) {
            CAPTURE(dim, offset);
            samples::rows<float> origin(1, dim, 4), factor(1, dim, 5);
            for (index c = 0; c < dim; ++c) origin(0)[c] -= offset, factor(0)[c] += 2;
            index counted = dim;
            for (index c = 1; c < dim - 1; c += 3) factor(0)[c] = 0, --counted;
            std::span<float const> const from(origin(0), size(dim)), scale(factor(0), size(dim));
            for (index const count : {index{0}, index{1}, simd::lanes<Arch>, simd::lanes<Arch> + 3}) {
                samples::rows<T> x(count + 1, dim, 3, 2, 1);
                std::vector<float> got(size(count) + 1, 7.0F), expected = got;
                simd::scaled_deviations<Arch>(count, x.view(), from, scale, counted, got.data());
                simd::scalar::scaled_deviations(count, x.view(), from, scale, counted, expected.data());
                for (std::size_t t = 0; t < got.size(); ++t) CHECK(got[t] == Approx(expected[t]).epsilon(1e-4));
                if (count == 0) continue;
                x(count - 1)[0] = static_cast<T>(not_a_number);
                simd::scaled_deviations<Arch>(count, x.view(), from, scale, counted, got.data());
                CHECK(simd::is_nan(got[size(count - 1)]));
                if (count > 1) CHECK(got[0] == Approx(expected[0]).epsilon(1e-4));
            }
        }
    }
}

TEMPLATE_TEST_CASE("softmax of a row agrees with plain loops", "[simd]", samples::best, samples::base) {
    for (index const n : samples::lengths<TestType>()) {
        for (float const spread : {1.0F, 50.0F}) {
            CAPTURE(n, spread);
            auto got = uniform(n + 1, 5, -spread, spread), expected = got;
            auto const check = [&](std::vector<float> values) {
                auto plain = values;
                auto const rest = values.back();
                simd::softmax<TestType>(std::span{values}.first(size(n)));
                simd::scalar::softmax(std::span{plain}.first(size(n)));
                for (std::size_t i = 0; i < size(n); ++i)
                    CHECK(values[i] == Approx(plain[i]).epsilon(1e-5).margin(1e-30));
                CHECK(values.back() == rest);
            };
            check(got);
            if (n == 0) continue;
            got[0] = not_a_number;
            check(got);
            got[size(n - 1)] = -infinity;
            check(got);
            std::fill(got.begin(), got.end() - 1, -infinity);
            check(got);
            std::fill(got.begin(), got.end() - 1, not_a_number);
            check(got);
            got[size(n / 2)] = infinity;
            check(got);
        }
    }
}

TEST_CASE("softmax of a row, of another base, and of what is not a number", "[simd]") {
    using row = std::vector<float>;
    auto const base2 = [](row x) {
        simd::softmax(x, 1.0F);
        return x;
    };
    CHECK(base2({0, 1, 0}) == row{0.25F, 0.5F, 0.25F});
    CHECK(base2({5, not_a_number, -infinity, 5}) == row{0.5F, 0, 0, 0.5F});
    CHECK(base2({1, infinity, 2}) == row{0, 0, 0});
    CHECK(base2({not_a_number, -infinity}) == row{0, 0});
    CHECK(base2(row(9, -infinity)) == row(9, 0.0F));
}
}  // namespace terse::test
