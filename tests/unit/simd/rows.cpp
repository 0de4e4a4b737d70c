#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include <Eigen/Core>
#include <catch2/catch.hpp>

#include <terse/simd/rows.hpp>

#include "unit/simd/samples.hpp"

namespace simd = terse::simd;
using terse::token;

namespace {

constexpr terse::index rows = 40;

std::vector<token> ascending(double keep, unsigned seed) {
    std::mt19937 random(seed);
    std::bernoulli_distribution stays(keep);
    std::vector<token> sources;
    for (token i = 0; i < rows; ++i)
        if (stays(random)) sources.push_back(i);
    return sources;
}

template <class T>
std::vector<T> noise(terse::index n) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<T> x(static_cast<std::size_t>(n));
    for (T& v : x) v = static_cast<T>(std::clamp(40 * normal(random), -127.0F, 127.0F));
    return x;
}

template <class T>
std::vector<float> floats(std::vector<T> const& x) {
    std::vector<float> y;
    for (T const v : x) y.push_back(static_cast<float>(v));
    return y;
}

// Around every width there is, in bytes and in floats.
std::vector<terse::index> const dims{0,  1,  2,  3,  4,  5,  7,  8,   9,   15,  16,  17,  24,  31,  32,
                                     33, 48, 63, 64, 65, 80, 96, 100, 127, 128, 130, 192, 256, 257, 512};

/// Calls check with this build's architecture, and with the smallest one.
template <class Check>
void on_each(Check const& check) {
    check(simd::default_arch{});
    if constexpr (!std::is_same_v<simd::default_arch, terse::test::samples::base>) check(terse::test::samples::base{});
}

}  // namespace

TEMPLATE_TEST_CASE("rows move like plain loops", "[simd][rows]", float, terse::half, std::int8_t, std::int32_t,
                   double) {
    for (terse::index const dim : dims) {
        for (terse::index const padding : {0, 1, 3}) {
            CAPTURE(dim, padding);
            terse::index const stride = dim + padding;
            auto const in = noise<TestType>(rows * stride + 1);
            std::vector<token> shuffled = ascending(0.6, 5);
            std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(7));
            std::vector<TestType> expected(in.size(), TestType(7));
            simd::scalar::gather_rows(in.data() + 1, stride, shuffled, expected.data(), stride, dim);
            on_each([&]<class Arch>(Arch) {
                std::vector<TestType> out(in.size(), TestType(7));
                simd::gather_rows<Arch>(in.data() + 1, stride, shuffled, out.data(), stride, dim);
                CHECK(floats(out) == floats(expected));
            });
            for (double const keep : {0.0, 0.1, 0.5, 0.9, 0.97, 1.0}) {
                CAPTURE(keep);
                auto const sources = ascending(keep, 11);
                auto reference = in;
                simd::scalar::compact_rows(reference.data() + 1, stride, sources, dim);
                on_each([&]<class Arch>(Arch) {
                    auto moved = in;
                    simd::compact_rows<Arch>(moved.data() + 1, stride, sources, dim);
                    CHECK(floats(moved) == floats(reference));
                });
            }
        }
    }
}

TEMPLATE_TEST_CASE("compaction of runs that overlap their target", "[simd][rows]", float, std::int8_t) {
    for (token const gap : {1, 2, 5, 9}) {
        std::vector<token> sources{0, 1, 2};
        for (token i = 3 + gap; i < rows; ++i) sources.push_back(i);
        auto moved = noise<TestType>(rows * 12), reference = moved;
        simd::scalar::compact_rows(reference.data(), 12, sources, 12);
        simd::compact_rows(moved.data(), 12, sources, 12);
        CHECK(moved == reference);
    }
}

TEMPLATE_TEST_CASE("a lone row of weight one keeps its bits", "[simd][rows]", float, terse::half, terse::bfloat16) {
    std::vector<TestType> in = noise<TestType>(24), out(24);
    in[13] = TestType(-0.0F);
    std::vector<token> const second{1};
    for (auto const& weights : {std::vector<float>{}, std::vector<float>{1}}) {
        for (terse::index const dim : {12, 2}) {  // the second: less than a register anywhere
            out.assign(24, TestType(7));
            simd::sum_rows(in.data(), 12, second, weights, 1.0F, out.data(), dim);
            CHECK(std::memcmp(in.data() + 12, out.data(), static_cast<std::size_t>(dim) * sizeof(TestType)) == 0);
        }
    }
    simd::sum_rows(in.data(), 12, second, std::vector<float>{2}, 1.0F, out.data(), 12);
    CHECK(static_cast<float>(out[3]) == 2 * static_cast<float>(in[15]));
    simd::sum_rows(in.data(), 12, second, {}, 2.0F, out.data(), 12);
    CHECK(static_cast<float>(out[3]) == static_cast<float>(in[15]) / 2);
}

TEMPLATE_TEST_CASE("rows beyond the caches move like plain loops", "[simd][rows]", float, std::int8_t) {
    constexpr auto size = static_cast<terse::index>(sizeof(TestType));
    using values = std::vector<TestType, Eigen::aligned_allocator<TestType>>;
    struct shape {
        terse::index bytes, stride;
    };
    for (auto const [bytes, stride_bytes] : {shape{80, 80}, {256, 320}, {496, 528}, {512, 512}, {644, 672}}) {
        terse::index const dim = bytes / size, count = 2 * simd::stream_bytes / bytes + 10,
                           stride = stride_bytes / size;
        values in(static_cast<std::size_t>(count * stride + 16));
        for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<TestType>(i * i % 251 % 127);
        std::vector<token> sources;
        for (token i = 3; i < count; ++i)
            if (i % 2 == 0 || i % 23 == 0) sources.push_back(i);
        // Aligned to a register, to what streaming needs, and to less.
        for (terse::index const offset : {terse::index{0}, 16 / size, terse::index{1}}) {
            CAPTURE(bytes, stride, offset);
            values expected(in.size(), TestType(7)), reference = in;
            simd::scalar::gather_rows(in.data() + 1, stride, sources, expected.data() + offset, stride, dim);
            simd::scalar::compact_rows(reference.data() + offset, stride, sources, dim);
            on_each([&]<class Arch>(Arch) {
                values out(in.size(), TestType(7));
                simd::gather_rows<Arch>(in.data() + 1, stride, sources, out.data() + offset, stride, dim);
                bool const gathered = out == expected;
                CHECK(gathered);
                auto moved = in;
                simd::compact_rows<Arch>(moved.data() + offset, stride, sources, dim);
                bool const compacted = moved == reference;
                CHECK(compacted);
            });
        }
    }
    TestType none{};
    simd::compact_rows(&none, 0, std::vector<token>{1, 3}, 0);
    simd::gather_rows<>(&none, 0, std::vector<token>{1, 3}, &none, 0, 0);
}

TEST_CASE("long sums of rows lose no digits", "[simd][rows]") {
    for (std::size_t const count : {511U, 512U, 513U, 1024U, 1025U, 100'000U}) {
        CAPTURE(count);
        std::vector<token> const sources(count, 1);
        std::vector<float> in(40, 0.1F), out(20), expected(20);
        simd::sum_rows(in.data(), 20, sources, {}, static_cast<float>(count), out.data(), 20);
        CHECK(out == std::vector<float>(20, out[0]));
        CHECK(out[0] == Approx(0.1).epsilon(1e-5));
        simd::scalar::sum_rows(in.data(), 20, sources, {}, static_cast<float>(count), expected.data(), 20);
        CHECK(expected[0] == Approx(0.1).epsilon(1e-5));
    }
}

TEMPLATE_TEST_CASE("sums and maxima of rows agree with plain loops", "[simd][rows]", float, terse::half,
                   terse::bfloat16) {
    for (terse::index const dim : dims) {
        for (std::size_t const count : {0U, 1U, 2U, 5U}) {
            CAPTURE(dim, count);
            terse::index const stride = dim + 3;
            auto in = noise<TestType>(rows * stride);
            auto sources = ascending(0.6, 5);
            sources.resize(count);
            std::vector<float> weights;
            for (std::size_t k = 0; k < count; ++k) weights.push_back(0.5F - 0.3F * static_cast<float>(k));
            auto const size = static_cast<std::size_t>(dim + 2);
            auto const close = [&](std::vector<TestType> const& a, std::vector<TestType> const& b) {
                float const unit = std::is_same_v<TestType, float>         ? 1e-5F
                                   : std::is_same_v<TestType, terse::half> ? 1e-3F
                                                                           : 8e-3F;
                for (std::size_t i = 0; i < size; ++i) {
                    auto const x = static_cast<float>(a[i]), y = static_cast<float>(b[i]);
                    if (!(std::abs(x - y) <= unit * (1 + std::abs(y)))) return false;
                }
                return true;
            };
            on_each([&]<class Arch>(Arch) {
                for (auto const& w : {weights, std::vector<float>{}}) {
                    for (float const divisor : {1.0F, 3.0F}) {
                        std::vector<TestType> expected(size, TestType(7)), out = expected;
                        simd::scalar::sum_rows(in.data(), stride, sources, w, divisor, expected.data(), dim);
                        simd::sum_rows<Arch>(in.data(), stride, sources, w, divisor, out.data(), dim);
                        CHECK(close(out, expected));
                    }
                }
                std::vector<TestType> expected(size, TestType(7)), out = expected;
                simd::scalar::max_rows(in.data(), stride, sources, expected.data(), dim);
                simd::max_rows<Arch>(in.data(), stride, sources, out.data(), dim);
                CHECK(floats(out) == floats(expected));
            });
        }
    }
}

TEMPLATE_TEST_CASE("a maximum with a NaN is NaN, wherever it stands", "[simd][rows]", float, terse::half,
                   terse::bfloat16) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (terse::index const dim : {1, 3, 4, 16, 37, 150}) {
        for (terse::index const row : {0, 1, 2}) {
            for (terse::index const channel : {terse::index{0}, dim / 2, dim - 1}) {
                CAPTURE(dim, row, channel);
                auto in = noise<TestType>(3 * dim);
                in[static_cast<std::size_t>(row * dim + channel)] = static_cast<TestType>(nan);
                std::vector<token> const sources{0, 1, 2};
                on_each([&]<class Arch>(Arch) {
                    std::vector<TestType> out(static_cast<std::size_t>(dim));
                    simd::max_rows<Arch>(in.data(), dim, sources, out.data(), dim);
                    for (terse::index c = 0; c < dim; ++c)
                        CHECK(simd::is_nan(static_cast<float>(out[static_cast<std::size_t>(c)])) == (c == channel));
                });
            }
        }
    }
}
