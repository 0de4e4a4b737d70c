#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/simd/dequantise.hpp>
#include <terse/simd/dot_quantised.hpp>
#include <terse/simd/quantise.hpp>
#include <terse/simd/scalar_quantise.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

/// Planes of quantised rows, with a guard after each that nothing may touch.
template <class Scale>
struct planes {
    static constexpr std::int8_t guard = 77;

    planes(index rows, index dim, index group)
        : bytes(static_cast<std::size_t>(rows * dim + 1), guard),
          nibbles(static_cast<std::size_t>(rows * dim / 2 + 1), guard),
          scales(static_cast<std::size_t>(rows * dim / group + 1), static_cast<Scale>(guard)),
          minima(scales) {}

    friend bool operator==(planes const& a, planes const& b) {
        auto const same_bits = [](auto const& x, auto const& y) {
            return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(Scale)) == 0;
        };
        return a.bytes == b.bytes && a.nibbles == b.nibbles && same_bits(a.scales, b.scales) &&
               same_bits(a.minima, b.minima);
    }

    std::vector<std::int8_t> bytes;
    std::vector<std::uint8_t> nibbles;
    std::vector<Scale> scales, minima;
};

struct shape {
    index rows, dim, group;
};

/// Groups around the number that goes together, 4 to 16, and of every size.
std::vector<shape> const shapes = {{0, 32, 32}, {1, 0, 32},   {1, 32, 32},  {1, 64, 32},   {1, 96, 32},
                                   {3, 32, 32}, {5, 96, 32},  {4, 128, 32}, {7, 160, 32},  {23, 96, 32},
                                   {9, 64, 64}, {3, 192, 64}, {2, 96, 96},  {5, 256, 128}, {2, 576, 32}};

template <class T>
void set(samples::rows<T>& x, index dim, index i, float value) {
    x(i / dim)[i % dim] = static_cast<T>(value);
}

TEMPLATE_LIST_TEST_CASE("quantising agrees with plain loops to the bit", "[simd][quantise]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    auto const check = [](auto scale) {
        using Scale = decltype(scale);
        for (auto const& [rows, dim, group] : shapes) {
            for (float const factor : {1.0F, 300.0F, 1e-7F, 1e-37F, 1e-40F, 1e38F}) {
                for (index const offset : {0, 1, 3}) {
                    CAPTURE(rows, dim, group, factor, offset);
                    samples::rows<T> x(rows, dim, 7, 2 * offset, offset);
                    for (index i = 0; i < rows * dim; ++i)
                        set(x, dim, i, static_cast<float>(x(i / dim)[i % dim]) * factor);
                    if (offset == 1)  // of no group the only ones
                        for (index i = 5; i < rows * dim; i += 77)
                            set(x, dim, i,
                                std::array{0.0F, not_a_number, -infinity, infinity,
                                           -0.0F}[static_cast<std::size_t>(i % 5)]);
                    planes<Scale> found(rows, dim, group), expected = found;
                    index const odd =
                        simd::quantise_int8<Arch>(rows, x.view(), dim, group, found.bytes.data(), found.scales.data());
                    CHECK(odd == simd::scalar::quantise_int8(rows, x.view(), dim, group, expected.bytes.data(),
                                                             expected.scales.data()));
                    CHECK(found == expected);
                    index const odd4 = simd::quantise_int4<Arch>(rows, x.view(), dim, group, found.nibbles.data(),
                                                                 found.scales.data(), found.minima.data());
                    CHECK(odd4 == simd::scalar::quantise_int4(rows, x.view(), dim, group, expected.nibbles.data(),
                                                              expected.scales.data(), expected.minima.data()));
                    CHECK(found == expected);
                    CHECK(odd == odd4);
                }
            }
        }
    };
    check(float{});
    check(half{});
}

TEMPLATE_LIST_TEST_CASE("a value comes back within half a step", "[simd][quantise]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    auto const check = [](auto scale) {
        using Scale = decltype(scale);
        constexpr index rows = 9, dim = 96, group = 32;
        for (float const factor : {1.0F, 1000.0F, 1e-4F}) {
            for (float const shift : {0.0F, 0.7F, -40.0F}) {
                CAPTURE(factor, shift);
                samples::rows<T> x(rows, dim, 3);
                for (index i = 0; i < rows * dim; ++i)
                    set(x, dim, i, (static_cast<float>(x(i / dim)[i % dim]) + shift) * factor);
                planes<Scale> stored(rows, dim, group);
                std::vector<float> back(static_cast<std::size_t>(rows * dim));
                // The worst difference, in steps; rounding counts with the size of the values.
                auto const worst = [&] {
                    double most = 0;
                    for (std::size_t i = 0; i < back.size(); ++i) {
                        double const difference =
                            std::abs(static_cast<double>(x.data[i]) - static_cast<double>(back[i]));
                        most = std::max(most, (difference - 4e-7 * std::abs(static_cast<double>(back[i]))) /
                                                  static_cast<double>(static_cast<float>(stored.scales[i / group])));
                    }
                    return most;
                };
                CHECK(simd::quantise_int8<Arch>(rows, x.view(), dim, group, stored.bytes.data(),
                                                stored.scales.data()) == 0);
                simd::dequantise_int8<Arch>(stored.bytes.data(), stored.scales.data(), rows * dim, group, back.data());
                CHECK(worst() < 0.501);
                CHECK(worst() > 0.1);
                CHECK(*std::min_element(stored.bytes.begin(), stored.bytes.end()) >= -127);
                CHECK(simd::quantise_int4<Arch>(rows, x.view(), dim, group, stored.nibbles.data(), stored.scales.data(),
                                                stored.minima.data()) == 0);
                simd::dequantise_int4<Arch>(stored.nibbles.data(), stored.scales.data(), stored.minima.data(),
                                            rows * dim, group, back.data());
                CHECK(worst() < 0.501);
                CHECK(worst() > 0.1);
            }
        }
    };
    check(float{});
    check(half{});
}

/// One group of 32, quantised.
template <class Arch, class Scale>
struct one_group {
    explicit one_group(std::vector<float> const& first) {
        std::array<float, 32> x{};
        std::copy(first.begin(), first.end(), x.begin());
        auto const row = [&x](index) { return x.data(); };
        Scale s{}, m{};
        odd = simd::quantise_int8<Arch>(1, row, 32, 32, bytes.data(), &s);
        scale8 = static_cast<float>(s);
        CHECK(simd::quantise_int4<Arch>(1, row, 32, 32, nibbles.data(), &s, &m) == odd);
        scale4 = static_cast<float>(s);
        minimum = static_cast<float>(m);
    }
    [[nodiscard]] std::vector<int> first_bytes(std::size_t n) const {
        return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)};
    }
    [[nodiscard]] std::vector<int> first_nibbles(std::size_t n) const {
        std::vector<int> codes;
        for (std::size_t i = 0; i < n; ++i) codes.push_back(nibbles[i % 16] >> (i < 16 ? 0 : 4) & 15);
        return codes;
    }

    std::array<std::int8_t, 32> bytes{};
    std::array<std::uint8_t, 16> nibbles{};
    float scale8 = 0, scale4 = 0, minimum = 0;
    index odd = 0;
};

TEMPLATE_TEST_CASE("groups by hand", "[simd][quantise]", samples::best, samples::base) {
    using Arch = TestType;
    using codes = std::vector<int>;
    constexpr float most = std::numeric_limits<float>::max();
    SECTION("ties go to the even code") {
        one_group<Arch, float> const g({127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -127, 63.4F});
        CHECK(g.scale8 == 1.0F);
        CHECK(g.first_bytes(8) == codes{127, 0, 2, 2, 0, -2, -127, 63});
    }
    SECTION("minimum and scale of four bits") {
        one_group<Arch, float> const g({-5, 25, -4, -4.1F, 24, 0, 1, 2, 3});
        CHECK(g.minimum == -5.0F);
        CHECK(g.scale4 == 2.0F);
        CHECK(g.first_nibbles(10) == codes{0, 15, 0, 0, 14, 2, 3, 4, 4, 2});
    }
    SECTION("the upper half of a byte is 16 further on") {
        std::vector<float> x(32);
        std::iota(x.begin(), x.end(), 0.0F);
        for (float& v : x) v = std::min(v, 15.0F);
        x[20] = 3;
        one_group<Arch, half> const g(x);
        CHECK(g.minimum == 0.0F);
        CHECK(g.scale4 == 1.0F);
        CHECK(g.nibbles[0] == 0xF0);
        CHECK(g.nibbles[4] == 0x34);
        CHECK(g.nibbles[7] == 0xF7);
    }
    SECTION("zeros, and values too small for a scale") {
        for (float const x : {0.0F, -0.0F, 1e-40F, 7 * 0x1p-126F}) {
            one_group<Arch, float> const g({x, -x, x});
            CHECK(g.scale8 == 0.0F);
            CHECK(g.first_bytes(4) == codes{0, 0, 0, 0});
            CHECK(g.scale4 == 0.0F);
            CHECK(g.first_nibbles(4) == codes{0, 0, 0, 0});
        }
        CHECK(one_group<Arch, float>({127 * 0x1p-126F}).scale8 == 0x1p-126F);
        CHECK(one_group<Arch, float>({127 * 0x1p-126F}).first_bytes(2) == codes{127, 0});
        CHECK(one_group<Arch, half>({1e-30F}).scale8 == 0x1p-24F);
        CHECK(one_group<Arch, half>({1e-30F}).first_bytes(1) == codes{0});
    }
    SECTION("one value all over") {
        one_group<Arch, float> const g(std::vector<float>(32, -3.3F));
        CHECK(g.minimum == -3.3F);
        CHECK(g.scale4 == 0.0F);
        CHECK(g.first_nibbles(2) == codes{0, 0});
        CHECK(g.first_bytes(2) == codes{-127, -127});
    }
    SECTION("halves are rounded outwards") {
        one_group<Arch, half> const g({-1 - 0x1p-12F, 0.5F});
        CHECK(g.minimum == -1 - 0x1p-10F);
        CHECK(g.scale8 == 1033 * 0x1p-17F);  // of 1032.3
        CHECK(g.scale4 == 1640 * 0x1p-14F);  // of 1639.5
        CHECK(g.first_bytes(2) == codes{-127, 63});
        CHECK(g.first_nibbles(3) == codes{0, 15, 10});
    }
    SECTION("NaN is 0 or the minimum, infinity the end of the range, and neither has a part in it") {
        one_group<Arch, float> const g({127, not_a_number, infinity, -infinity, -23, not_a_number});
        CHECK(g.odd == 4);
        CHECK(g.scale8 == 1.0F);
        CHECK(g.first_bytes(6) == codes{127, 0, 127, -127, -23, 0});
        CHECK(g.minimum == -23.0F);
        CHECK(g.scale4 == 10.0F);
        CHECK(g.first_nibbles(6) == codes{15, 0, 15, 0, 0, 0});
    }
    SECTION("NaN wherever it stands") {
        for (std::size_t at = 0; at < 32; ++at) {
            std::vector<float> x(32, 1.0F);
            x[(at + 1) % 32] = 127;
            x[at] = at % 2 == 0 ? not_a_number : -not_a_number;
            one_group<Arch, half> const g(x);
            CHECK(g.odd == 1);
            CHECK(g.bytes[at] == 0);
            CHECK(g.first_nibbles(32)[at] == 0);
            CHECK(g.scale8 == 1.0F);
            CHECK(g.minimum == 1.0F);
        }
    }
    SECTION("nothing but NaN and infinity") {
        std::vector<float> x(32, not_a_number);
        x[3] = infinity;
        one_group<Arch, half> const g(x);
        CHECK(g.odd == 32);
        CHECK(g.scale8 == 0.0F);
        CHECK(g.scale4 == 0.0F);
        CHECK(g.minimum == 0.0F);
        CHECK(g.first_bytes(5) == codes{0, 0, 0, 0, 0});
        CHECK(g.first_nibbles(5) == codes{0, 0, 0, 0, 0});
    }
    SECTION("beyond the largest value that a plane takes") {
        one_group<Arch, float> const in_float({most, -most, 0x1p126F, -0x1p126F, 70'000});
        CHECK(in_float.odd == 2);
        CHECK(in_float.first_bytes(5) == codes{127, -127, 127, -127, 0});
        CHECK(in_float.first_nibbles(4) == codes{15, 0, 15, 0});
        one_group<Arch, half> const in_half({70'000, -70'000, 65'504, -65'504});
        CHECK(in_half.odd == 2);
        CHECK(in_half.first_bytes(4) == codes{127, -127, 127, -127});
        CHECK(in_half.minimum == -65'504.0F);
        CHECK(in_half.first_nibbles(4) == codes{15, 0, 15, 0});
    }
}

TEMPLATE_LIST_TEST_CASE("codes come back as plain loops have them", "[simd][quantise]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (auto const& [rows, dim, group] : shapes) {
        index const size = rows * dim;
        samples::rows<float> const x(rows, dim, 11);
        planes<half> stored(rows, dim, group);
        simd::quantise_int8<Arch>(rows, x.view(), dim, group, stored.bytes.data(), stored.scales.data());
        std::vector<T> found(static_cast<std::size_t>(size + 1), T(7)), expected = found;
        auto const close = [&](float unit) {
            for (std::size_t i = 0; i < found.size(); ++i) {
                auto const a = static_cast<float>(found[i]), b = static_cast<float>(expected[i]);
                if (!(std::abs(a - b) <= unit)) return false;
            }
            return true;
        };
        simd::dequantise_int8<Arch>(stored.bytes.data(), stored.scales.data(), size, group, found.data());
        simd::scalar::dequantise_int8(stored.bytes.data(), stored.scales.data(), size, group, expected.data());
        CHECK(close(0));
        simd::quantise_int4<Arch>(rows, x.view(), dim, group, stored.nibbles.data(), stored.scales.data(),
                                  stored.minima.data());
        simd::dequantise_int4<Arch>(stored.nibbles.data(), stored.scales.data(), stored.minima.data(), size, group,
                                    found.data());
        simd::scalar::dequantise_int4(stored.nibbles.data(), stored.scales.data(), stored.minima.data(), size, group,
                                      expected.data());
        CHECK(close(std::same_as<T, float> ? 1e-6F : std::same_as<T, half> ? 1e-3F : 8e-3F));
    }
}

/// Keys at any address and stride, and a query.
template <class Scale>
struct keys_and_query {
    keys_and_query(index count_, index dim_, index group_, index padding = 0)
        : count{count_},
          dim{dim_},
          group{group_},
          stride{dim_ + 2 * padding},
          bytes(static_cast<std::size_t>(padding + count * stride)),
          nibbles(bytes.size()),
          scales(static_cast<std::size_t>(count * stride + 1)),
          minima(scales.size()),
          codes(static_cast<std::size_t>(dim)),
          query_scales(static_cast<std::size_t>(dim / group)),
          sums(query_scales.size()),
          first{padding} {
        std::mt19937 bits(13);
        auto const noise = [&bits] { return static_cast<float>(bits() >> 8) * 0x1p-24F; };
        for (auto& c : bytes) c = static_cast<std::int8_t>(static_cast<int>(bits() % 255) - 127);
        for (auto& c : nibbles) c = static_cast<std::uint8_t>(bits() % 256);
        for (auto& s : scales) s = static_cast<Scale>(noise() / 127);
        for (auto& m : minima) m = static_cast<Scale>(noise() - 0.5F);
        for (auto& c : codes) c = static_cast<std::int8_t>(static_cast<int>(bits() % 255) - 127);
        for (auto& s : query_scales) s = noise() / 127;
        sum_up();
    }
    void sum_up() {
        for (index g = 0; g < dim / group; ++g) {
            auto const begin = codes.begin() + g * group;
            sums[static_cast<std::size_t>(g)] = query_scales[static_cast<std::size_t>(g)] *
                                                static_cast<float>(std::accumulate(begin, begin + group, 0));
        }
    }
    void check(auto dot_int8, auto dot_int4) const {
        simd::quantised_query const query{codes.data(), query_scales.data(), sums.data()};
        auto const byte = [this](index i) { return bytes.data() + first + i * stride; };
        auto const nibble = [this](index i) { return nibbles.data() + first + i * stride; };
        auto const scale = [this](index i) { return scales.data() + i * stride; };
        auto const minimum = [this](index i) { return minima.data() + i * stride; };
        std::vector<float> found(static_cast<std::size_t>(count + 1), 7.0F), expected = found;
        auto const near = [&] {
            for (std::size_t i = 0; i < found.size(); ++i)
                if (!(std::abs(found[i] - expected[i]) <= 2e-6F * static_cast<float>(dim + 1))) return false;
            return true;
        };
        dot_int8(count, byte, scale, query, dim, group, found.data());
        simd::scalar::dot_int8(count, byte, scale, query, dim, group, expected.data());
        CHECK(near());
        dot_int4(count, nibble, scale, minimum, query, dim, group, found.data());
        simd::scalar::dot_int4(count, nibble, scale, minimum, query, dim, group, expected.data());
        CHECK(near());
    }

    index count, dim, group, stride;
    std::vector<std::int8_t> bytes;
    std::vector<std::uint8_t> nibbles;
    std::vector<Scale> scales, minima;
    std::vector<std::int8_t> codes;
    std::vector<float> query_scales, sums;
    index first;
};

template <class Arch>
auto const eight = [](auto... arguments) { simd::dot_int8<Arch>(arguments...); };
template <class Arch>
auto const four = [](auto... arguments) { simd::dot_int4<Arch>(arguments...); };

TEMPLATE_PRODUCT_TEST_CASE("dot products of codes agree with plain loops", "[simd][quantise]", (samples::on),
                           ((samples::best, float), (samples::best, half), (samples::base, float),
                            (samples::base, half))) {
    using Arch = typename TestType::Arch;
    using Scale = typename TestType::value;
    for (index const count : {0, 1, 2, 3, 4, 5, 8, 11}) {
        for (auto const& [dim, group] : {std::pair<index, index>{0, 32},
                                         {32, 32},
                                         {64, 32},
                                         {96, 32},
                                         {128, 32},
                                         {160, 32},
                                         {224, 32},
                                         {576, 32},
                                         {64, 64},
                                         {192, 64},
                                         {256, 128},
                                         {96, 96}}) {
            for (index const padding : {0, 1, 3}) {
                CAPTURE(count, dim, group, padding);
                keys_and_query<Scale>(count, dim, group, padding).check(eight<Arch>, four<Arch>);
            }
        }
    }
}

TEMPLATE_TEST_CASE("the largest codes do not overflow", "[simd][quantise]", samples::best, samples::base) {
    using Arch = TestType;
    for (int const q : {127, -127}) {
        for (int const k : {127, -127}) {
            keys_and_query<float> x(5, 224, 32);
            std::fill(x.codes.begin(), x.codes.end(), static_cast<std::int8_t>(q));
            std::fill(x.bytes.begin(), x.bytes.end(), static_cast<std::int8_t>(k));
            std::fill(x.nibbles.begin(), x.nibbles.end(), std::uint8_t{0xFF});
            x.sum_up();
            x.check(eight<Arch>, four<Arch>);
        }
    }
}

TEMPLATE_TEST_CASE("dot products of codes by hand", "[simd][quantise]", samples::best, samples::base) {
    using Arch = TestType;
    std::array<float, 64> values{};
    values[0] = 127, values[1] = -2, values[17] = 3, values[40] = 254, values[63] = -4;
    std::array<std::int8_t, 64> codes{}, key{};
    std::array<float, 2> scales{}, sums{}, key_scales{0.5F, 3.0F}, minima{-1.0F, 0.25F};
    CHECK(simd::quantise_query<Arch>(values.data(), 64, 32, codes.data(), scales.data(), sums.data()) == 0);
    CHECK(scales == std::array{1.0F, 2.0F});
    CHECK(sums == std::array{128.0F, 250.0F});
    key[0] = 2, key[1] = 5, key[17] = -7, key[40] = -1, key[63] = 10, key[2] = 99;
    simd::quantised_query const query{codes.data(), scales.data(), sums.data()};
    float product = 0;
    auto const at = [](auto const& plane) { return [&plane](index) { return plane.data(); }; };
    simd::dot_int8<Arch>(1, at(key), at(key_scales), query, 64, 32, &product);
    CHECK(product == 0.5F * (254 - 10 - 21) + 3.0F * (-254 - 40));

    std::array<std::uint8_t, 32> nibbles{};
    nibbles[0] = 0x02, nibbles[1] = 0x75, nibbles[16 + 8] = 0xF1,
    nibbles[16 + 15] = 0xA0;  // 40 = 32 + 8, 63 = 32 + 16 + 15
    simd::dot_int4<Arch>(1, at(nibbles), at(key_scales), at(minima), query, 64, 32, &product);
    CHECK(product == 0.5F * (254 - 10 + 21) - 128 + 3.0F * (254 - 40) + 0.25F * 250);
}

TEMPLATE_TEST_CASE("a scale that is NaN is seen in its own product alone", "[simd][quantise]", samples::best,
                   samples::base) {
    for (index const groups : {1, 2, 5}) {
        keys_and_query<float> x(6, groups * 32, 32);
        x.scales[static_cast<std::size_t>(3 * x.stride + groups - 1)] = not_a_number;
        simd::quantised_query const query{x.codes.data(), x.query_scales.data(), x.sums.data()};
        std::array<float, 6> out{};
        simd::dot_int8<TestType>(
            6, [&x](index i) { return x.bytes.data() + i * x.stride; },
            [&x](index i) { return x.scales.data() + i * x.stride; }, query, x.dim, 32, out.data());
        for (std::size_t i = 0; i < 6; ++i) CHECK(simd::is_nan(out[i]) == (i == 3));
    }
}

}  // namespace
}  // namespace terse::test
