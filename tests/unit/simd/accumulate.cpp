#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include <terse/simd/accumulate.hpp>
#include <terse/simd/scalar.hpp>

#include "samples.hpp"

namespace terse::test {
namespace {

template <class Arch>
index add_arg_lowest(std::span<float> sums, float const* terms, index begin, index end) {
    return simd::add_arg_lowest<Arch>(sums, {.rows = terms}, begin, end);
}

/// The kernel and its twin leave the same bits and name the same position.
template <class Arch>
void check(std::vector<float> const& sums, simd::terms terms, index begin, index end) {
    for (std::size_t const offset : {0U, 1U, 3U}) {
        std::vector<float> ours(sums.size() + offset, 7.0F), theirs = sums;
        std::copy(sums.begin(), sums.end(), ours.begin() + static_cast<std::ptrdiff_t>(offset));
        index const expected = simd::scalar::add_arg_lowest(theirs, terms.rows, terms.stride, terms.count,
                                                            terms.largest, terms.divisor, begin, end);
        CHECK(simd::add_arg_lowest<Arch>(std::span{ours}.subspan(offset), terms, begin, end) == expected);
        bool const same = theirs.empty() || std::memcmp(ours.data() + offset, theirs.data(), 4 * theirs.size()) == 0;
        CHECK(same);
    }
}
template <class Arch>
void check(std::vector<float> const& sums, std::vector<float> const& terms, index begin, index end) {
    check<Arch>(sums, {.rows = terms.data()}, begin, end);
}

}  // namespace

TEMPLATE_TEST_CASE("the lowest of sums that grow", "[simd][accumulate]", samples::best, samples::base) {
    auto const after = [](std::vector<float> sums, std::vector<float> const& terms, index begin, index end) {
        index const at = add_arg_lowest<TestType>(sums, terms.data(), begin, end);
        return std::pair{at, sums};
    };
    using row = std::vector<float>;
    CHECK(after({}, {}, 0, 0) == std::pair{index{-1}, row{}});
    CHECK(after({1, 2, 3}, {3, 1, 1}, 0, 3) == std::pair{index{1}, row{4, 3, 4}});
    CHECK(after({1, 2, 3}, {3, 1, 1}, 2, 3) == std::pair{index{2}, row{4, 3, 4}});
    CHECK(after({1, 2, 3}, {3, 1, 1}, 1, 1) == std::pair{index{-1}, row{4, 3, 4}});
    CHECK(after({1, 1, 1}, {1, 1, 1}, 0, 3).first == 0);                            // the first of equals
    CHECK(after({1, 0, -0.0F}, {1, 0, -0.0F}, 0, 3).first == 1);                    // -0 equals +0
    CHECK(after({1, not_a_number, -infinity}, {0, 0, 0}, 0, 3).first == 1);         // NaN is below -infinity
    CHECK(after({1, 2, -infinity}, {0, not_a_number, infinity}, 0, 3).first == 1);  // and so is what becomes NaN
    CHECK(after({not_a_number, 2, 1}, {0, 0, 0}, 1, 3).first == 2);                 // outside of the range
    CHECK(after({infinity, infinity}, {0, 0}, 0, 2).first == 0);
}

TEMPLATE_TEST_CASE("the lowest of many sums agrees with plain loops", "[simd][accumulate]", samples::best,
                   samples::base) {
    index const v = simd::lanes<TestType>;
    auto lengths = samples::lengths<TestType>();
    for (index const n : {32 * v, 32 * v + 1, 100 * v - 1, 131 * v + 3}) lengths.push_back(n);
    for (index const n : lengths) {
        CAPTURE(n);
        auto const random = uniform(n, static_cast<unsigned>(n));
        auto const terms = uniform(n, 99);
        for (auto const& [begin, end] :
             {std::pair<index, index>{0, n}, {std::min<index>(5, n), n}, {0, n / 2}, {n / 3, n - n / 5}, {n, n}}) {
            CAPTURE(begin, end);
            check<TestType>(random, terms, begin, end);
            for (index const at : {begin, begin + 1, (begin + end) / 2, end - 1}) {
                if (at < begin || at >= end) continue;
                CAPTURE(at);
                for (float const low : {-infinity, -9.0F, not_a_number}) {
                    auto sums = random;
                    sums[static_cast<std::size_t>(at)] = low;
                    check<TestType>(sums, terms, begin, end);
                    sums.back() = low;  // a tie, or outside
                    sums[static_cast<std::size_t>(begin / 2)] = low;
                    check<TestType>(sums, terms, begin, end);
                }
            }
        }
        std::vector<float> few = random, ones(random.size(), 1.0F);
        for (float& x : few) x = std::round(2 * x);
        check<TestType>(few, ones, 0, n);
        check<TestType>(std::vector<float>(random.size(), infinity), ones, 0, n);
        // Opposite infinities add up to NaN without a NaN among the sums.
        if (n > 2) {
            few[0] = infinity;
            few[static_cast<std::size_t>(n - 1)] = -infinity;
            check<TestType>(few, ones, 0, n);
        }
    }
}

TEMPLATE_TEST_CASE("several rows join the sums at once", "[simd][accumulate]", samples::best, samples::base) {
    std::vector<float> const rows = {1, 2, 3, 0,  //
                                     3, 2, 7, 0};
    std::vector<float> sums = {1, 1, 1};
    CHECK(simd::add_arg_lowest<TestType>(sums, {rows.data(), 4, 2, false, 2}, 0, 3) == 0);
    CHECK(sums == std::vector<float>{3, 3, 6});
    CHECK(simd::add_arg_lowest<TestType>(sums, {rows.data(), 4, 2, false, 1}, 0, 3) == 0);
    CHECK(sums == std::vector<float>{7, 7, 16});
    CHECK(simd::add_arg_lowest<TestType>(sums, {rows.data(), 4, 2, true, 1}, 0, 3) == 1);
    CHECK(sums == std::vector<float>{10, 9, 23});

    for (index const n : samples::lengths<TestType>()) {
        auto const random = uniform(n, 1), more = uniform(5 * (n + 3), 2);
        for (index const count : {1, 2, 5})
            for (bool const largest : {false, true})
                for (float const divisor : {1.0F, 3.0F})
                    check<TestType>(random, {more.data() + 1, n + 2, count, largest, divisor}, n / 4, n);
    }
}

}  // namespace terse::test
