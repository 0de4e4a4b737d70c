#include <span>

#include <terse/simd/blocks.hpp>
#include <terse/simd/scalar.hpp>

#include "samples.hpp"

namespace terse::test {

TEMPLATE_TEST_CASE("forward maxima look at later values only", "[simd][blocks]", samples::best, samples::base) {
    auto const pooled = [](std::vector<float> const& x, index width) {
        std::vector<float> out(x.size());
        simd::forward_max<TestType>(x, width, out);
        return out;
    };
    using row = std::vector<float>;
    CHECK(pooled({1, 5, 2, 4, 0}, 3) == row{5, 5, 4, 4, 0});
    CHECK(pooled({1, 5, 2, 4, 0}, 1) == row{1, 5, 2, 4, 0});
    CHECK(pooled({1, 5, 2, 4, 0}, 9) == row{5, 5, 4, 4, 0});
    CHECK(pooled({}, 3).empty());
    CHECK(pooled({not_a_number, -3, not_a_number}, 2) == row{-3, -3, -infinity});
    CHECK(pooled({-infinity, infinity, 0}, 2) == row{infinity, infinity, 0});
}

TEMPLATE_TEST_CASE("forward maxima of any width agree with plain loops", "[simd][blocks]", samples::best,
                   samples::base) {
    auto lengths = samples::lengths<TestType>();
    for (index const n : {1000, 2047, 2048, 2049, 5003}) lengths.push_back(n);
    for (index const n : lengths) {
        for (index const width : {1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 1023, 1024}) {
            CAPTURE(n, width);
            auto x = uniform(n + 1, static_cast<unsigned>(n));
            for (index i = 0; i < n; i += 13) x[static_cast<std::size_t>(i)] = not_a_number;
            auto const row = std::span<float const>{x}.subspan(1);
            std::vector<float> expected(row.size()), got(row.size(), 7.0F);
            simd::scalar::forward_max(row, width, expected);
            simd::forward_max<TestType>(row, width, got);
            CHECK(got == expected);

            std::vector<double> sums(row.size(), 0.5);
            simd::add_forward_max<TestType>(row, width, sums);
            bool same = true;
            for (std::size_t i = 0; i < sums.size(); ++i)
                same = same && sums[i] == 0.5 + static_cast<double>(expected[i]);
            CHECK(same);
        }
    }
}

TEMPLATE_TEST_CASE("sums of blocks, plain and by count", "[simd][blocks]", samples::best, samples::base) {
    for (index const block : {1, 2, 3, 7, 8, 16, 31, 32, 100}) {
        for (index const blocks : {0, 1, 5}) {
            CAPTURE(block, blocks);
            auto const random = uniform(block * blocks + 1, static_cast<unsigned>(block));
            std::vector<double> const x(random.begin() + 1, random.end());
            std::vector<token> since;
            for (std::size_t i = 0; i < x.size(); ++i) since.push_back(static_cast<token>(i % 50));
            std::vector<double> got(static_cast<std::size_t>(blocks)), expected = got;
            simd::block_sums<TestType>(x, block, got);
            simd::scalar::block_sums(x, {}, 0, block, expected);
            for (std::size_t b = 0; b < got.size(); ++b) CHECK(got[b] == Approx(expected[b]).margin(1e-14));
            simd::block_sums<TestType>(x, since, 60, block, got);
            simd::scalar::block_sums(x, since, 60, block, expected);
            for (std::size_t b = 0; b < got.size(); ++b) CHECK(got[b] == Approx(expected[b]).margin(1e-14));
        }
    }
}

}  // namespace terse::test
