#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/simd/columns.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/leverage.hpp>
#include <terse/simd/scalar.hpp>
#include <terse/simd/softmax_columns.hpp>
#include <terse/simd/tile.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

/// Rows in 8 bit of any codes, and the same in float, with nothing readable around them.
template <class Scale>
struct quantised_rows {
    index dim, group;
    std::vector<std::int8_t> codes;
    std::vector<Scale> scales;
    std::vector<float> values;

    quantised_rows(index count, index d, index g, unsigned seed)
        : dim{d},
          group{g},
          codes(static_cast<std::size_t>(count * d)),
          scales(static_cast<std::size_t>(count * (d / g))),
          values(codes.size()) {
        std::mt19937 bits{seed};
        for (auto& code : codes) code = static_cast<std::int8_t>(bits());
        for (auto& scale : scales) scale = static_cast<Scale>(static_cast<float>(bits() % 64 + 1) / 4096);
        for (index t = 0; t < count; ++t)
            for (index c = 0; c < d; ++c) values[static_cast<std::size_t>(t * d + c)] = row(t)[c];
    }
    [[nodiscard]] quantised_row<Scale> row(index t) const {
        return {codes.data() + t * dim, scales.data() + t * (dim / group), group};
    }
    [[nodiscard]] float const* exact(index t) const { return values.data() + t * dim; }
};

struct shape {
    index dim, group;
};
constexpr shape shapes[] = {{32, 32}, {64, 32}, {128, 128}, {96, 96},  {256, 64}, {80, 80},
                            {37, 37}, {3, 3},   {40, 1},    {128, 32}, {33, 1},   {192, 96}};

}  // namespace

TEST_CASE("a channel of a row in 8 bit is its code times its group's scale", "[simd][quantised_row]") {
    std::vector<std::int8_t> const codes{1, -2, 127, -128};
    std::vector<float> const scales{0.5F, 2};
    quantised_row<float> const row{codes.data(), scales.data(), 2};
    CHECK(*row == 0.5F);
    CHECK(row[1] == -1.0F);
    CHECK(*(row + 2) == 254.0F);
    CHECK((row + 1)[2] == -256.0F);
    CHECK(simd::to_array<simd::default_arch>(simd::load_partial<simd::default_arch>(row + 1, 3))[2] == -256.0F);
}

TEMPLATE_LIST_TEST_CASE("rows in 8 bit are read as the floats that they stand for", "[simd][quantised_row]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using Scale = typename TestType::value;
    constexpr index width = simd::lanes<Arch>;
    for (auto const [dim, group] : shapes) {
        CAPTURE(dim, group);
        quantised_rows<Scale> const x(width + 3, dim, group, 3);
        for (index c = 0; c + width <= dim; ++c) {
            auto const got = simd::to_array<Arch>(simd::load<Arch>(x.row(2) + c));
            for (index i = 0; i < width; ++i) REQUIRE(got[static_cast<std::size_t>(i)] == x.exact(2)[c + i]);
        }
        samples::rows<Scale> other(1, dim, 4, 0, 1);
        auto const near = [&, dim = dim](double value) {
            return Approx(value).margin(1e-5 * static_cast<double>(dim + 1));
        };
        for (index const n : {dim, dim - 1, dim / 2}) {
            auto const row = x.row(1);
            auto const* const exact = x.exact(1);
            CHECK(simd::dot<Arch>(row, other(0), n) == near(simd::scalar::dot(exact, other(0), n)));
            CHECK(simd::dot<Arch>(other(0), row, n) == near(simd::scalar::dot(exact, other(0), n)));
            CHECK(simd::dot<Arch>(row, x.row(2), n) == near(simd::scalar::dot(exact, x.exact(2), n)));
            CHECK(simd::squared_norm<Arch>(row, n) == near(simd::scalar::squared_norm(exact, n)));
            CHECK(simd::sum<Arch>(row, n) == near(simd::scalar::sum(exact, n)));
            samples::rows<float> sums(1, n, 5, 0, 1), expected = sums;
            simd::add_scaled<Arch>(row, 0.3F, sums(0), n);
            simd::scalar::add_scaled(exact, 0.3F, expected(0), n);
            for (index i = 0; i < n; ++i) CHECK(sums(0)[i] == Approx(expected(0)[i]).margin(1e-6));
            CHECK(sums(0)[n] == expected(0)[n]);

            auto const rows = [&](index t) { return x.row(t); };
            for (index const count : {index{3}, width + 3}) {
                auto const products = simd::to_array<Arch>(simd::dot_rows<Arch>(1, count, rows, other(0), n));
                auto const squares = simd::to_array<Arch>(simd::squared_norm_rows<Arch>(1, count, rows, n));
                for (index i = 0; i < width; ++i) {
                    auto const* const values = x.exact(std::min(1 + i, count - 1));
                    CHECK(products[static_cast<std::size_t>(i)] == near(simd::scalar::dot(values, other(0), n)));
                    CHECK(squares[static_cast<std::size_t>(i)] == near(simd::scalar::squared_norm(values, n)));
                }
            }
        }
        // From within a row, as callers that slice channels do.
        index const skip = dim / 3;
        std::vector<float> floats(static_cast<std::size_t>(dim - skip + 1), -7.0F);
        simd::dequantise_row<Arch>(x.row(2) + skip, dim - skip, floats.data());
        for (index i = skip; i < dim; ++i) REQUIRE(floats[static_cast<std::size_t>(i - skip)] == x.exact(2)[i]);
        CHECK(floats.back() == -7);
        CHECK(simd::squared_norm<Arch>(x.row(0) + skip, dim - skip) ==
              near(simd::scalar::squared_norm(x.exact(0) + skip, dim - skip)));
        CHECK(simd::dot<Arch>(x.row(0) + skip, other(0), dim - skip) ==
              near(simd::scalar::dot(x.exact(0) + skip, other(0), dim - skip)));
        simd::prefetch_row(x.row(0), dim);
    }
}

TEMPLATE_LIST_TEST_CASE("rows in 8 bit are packed as the floats that they stand for", "[simd][quantised_row]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using Scale = typename TestType::value;
    constexpr index width = simd::panel_width<Arch>;
    struct alignas(64) line {
        float x[16];
    };
    for (auto const [dim, group] : shapes) {
        quantised_rows<Scale> const x(width + 5, dim, group, 7);
        for (index const skip : {index{0}, dim / 2}) {
            for (index const count : {index{1}, width - 1, width}) {
                CAPTURE(dim, group, skip, count);
                index const n = dim - skip;
                std::vector<line> memory(static_cast<std::size_t>(2 * (n + 1) * width / 16 + 4));
                float* const got = memory.front().x;
                float* const expected = got + n * width;
                float* const squares = expected + n * width;
                simd::pack<Arch, true>(
                    2, count, [&](index t) { return x.row(t) + skip; }, n, width, got, squares);
                simd::pack<Arch>(
                    2, count, [&](index t) { return x.exact(t) + skip; }, n, width, expected);
                for (index i = 0; i < n * width; ++i) REQUIRE(got[i] == expected[i]);
                for (index r = 0; r < width; ++r)
                    CHECK(squares[r] ==
                          Approx(simd::scalar::squared_norm(x.exact(2 + std::min(r, count - 1)) + skip, n)));
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("attention to keys in 8 bit is that to the keys that they stand for", "[simd][quantised_row]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using Scale = typename TestType::value;
    index const keys = 77;
    for (auto const [dim, group] : {shape{64, 32}, shape{80, 80}, shape{40, 1}}) {
        quantised_rows<Scale> const x(keys, dim, group, 9);
        samples::rows<Scale> queries(12, dim, 10);
        for (index const count : {1, 4}) {
            std::vector<float> got(3 * keys), expected(3 * keys);
            simd::attention_shape const of{3, count, keys, dim, 0.3F};
            std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<Arch>(of)));
            auto const query = [&](index h, index i) -> Scale const* { return queries(h * 4 + i); };
            simd::softmax_columns<Arch>(
                of, query, [&](index t) { return x.row(t); }, keys - count + 1, {got, keys, keys}, scratch);
            simd::scalar::softmax_columns(
                of, query, [&](index t) { return x.exact(t); }, [&](index i) { return keys - count + 1 + i; },
                {expected, keys, keys}, simd::once{}, simd::unknown{});
            for (std::size_t i = 0; i < got.size(); ++i)
                CHECK(got[i] == Approx(expected[i]).epsilon(1e-4).margin(1e-6));
        }
    }
}

TEMPLATE_LIST_TEST_CASE("columns of rows in 8 bit are those of the rows that they stand for", "[simd][quantised_row]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using Scale = typename TestType::value;
    for (auto const [dim, group] : shapes) {
        for (index const count : {index{0}, index{1}, simd::lanes<Arch> + 3}) {
            CAPTURE(dim, group, count);
            quantised_rows<Scale> const x(count, dim, group, 5);
            auto const coded = [&x](index t) { return x.row(t); };
            auto const exact = [&x](index t) { return x.exact(t); };
            auto const weights = uniform(count, 6), origin = uniform(dim, 7), factor = uniform(dim, 8, 1, 2);
            auto const same = [&](std::size_t size, auto const& kernel) {
                std::vector<float> got(size + 1, 7.0F), want = got;
                kernel(coded, got.data());
                kernel(exact, want.data());
                for (std::size_t i = 0; i <= size; ++i) CHECK(got[i] == Approx(want[i]).epsilon(1e-5).margin(1e-5));
            };
            auto const channels = static_cast<std::size_t>(dim);
            same(channels, [&](auto row, float* out) {
                simd::add_weighted<Arch>(count, row, weights.data(), {out, channels});
            });
            same(channels, [&](auto row, float* out) { simd::column_squares<Arch>(count, row, {out, channels}); });
            same(2 * channels, [&](auto row, float* out) {
                simd::column_bounds<Arch>(count, row, {out, channels}, {out + channels, channels});
            });
            same(static_cast<std::size_t>(count), [&, dim = dim](auto row, float* out) {
                simd::scaled_deviations<Arch>(count, row, origin, factor, dim, out);
            });
            if (count == 0) continue;
            same(channels,
                 [&, dim = dim](auto row, float* out) { simd::subtract<Arch>(row(0), origin.data(), out, dim); });
        }
    }
}

TEST_CASE("a NaN scale is seen", "[simd][quantised_row]") {
    quantised_rows<half> x(1, 64, 32, 1);
    x.scales[1] = static_cast<half>(not_a_number);
    CHECK(simd::is_nan(simd::squared_norm(x.row(0), 64)));
    CHECK(simd::is_nan(simd::dot(x.row(0), x.exact(0), 64)));
    CHECK(!simd::is_nan(simd::squared_norm(x.row(0), 32)));
}

}  // namespace terse::test
