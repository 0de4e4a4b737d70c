#include <catch2/catch.hpp>

#include <terse/simd/convert.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

TEMPLATE_LIST_TEST_CASE("sums agree with plain loops and read nothing beyond their end", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const n : samples::lengths<Arch>()) {
        for (index offset = 0; offset < 4; ++offset) {
            CAPTURE(n, offset);
            samples::rows<T> a(1, n, 1, 0, offset), b(1, n, 2, 0, 3 - offset);
            a(0)[n] = b(0)[n] = static_cast<T>(not_a_number);
            auto const near = [n](float x) { return Approx(x).margin(1e-6 * static_cast<double>(n + 1)); };
            CHECK(simd::dot<Arch>(a(0), b(0), n) == near(simd::scalar::dot(a(0), b(0), n)));
            CHECK(simd::squared_norm<Arch>(a(0), n) == near(simd::scalar::squared_norm(a(0), n)));
            CHECK(simd::sum<Arch>(a(0), n) == near(simd::scalar::sum(a(0), n)));

            samples::rows<float> sums(1, n, 3, 0, offset), expected = sums;
            simd::add_scaled<Arch>(a(0), 0.3F, sums(0), n);
            simd::scalar::add_scaled(a(0), 0.3F, expected(0), n);
            for (index i = 0; i < n; ++i) CHECK(sums(0)[i] == Approx(expected(0)[i]).margin(1e-6));
            CHECK(sums(0)[n] == expected(0)[n]);

            simd::mix<Arch>(a(0), 0.3F, -0.6F, sums(0), n);
            simd::scalar::mix(a(0), 0.3F, -0.6F, expected(0), n);
            for (index i = 0; i < n; ++i) CHECK(sums(0)[i] == Approx(expected(0)[i]).margin(1e-6));
            CHECK(sums(0)[n] == expected(0)[n]);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("hits of several rows are counted", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    for (index const n : samples::lengths<Arch>()) {
        for (index const count : {0, 1, 2, 5}) {
            CAPTURE(n, count);
            samples::rows<float> rows(6, n, 1, 3, 1), sums(1, n, 2, 0, 1), expected = sums;
            for (index r = 0; r < 5 && n > 0; ++r) rows(r)[r % n] = r % 2 == 0 ? not_a_number : 0.25F;
            simd::add_hits<Arch>(rows(0), rows.stride, count, 0.25F, sums(0), n);
            simd::scalar::add_hits(rows(0), rows.stride, count, 0.25F, expected(0), n);
            CHECK(sums.data == expected.data);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("one vector against many rows", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    for (index const n : samples::lengths<Arch>()) {
        samples::rows<typename TestType::value> rows(simd::lanes<Arch> + 1, n, 4, 5, 1);
        for (index const count : {index{2}, simd::lanes<Arch> + 1}) {
            auto const products = simd::to_array<Arch>(simd::dot_rows<Arch>(1, count, rows.view(), rows(0), n));
            for (index i = 0; i < simd::lanes<Arch>; ++i) {
                auto const expected = simd::scalar::dot(rows(std::min(1 + i, count - 1)), rows(0), n);
                CHECK(products[static_cast<std::size_t>(i)] == Approx(expected).margin(1e-5));
            }
        }
    }
}

TEMPLATE_TEST_CASE("products of pairs of bfloat16 are added, denormals as the instruction does", "[simd]",
                   samples::best, samples::base) {
    using batch = simd::floats<TestType>;
    constexpr index n = simd::lanes<TestType>;
    samples::rows<bfloat16> x(1, 2 * n, 15), y(1, 2 * n, 16);
    samples::rows<float> sums(1, n, 17);
    auto const got = [&] {
        auto const pairs = [](bfloat16 const* p) { return batch::load_unaligned(reinterpret_cast<float const*>(p)); };
        return simd::to_array<TestType>(
            simd::dot_pairs<TestType>(pairs(x(0)), pairs(y(0)), batch::load_unaligned(sums(0))));
    };
    auto const product = [&](index i) { return static_cast<double>(x(0)[i]) * static_cast<double>(y(0)[i]); };
    auto const random = got();
    for (index i = 0; i < n; ++i) {
        CAPTURE(i);
        double const expected = static_cast<double>(sums(0)[i]) + product(2 * i) + product(2 * i + 1);
        CHECK(static_cast<double>(random[static_cast<std::size_t>(i)]) == Approx(expected).margin(3e-7));
    }
    for (index const at : {index{0}, 2 * n - 1}) {
        x(0)[at] = static_cast<bfloat16>(infinity), y(0)[at] = static_cast<bfloat16>(-2.0F);
        CHECK(got()[static_cast<std::size_t>(at / 2)] == -infinity);
        x(0)[at] = static_cast<bfloat16>(not_a_number);
        CHECK(simd::is_nan(got()[static_cast<std::size_t>(at / 2)]));
    }
    std::fill_n(x(0), 2 * n, static_cast<bfloat16>(0x1p-100F));
    std::fill_n(y(0), 2 * n, static_cast<bfloat16>(0x1p-31F));
    std::fill_n(sums(0), n, 0x1p-130F);
    for (float const sum : got()) CHECK(sum == (simd::has_dot_pairs<TestType> ? 0.0F : 0x1p-129F));
}

TEMPLATE_LIST_TEST_CASE("NaN and infinity come through sums", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const at : {index{0}, simd::lanes<Arch>, 9 * simd::lanes<Arch>}) {
        samples::rows<T> a(1, 9 * simd::lanes<Arch> + 1, 5);
        a(0)[at] = static_cast<T>(infinity);
        CHECK(simd::squared_norm<Arch>(a(0), a.stride) == infinity);
        a(0)[at] = static_cast<T>(not_a_number);
        CHECK(simd::is_nan(simd::sum<Arch>(a(0), a.stride)));
    }
}

template <class Arch, class From, class To>
void check_conversion(std::vector<float> const& values) {
    for (index const n : samples::lengths<Arch>()) {
        for (std::size_t start = 0; start + static_cast<std::size_t>(n) <= values.size();
             start += static_cast<std::size_t>(n) + 1) {
            auto const size = static_cast<std::size_t>(n), offset = start % 3;  // from an aligned address
            std::vector<From> in(offset + size);
            for (std::size_t i = 0; i < size; ++i) in[offset + i] = static_cast<From>(values[start + i]);
            std::vector<To> out(offset + size + 1, static_cast<To>(7.0F)), expected = out;
            auto const from = std::span<From const>(in).last(size);
            simd::convert<Arch>(from, std::span(out).subspan(offset, size));
            simd::scalar::convert(from, std::span(expected).subspan(offset, size));
            for (std::size_t i = 0; i < out.size(); ++i) {
                auto const x = static_cast<float>(out[i]), y = static_cast<float>(expected[i]);
                bool const same = simd::is_nan(y) ? simd::is_nan(x)
                                                  : std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
                if (!same) FAIL_CHECK("at " << i << " of " << n << ": " << x << ", not " << y);
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("parts of a register are read and written, and nothing beyond", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    CHECK(simd::max_lane<Arch>(simd::load_partial<Arch>(static_cast<T const*>(nullptr), 0)) == 0);
    for (index count = 0; count < simd::lanes<Arch>; ++count) {
        for (index const offset : {0, 1, 3}) {
            CAPTURE(count, offset);
            samples::rows<T> const x(1, count, 1, 0, offset);  // with one value more
            auto const row = x.view()(0);
            auto const values = simd::load_partial<Arch>(row, count);
            auto const lanes = simd::to_array<Arch>(values);
            for (index i = 0; i < simd::lanes<Arch>; ++i)
                CHECK(lanes[static_cast<std::size_t>(i)] == (i < count ? static_cast<float>(row[i]) : 0.0F));
            std::vector<T> to(static_cast<std::size_t>(offset + count + 1), static_cast<T>(7.0F)), expected = to;
            std::copy_n(row, count, expected.begin() + offset);
            simd::store_partial<Arch>(values, to.data() + offset, count);
            CHECK(std::equal(to.begin(), to.end(), expected.begin()));
        }
    }
}

TEMPLATE_TEST_CASE("the largest lane, wherever it is; NaN loses", "[simd]", samples::best, samples::base) {
    using batch = simd::floats<TestType>;
    auto const largest = [](auto const& lanes) {
        return simd::max_lane<TestType>(batch::load_unaligned(lanes.data()));
    };
    std::array<float, batch::size> lanes;
    for (float const other : {-infinity, -3.0F, not_a_number, -not_a_number}) {
        for (std::size_t at = 0; at < lanes.size(); ++at) {
            for (float const most : {-2.0F, 0.0F, 1e-3F, infinity}) {
                CAPTURE(other, at, most);
                lanes.fill(other);
                lanes[at] = most;
                CHECK(largest(lanes) == most);
                lanes[(at + 1) % lanes.size()] = not_a_number;
                CHECK(largest(lanes) == most);
            }
        }
    }
    lanes.fill(not_a_number);
    CHECK(largest(lanes) == -infinity);
}

TEMPLATE_LIST_TEST_CASE("conversions round to nearest even, whatever the bits", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    std::mt19937 bits(6);
    std::vector<float> values{0.0F,   -0.0F,  1.0F,    65504.0F, 65519.9F, 65520.0F,  -1e38F,       3.4e38F,
                              1e-40F, -6e-8F, 2.9e-8F, 3e-8F,    infinity, -infinity, not_a_number, -not_a_number};
    for (std::uint32_t const tie : {0x3F80'8000U, 0x3F81'8000U, 0x3F80'8001U, 0x3F80'1000U, 0x3F80'3000U, 0x3F80'1001U,
                                    0x7F7F'FFFFU, 0x7F80'0001U, 0xFFFF'FFFFU, 0x3380'0000U, 0x3300'0001U}) {
        values.push_back(std::bit_cast<float>(tie));
    }
    while (values.size() < 5000) values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits())));
    while (values.size() < 9000) values.push_back(static_cast<float>(bits()) * 0x1p-20F - 2048.0F);
    check_conversion<Arch, float, T>(values);
    check_conversion<Arch, T, float>(values);
    check_conversion<Arch, T, half>(values);
    check_conversion<Arch, T, bfloat16>(values);
}

TEMPLATE_LIST_TEST_CASE("exp2 of what is not above 0", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    auto const of = [](float x) { return simd::to_array<Arch>(simd::exp2<Arch>(simd::floats<Arch>(x))).front(); };
    CHECK(of(0.0F) == 1.0F);
    CHECK(of(-0.0F) == 1.0F);
    CHECK(of(-1.0F) == 0.5F);
    CHECK(of(-126.0F) == 0x1p-126F);
    CHECK(of(-127.0F) <= 0x1p-127F);
    for (float const x : {-150.0F, -1e4F, std::numeric_limits<float>::lowest(), -infinity, not_a_number}) {
        CHECK(of(x) == 0.0F);
    }
    // From the smallest magnitudes to -126, in steps that every binade sees a thousand of.
    double worst = 0;
    constexpr std::size_t width = simd::floats<Arch>::size;
    std::array<float, width> x{}, y{};
    std::uint32_t const last = std::bit_cast<std::uint32_t>(126.0F);
    for (std::uint32_t bits = 1; bits < last; bits += 1009 * static_cast<std::uint32_t>(width)) {
        for (std::size_t i = 0; i < width; ++i)
            x[i] = -std::bit_cast<float>(std::min(bits + 1009 * static_cast<std::uint32_t>(i), last));
        simd::exp2<Arch>(simd::floats<Arch>::load_unaligned(x.data())).store_unaligned(y.data());
        for (std::size_t i = 0; i < width; ++i)
            worst = std::max(worst, std::abs(y[i] / std::exp2(static_cast<double>(x[i])) - 1));
    }
    CHECK(worst < 2e-7);
}

}  // namespace
}  // namespace terse::test
