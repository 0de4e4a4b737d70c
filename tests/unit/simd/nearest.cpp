#include <catch2/catch.hpp>

#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

struct matched {
    std::vector<float> best;
    std::vector<token> partner;
};

template <class Arch, bool ExcludeSelf = false, class Left, class Right>
matched match(index begin, index end, Left left, index right_count, Right right, index dim) {
    std::vector<float> scratch(static_cast<std::size_t>(simd::nearest_scratch<Arch>(end - begin, dim)));
    auto const n = static_cast<std::size_t>(end - begin);
    matched m{std::vector<float>(n), std::vector<token>(n)};
    simd::nearest<Arch, ExcludeSelf>(begin, end, left, right_count, right, dim, m.best, m.partner, scratch);
    return m;
}

template <bool ExcludeSelf = false, class Left, class Right>
matched expected(index begin, index end, Left left, index right_count, Right right, index dim) {
    auto const n = static_cast<std::size_t>(end - begin);
    matched m{std::vector<float>(n), std::vector<token>(n)};
    simd::scalar::nearest<ExcludeSelf>(begin, end, left, right_count, right, dim, m.best, m.partner);
    return m;
}

/// Random rows in floating point have no exact ties, but near ones: then either partner will do.
void check_same(matched const& a, matched const& b) {
    for (std::size_t i = 0; i < a.best.size(); ++i) {
        CAPTURE(i, a.best[i], b.best[i]);
        if (b.partner[i] < 0)
            CHECK(a.best[i] == b.best[i]);
        else
            CHECK(a.best[i] == Approx(b.best[i]).margin(2e-6));
        CHECK(a.partner[i] == b.partner[i]);
    }
}

TEMPLATE_LIST_TEST_CASE("the row of highest cosine, for every shape around a tile", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>, tile = simd::tile_rows<Arch>, chunk = simd::chunk_rows<Arch>;
    for (index const dim : samples::lengths<Arch>()) {
        if (dim < 3) continue;  // in one dimension every cosine is 1 or -1
        for (index const left_count : {index{0}, index{1}, index{3}, v - 1, v, v + 1, 2 * v, 5 * v + 3}) {
            for (index const right_count :
                 {index{0}, index{1}, tile - 1, tile, tile + 1, chunk - 1, chunk, chunk + 1, 2 * chunk + tile - 1}) {
                CAPTURE(dim, left_count, right_count);
                samples::rows<T> const left(left_count, dim, 1, 3, 1), right(right_count, dim, 2, 1, 2);
                index const begin = left_count / 3;
                check_same(match<Arch>(begin, left_count, left.view(), right_count, right.view(), dim),
                           expected(begin, left_count, left.view(), right_count, right.view(), dim));
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("more rows than are packed at once", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    index const dim = 100, group = simd::nearest_group<Arch>(max_tokens, dim), count = 2 * group + 3;
    samples::rows<typename TestType::value> const rows(count, dim, 3);
    check_same(match<Arch, true>(0, count, rows.view(), count, rows.view(), dim),
               expected<true>(0, count, rows.view(), count, rows.view(), dim));
}

TEMPLATE_LIST_TEST_CASE("more channels than a tile takes at once", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const dim : {simd::tile_depth<Arch>, simd::tile_depth<Arch> + 1, 2 * simd::tile_depth<Arch> + 7}) {
        CAPTURE(dim);
        samples::rows<T> const left(70, dim, 9), right(65, dim, 10);
        check_same(match<Arch>(0, 70, left.view(), 65, right.view(), dim),
                   expected(0, 70, left.view(), 65, right.view(), dim));
    }
}

TEMPLATE_LIST_TEST_CASE("a row is not its own partner where that is asked", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    samples::rows<typename TestType::value> const rows(71, 16, 4);
    auto const self = match<Arch>(5, 71, rows.view(), 71, rows.view(), 16);
    for (std::size_t i = 0; i < self.partner.size(); ++i) CHECK(self.partner[i] == static_cast<token>(i) + 5);
    check_same(match<Arch, true>(5, 71, rows.view(), 71, rows.view(), 16),
               expected<true>(5, 71, rows.view(), 71, rows.view(), 16));
    auto const alone = match<Arch, true>(0, 1, rows.view(), 1, rows.view(), 16);
    CHECK(alone.partner[0] == -1);
    CHECK(alone.best[0] == -infinity);
}

TEMPLATE_LIST_TEST_CASE("of equally similar rows the first is the partner", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    samples::rows<typename TestType::value> rows(50, 20, 5);
    for (index const j : {index{7}, index{30}, index{31}, index{49}}) std::copy_n(rows(6), 20, rows(j));
    auto const m = match<Arch>(0, 50, rows.view(), 50, rows.view(), 20);
    for (std::size_t const i : {6U, 7U, 30U, 31U, 49U}) CHECK(m.partner[i] == 6);
}

TEMPLATE_LIST_TEST_CASE("NaN never wins, a zero row is similar to nothing", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const dim = 11;
    for (float const bad : {not_a_number, infinity, -infinity}) {
        CAPTURE(bad);
        samples::rows<T> left(40, dim, 6), right(30, dim, 7);
        left(2)[3] = right(0)[dim - 1] = right(17)[0] = static_cast<T>(bad);
        std::fill_n(left(9), dim, static_cast<T>(0.0F));
        std::fill_n(right(1), dim, static_cast<T>(0.0F));
        auto const m = match<Arch>(0, 40, left.view(), 30, right.view(), dim);
        check_same(m, expected(0, 40, left.view(), 30, right.view(), dim));
        CHECK(m.partner[2] == -1);
        CHECK(m.best[2] == -infinity);
        CHECK(m.best[9] == 0.0F);
        CHECK(m.partner[9] == 1);
        for (token const p : m.partner) CHECK((p != 0 && p != 17));
    }
}

TEMPLATE_LIST_TEST_CASE("inverse norms", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>;
    for (index const dim : samples::lengths<Arch>()) {
        for (index const count : {index{0}, index{1}, index{3}, v - 1, v, v + 1, 2 * v + 3}) {
            CAPTURE(dim, count);
            samples::rows<T> const rows(count, dim, 8, 3, 1);
            std::vector<float> inverse(static_cast<std::size_t>(count)), plain(inverse);
            simd::inverse_norms<Arch>(count, rows.view(), dim, inverse);
            simd::scalar::inverse_norms(count, rows.view(), dim, plain);
            for (std::size_t i = 0; i < inverse.size(); ++i) CHECK(inverse[i] == Approx(plain[i]).epsilon(1e-6));
        }
    }
    samples::rows<T> rows(3, 9, 8);
    std::fill_n(rows(0), 9, static_cast<T>(0.0F));
    std::fill_n(rows(1), 9, static_cast<T>(2.0F));
    rows(2)[8] = static_cast<T>(infinity);
    std::vector<float> inverse(3);
    simd::inverse_norms<Arch>(3, rows.view(), 9, inverse);
    CHECK(inverse[0] == 0.0F);
    CHECK(inverse[1] == Approx(1.0 / 6.0));
    CHECK(inverse[2] == 0.0F);
}

}  // namespace
}  // namespace terse::test
