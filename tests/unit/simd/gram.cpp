#include <catch2/catch.hpp>

#include <terse/simd/gram.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

constexpr float untouched = 77;
constexpr index padding = 5;

struct products {
    index count;
    std::vector<float> values, highest;

    explicit products(index n) : count(n), values(static_cast<std::size_t>(n * (n + padding) + 1), untouched) {
        highest.assign(static_cast<std::size_t>(n), -infinity);
    }
    float* out() { return values.data() + 1; }  // not aligned
    float operator()(index i, index j) const { return values[static_cast<std::size_t>(i * (count + padding) + j + 1)]; }
};

template <class Arch, class Row>
std::vector<float> inverse_of(index count, Row row, index dim) {
    std::vector<float> inverse(static_cast<std::size_t>(count));
    simd::inverse_norms<Arch>(count, row, dim, inverse);
    return inverse;
}

/// By `workers` that share the blocks, the last of them first.
template <class Arch, class Row>
products multiply(index count, Row row, index dim, std::span<float const> inverse, index workers = 1) {
    products p(count);
    std::vector<float> scratch(static_cast<std::size_t>(simd::gram_scratch<Arch>(dim)), not_a_number);
    for (index worker = workers; worker-- > 0;) {
        auto const [begin, end] = share(simd::gram_blocks(count), worker, workers);
        simd::gram<Arch>(begin, end, count, row, dim, inverse, p.out(), count + padding, p.highest, scratch);
    }
    return p;
}

template <class Arch, class Row>
void check_shape(index count, Row row, index dim, std::span<float const> inverse) {
    CAPTURE(count, dim);
    products const found = multiply<Arch>(count, row, dim, inverse);
    products expected(count);
    simd::scalar::gram(count, row, dim, inverse, expected.out(), count + padding, expected.highest);
    auto const terms = static_cast<float>(dim);  // of sums about as large: a long one rounds that often
    float const margin = inverse.empty() ? terms * std::max(1e-6F, 4e-9F * terms) : 1e-6F;
    bool close = true, symmetric = true, outside = found.values[0] == untouched;
    for (index i = 0; i < count; ++i) {
        for (index j = 0; j < count; ++j) {
            close = close && std::abs(found(i, j) - expected(i, j)) <= margin;
            symmetric = symmetric && found(i, j) == found(j, i);
        }
        for (index j = count; j < count + padding; ++j) outside = outside && found(i, j) == untouched;
        float highest = -infinity;
        for (index j = 0; j < count; ++j) highest = i == j ? highest : std::max(highest, found(i, j));
        close = close && found.highest[static_cast<std::size_t>(i)] == highest;
    }
    CHECK(close);
    CHECK(symmetric);
    CHECK(outside);
}

TEST_CASE("products of all rows by hand", "[simd]") {
    std::vector<float> const x{3, 4, 0, 0, 4, -3, 6, 8};
    auto const row = [&](index i) { return x.data() + 2 * i; };
    auto const plain = multiply<simd::default_arch>(4, row, 2, {});
    auto const cosines = multiply<simd::default_arch>(4, row, 2, inverse_of<simd::default_arch>(4, row, 2));
    float const expected[4][4] = {{25, 0, 0, 50}, {0, 0, 0, 0}, {0, 0, 25, 0}, {50, 0, 0, 100}};
    float const normalised[4][4] = {{1, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 1, 0}, {1, 0, 0, 1}};
    for (index i = 0; i < 4; ++i) {
        for (index j = 0; j < 4; ++j) {
            CHECK(plain(i, j) == expected[i][j]);
            CHECK(cosines(i, j) == Approx(normalised[i][j]));
        }
    }
    CHECK(plain.highest == std::vector<float>{50, 0, 0, 50});
}

TEMPLATE_LIST_TEST_CASE("products of all rows, for every shape around a tile and a block", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>, side = simd::gram_side, depth = simd::tile_depth<Arch>;
    for (index const count : {index{0}, index{1}, index{3}, v - 1, v, v + 1, 2 * v + 3, 5 * v + 1, side - 1, side,
                              side + 1, 2 * side + v + 3}) {
        for (index const dim : {index{1}, index{3}, v - 1, v, v + 1, 3 * v, 8 * v + 2}) {
            samples::rows<T> const rows(count, dim, 1, 3, 1);
            check_shape<Arch>(count, rows.view(), dim, {});
            check_shape<Arch>(count, rows.view(), dim, inverse_of<Arch>(count, rows.view(), dim));
        }
    }
    for (index const dim : {depth - 1, depth, depth + 1, 2 * depth + 7}) {
        samples::rows<T> const rows(side + 7, dim, 2);
        check_shape<Arch>(side + 7, rows.view(), dim, {});
    }
    samples::rows<T> const empty(5, 0, 3);
    check_shape<Arch>(5, empty.view(), 0, {});
}

TEMPLATE_LIST_TEST_CASE("products of all rows do not depend on how the blocks are shared", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    index const count = 3 * simd::gram_side + 50, dim = 35;
    samples::rows<typename TestType::value> const rows(count, dim, 4);
    auto const inverse = inverse_of<Arch>(count, rows.view(), dim);
    auto const alone = multiply<Arch>(count, rows.view(), dim, inverse);
    for (index const workers : {index{2}, index{3}, index{7}, simd::gram_blocks(count)}) {
        auto const shared = multiply<Arch>(count, rows.view(), dim, inverse, workers);
        CHECK(shared.values == alone.values);
        CHECK(shared.highest == alone.highest);
    }
}

TEMPLATE_LIST_TEST_CASE("products with NaN reach their row and column alone, and are nobody's highest", "[simd]",
                        samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const count = simd::gram_side + 20, dim = 11, bad = count - 9;
    samples::rows<T> rows(count, dim, 5);
    rows(bad)[3] = static_cast<T>(not_a_number);
    rows(2)[dim - 1] = static_cast<T>(not_a_number);
    std::fill_n(rows(1), dim, static_cast<T>(0.0F));
    auto const found = multiply<Arch>(count, rows.view(), dim, inverse_of<Arch>(count, rows.view(), dim));
    for (index i = 0; i < count; ++i) {
        bool const none = i == 2 || i == bad;
        CHECK(simd::is_nan(found(i, bad)));
        CHECK(simd::is_nan(found(2, i)));
        CHECK(simd::is_nan(found(i, 0)) == none);
        CHECK(simd::is_nan(found(0, i)) == none);
        CHECK((found.highest[static_cast<std::size_t>(i)] == -infinity) == none);
        if (!none) CHECK(found(i, 1) == 0);
    }
}

TEST_CASE("the highest products of all rows need no room for the products", "[simd]") {
    index const count = simd::gram_side + 30, dim = 19;
    samples::rows<float> const rows(count, dim, 6);
    auto const stored = multiply<simd::default_arch>(count, rows.view(), dim, {});
    std::vector<float> scratch(static_cast<std::size_t>(simd::gram_scratch<>(dim)));
    std::vector<float> highest(static_cast<std::size_t>(count), -infinity);
    simd::gram<>(0, simd::gram_blocks(count), count, rows.view(), dim, {}, nullptr, 0, highest, scratch);
    CHECK(highest == stored.highest);
}

TEMPLATE_LIST_TEST_CASE("sums of the products that reach a row's threshold", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const count : {index{0}, index{1}, index{2}, index{9}, index{50}, simd::gram_side, simd::gram_side + 1,
                              2 * simd::gram_side + 37}) {
        for (index const dim : {1, 5, 64}) {
            CAPTURE(count, dim);
            samples::rows<T> rows(count, dim, 7, 3, 1);
            if (count > 2) rows(2)[0] = static_cast<T>(not_a_number);
            if (count > 8) std::fill_n(rows(8), dim, static_cast<T>(0.0F));
            auto const inverse = inverse_of<Arch>(count, rows.view(), dim);
            // Between products, so that rounding moves none across.
            std::vector<float> const least = uniform(count, 8, -1, 1);
            std::vector<float> got(static_cast<std::size_t>(count), 0.5F), want = got;
            std::vector<float> scratch(static_cast<std::size_t>(simd::gram_scratch<Arch>(dim)));
            simd::gram_reaching<Arch>(count, rows.view(), dim, inverse, least, got, scratch);
            simd::scalar::gram_reaching(count, rows.view(), dim, inverse, least, want);
            for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(want[i]).epsilon(1e-4).margin(1e-3));
        }
    }
}

}  // namespace
}  // namespace terse::test
