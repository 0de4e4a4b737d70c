#include <cmath>
#include <cstring>

#include <catch2/catch.hpp>

#include <terse/simd/quadratic.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

/// Symmetric matrices, their linear parts, and the forms of both.
template <class Arch>
struct forms {
    index dim, count, size = simd::form_size(dim);
    std::vector<std::vector<float>> matrices, linear;
    std::vector<float> made = std::vector<float>(static_cast<std::size_t>(count * size), not_a_number);

    forms(index channels, index how_many) : dim(channels), count(how_many) {
        for (index f = 0; f < count; ++f) {
            auto m = uniform(dim * dim, static_cast<unsigned>(3 + f));
            for (index i = 0; i < dim; ++i)
                for (index j = 0; j < i; ++j)
                    m[static_cast<std::size_t>(i * dim + j)] = m[static_cast<std::size_t>(j * dim + i)];
            matrices.push_back(m);
            linear.push_back(uniform(dim, static_cast<unsigned>(50 + f)));
            simd::make_form(m.data(), linear.back().data(), dim, made.data() + f * size);
        }
    }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("quadratic forms agree with plain loops", "[simd][quadratic]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const width = simd::panel_width<Arch>, tile = simd::tile_rows<Arch>;
    for (index const dim : {index{1}, tile - 1, tile, tile + 1, 3 * tile + 1, index{128}}) {
        for (index const count : {index{1}, index{2}, width / 2, width / 2 + 1, width, 3 * width + 1}) {
            CAPTURE(dim, count);
            forms<Arch> const f(dim, 3);
            samples::rows<T> const x(count, dim, 7, 3, 1);
            std::vector<float> scratch(static_cast<std::size_t>(simd::quadratic_scratch<Arch>(dim)), not_a_number);
            index const stride = count + 2;
            std::vector<float> out(static_cast<std::size_t>(3 * stride), 77.0F), expected(out);
            simd::quadratic_forms<Arch>(0, count, x.view(), dim, 3, f.made.data(), out.data(), stride, scratch);
            for (std::size_t k = 0; k < 3; ++k)
                simd::scalar::quadratic_form(count, x.view(), dim, f.matrices[k].data(), f.linear[k].data(),
                                             expected.data() + static_cast<index>(k) * stride);
            bool close = true;
            for (std::size_t i = 0; i < out.size(); ++i)
                close = close && std::abs(out[i] - expected[i]) <= 2e-6F * static_cast<float>(dim * dim);
            CHECK(close);

            // Of any rows the same bits, whatever stands beside them; but of SSE2's separate products and sums a compiler
            // for more than SSE2 may fuse some.
            if (count < 2 || !std::is_same_v<Arch, samples::best>) continue;
            std::vector<float> part(static_cast<std::size_t>(3 * stride), 77.0F);
            simd::quadratic_forms<Arch>(1, count, x.view(), dim, 3, f.made.data(), part.data(), stride, scratch);
            for (index k = 0; k < 3; ++k)
                CHECK(std::memcmp(part.data() + k * stride, out.data() + k * stride + 1,
                                  sizeof(float) * static_cast<std::size_t>(count - 1)) == 0);
        }
    }
}

TEMPLATE_TEST_CASE("a quadratic form by hand", "[simd][quadratic]", samples::best, samples::base) {
    std::vector<float> form(static_cast<std::size_t>(simd::form_size(2)));
    std::vector<float> const m = {2, 3, 3, 5}, b = {7, 11}, x = {1, 2};
    simd::make_form(m.data(), b.data(), 2, form.data());
    std::vector<float> scratch(static_cast<std::size_t>(simd::quadratic_scratch<TestType>(2)));
    float out = 0;
    simd::quadratic_forms<TestType>(
        0, 1, [&](index) { return x.data(); }, 2, 1, form.data(), &out, 1, scratch);
    CHECK(out == 2 + 2 * 2 * 3 + 4 * 5 + 7 + 22);
}

}  // namespace terse::test
