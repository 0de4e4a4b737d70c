#include <cmath>

#include <catch2/catch.hpp>

#include <terse/simd/leverage.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {
/// Values on a cache line.
struct aligned {
    std::vector<float> memory;
    float* data;

    explicit aligned(index n)
        : memory(static_cast<std::size_t>(n + simd::alignment_slack), not_a_number),
          data(simd::align(memory, std::ssize(memory))) {}
};

/// A lower triangle with a large diagonal.
std::vector<double> triangle(index n) {
    auto const values = uniform(n * n, 8);
    std::vector<double> matrix(values.size(), 1e9);  // what is above must not be read
    for (index i = 0; i < n; ++i)
        for (index j = 0; j <= i; ++j)
            matrix[static_cast<std::size_t>(i * n + j)] =
                static_cast<double>(values[static_cast<std::size_t>(i * n + j)]) + (i == j ? 4 : 0);
    return matrix;
}
}  // namespace

TEMPLATE_TEST_CASE("projected rows stand across lanes, zeros beyond", "[simd][leverage]", samples::best,
                   samples::base) {
    index const width = simd::projected_width<TestType>;
    for (index const dim : {index{1}, index{7}, index{64}, index{300}}) {
        for (index const columns : {index{1}, index{6}, index{13}, index{48}, index{60}}) {
            for (index const count : {index{1}, width - 1, width}) {
                CAPTURE(dim, columns, count);
                samples::rows<float> const x(count, dim, 1, 2), sketch(columns, dim, 2);
                aligned out(columns * width + 1);
                out.data[columns * width] = 42;
                std::vector<float> scratch(static_cast<std::size_t>(simd::project_scratch<TestType>(dim)));
                simd::project<TestType>(x.view(), count, dim, sketch.data.data(), columns, out.data, scratch);
                CHECK(out.data[columns * width] == 42);
                bool close = true;
                for (index c = 0; c < columns; ++c)
                    for (index lane = 0; lane < width; ++lane) {
                        float const want =
                            lane < count ? simd::scalar::dot(x.view()(lane), sketch.view()(c), dim) : 0.0F;
                        close = close && std::abs(out.data[c * width + lane] - want) <= 1e-6F * static_cast<float>(dim);
                    }
                CHECK(close);
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("differences are in float", "[simd][leverage]", samples::kernels) {
    using T = typename TestType::value;
    for (index const n : samples::lengths<typename TestType::Arch>()) {
        samples::rows<T> const x(1, n, 5, 0, 1);
        auto const y = uniform(n, 6);
        std::vector<float> out(static_cast<std::size_t>(n + 1), 42), expected = out;
        simd::subtract<typename TestType::Arch>(x.view()(0), y.data(), out.data(), n);
        simd::scalar::subtract(x.view()(0), y.data(), expected.data(), n);
        CHECK(out == expected);
    }
}

TEMPLATE_TEST_CASE("Gram matrices in double", "[simd][leverage]", samples::best, samples::base) {
    for (index const columns : {index{1}, index{2}, index{3}, index{4}, index{5}, index{12}, index{47}}) {
        for (index const panels : {index{0}, index{1}, index{5}}) {
            CAPTURE(columns, panels);
            index const width = simd::projected_width<TestType>;
            auto const x = uniform(panels * columns * width, 3);
            std::vector<double> gram(static_cast<std::size_t>(columns * columns), 0.5), expected = gram;
            simd::add_gram<TestType>(panels, x.data(), columns, width, gram.data());
            simd::scalar::add_gram(panels, x.data(), columns, width, expected.data());
            for (std::size_t i = 0; i < gram.size(); ++i)
                CHECK(gram[i] == Approx(expected[i]).epsilon(1e-13).margin(1e-13));
        }
    }
}

TEST_CASE("the inverse of a Cholesky factor", "[simd][leverage]") {
    std::vector<double> m = {4, 99, 2, 5};  // L = [2, 0; 1, 2]
    REQUIRE(simd::invert_cholesky(m.data(), 2));
    CHECK(m == std::vector<double>{0.5, 99, -0.25, 0.5});
    std::vector<double> indefinite = {1, 0, 2, 1}, empty = {0}, broken = {std::nan("")}, endless = {INFINITY};
    CHECK_FALSE(simd::invert_cholesky(indefinite.data(), 2));
    CHECK_FALSE(simd::invert_cholesky(empty.data(), 1));
    CHECK_FALSE(simd::invert_cholesky(broken.data(), 1));
    CHECK_FALSE(simd::invert_cholesky(endless.data(), 1));

    // W G W^T = 1 for the Gram matrix G of any triangle.
    index const n = 20;
    auto const t = triangle(n);
    auto const at = [](std::vector<double> const& x, index i, index j) {
        return x[static_cast<std::size_t>(i * n + j)];
    };
    std::vector<double> g(t.size());
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < n; ++j)
            for (index k = 0; k <= std::min(i, j); ++k)
                g[static_cast<std::size_t>(i * n + j)] += at(t, i, k) * at(t, j, k);
    auto w = g;
    REQUIRE(simd::invert_cholesky(w.data(), n));
    for (index i = 0; i < n; ++i)
        for (index j = 0; j < n; ++j) {
            double sum = 0;
            for (index a = 0; a <= i; ++a)
                for (index b = 0; b <= j; ++b) sum += at(w, i, a) * at(g, a, b) * at(w, j, b);
            CHECK(sum == Approx(i == j ? 1 : 0).margin(1e-10));
        }
}

TEMPLATE_TEST_CASE("whitened norms in double", "[simd][leverage]", samples::best, samples::base) {
    index const width = simd::projected_width<TestType>;
    for (index const columns : {index{1}, index{5}, index{6}, index{7}, index{12}, index{47}}) {
        CAPTURE(columns);
        auto const x = uniform(columns * width, 3);
        auto const matrix = triangle(columns);
        std::vector<double> packed(static_cast<std::size_t>(simd::triangle_size(columns)), 7),
            scratch(static_cast<std::size_t>(16 * columns));
        simd::pack_triangle(matrix.data(), columns, packed.data());
        std::vector<float> out(static_cast<std::size_t>(width)), twin = out;
        simd::whitened_norms<TestType>(x.data(), columns, width, packed.data(), out.data(), scratch.data());
        simd::scalar::whitened_norms(x.data(), columns, width, packed.data(), twin.data());
        for (index lane = 0; lane < width; ++lane) {
            double total = 0;
            for (index i = 0; i < columns; ++i) {
                double sum = 0;
                for (index j = 0; j <= i; ++j)
                    sum += matrix[static_cast<std::size_t>(i * columns + j)] *
                           static_cast<double>(x[static_cast<std::size_t>(j * width + lane)]);
                total += sum * sum;
            }
            CHECK(out[static_cast<std::size_t>(lane)] == Approx(total).epsilon(1e-6));
            CHECK(twin[static_cast<std::size_t>(lane)] == Approx(total).epsilon(1e-6));
        }
    }
}

}  // namespace terse::test
