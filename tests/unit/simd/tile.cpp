#include <vector>

#include <catch2/catch.hpp>

#include <terse/simd/tile.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {

TEMPLATE_LIST_TEST_CASE("a tile's rows are floats, wherever they lie", "[simd][tile]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    constexpr index page = 4096 / static_cast<index>(sizeof(float));
    for (index const dim : samples::lengths<Arch>()) {
        for (index const padding : {index{0}, index{3}, page - dim}) {  // the last: every row on a page of its own
            for (index const count : {index{1}, simd::chunk_rows<Arch>}) {
                CAPTURE(dim, padding, count);
                samples::rows<T> x(count + 2, dim, 3, padding);
                index const stride = simd::copied_row(dim);
                CHECK(stride >= dim);
                struct alignas(64) line {
                    float x[16];
                };
                std::vector<line> memory(static_cast<std::size_t>(count * stride / 16 + 1), line{{-2}});
                simd::broadcast_rows<Arch> const rows(2, count, x.view(), dim, memory.front().x);
                for (index r = 0; r < count; ++r)
                    for (index i = 0; i < dim; ++i) REQUIRE(rows[r][i] == static_cast<float>(x(2 + r)[i]));
                CHECK(memory.back().x[0] == -2);
                bool const lie = std::is_same_v<T, float> &&
                                 (simd::tile_rows<Arch> <= 8 || count == 1 || (dim + padding) % page != 0);
                if constexpr (std::is_same_v<T, float>) CHECK((rows[0] == x(2)) == lie);
            }
        }
    }
}

}  // namespace terse::test
