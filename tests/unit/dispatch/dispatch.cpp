// Every level that this processor runs gives what the same kernels give where they are compiled for it, bit for bit.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/dispatch.hpp>

#include "dispatch/instantiate.hpp"
#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

using dispatch::level;
using samples::rows;

constexpr index left_count = 53, right_count = 41;

/// What all kernels give on fixed inputs.
struct results {
    std::vector<float> inverse, best, columns;
    std::vector<token> partner, kept;
    std::vector<float> gathered, compacted, sum;

    [[nodiscard]] bool operator==(results const&) const = default;
};

template <class T>
std::vector<float> widen(std::vector<T> const& x) {
    std::vector<float> wide(x.size());
    std::transform(x.begin(), x.end(), wide.begin(), [](T v) { return static_cast<float>(v); });
    return wide;
}

template <class T>
results run(dispatch::kernels<T> const& k, index dim) {
    rows<T> const left(left_count, dim, 1, 3, 1), right(right_count, dim, 2);
    auto const view = [](rows<T> const& x) { return dispatch::rows<T const>{x.data.data() + x.first, x.stride}; };
    results r;
    std::vector<float> scratch(static_cast<std::size_t>(k.nearest_scratch(left_count, dim)));
    r.inverse.resize(left_count), r.best.resize(left_count), r.partner.resize(left_count);
    k.inverse_norms(left_count, view(left), dim, r.inverse);
    k.nearest(left_count, view(left), right_count, view(right), dim, r.best, r.partner, scratch);

    // Two heads of 20 queries, and one query alone.
    r.columns.assign(2 * right_count, 0.5F);
    scratch.resize(static_cast<std::size_t>(k.softmax_columns_scratch(2, 20, right_count, dim)));
    k.softmax_columns(2, 20, view(left), 25 * left.stride, right_count, view(right), dim, 0.3F, 20, 8, r.columns,
                      right_count, right_count, scratch);
    scratch.resize(static_cast<std::size_t>(k.softmax_columns_scratch(1, 1, right_count, dim)));
    k.softmax_columns(1, 1, view(left), 0, right_count, view(right), dim, 0.3F, 0, right_count, r.columns, right_count,
                      right_count, scratch);

    std::vector<std::int32_t> ranks(right_count);
    r.kept.resize(17);
    k.top_k(std::span<float const>(r.columns).first(right_count), r.kept, 0, ranks);
    std::vector<T> out(r.kept.size() * static_cast<std::size_t>(dim) + 1);
    k.gather_rows(view(right), r.kept, {out.data(), dim}, dim);
    r.gathered = widen(out);
    auto cache = right;
    k.compact_rows({cache.data.data(), cache.stride}, r.kept, dim);
    r.compacted = widen(cache.data);
    std::vector<float> const weights(r.kept.size(), 0.25F);
    std::vector<T> sum(static_cast<std::size_t>(dim));
    k.sum_rows(view(right), r.kept, weights, 3, sum.data(), dim);
    r.sum = widen(sum);
    return r;
}

/// The level of this file's architecture.
level own_level() {
    if constexpr (simd::lanes<samples::best> == 16) return level::avx512;
    if constexpr (simd::lanes<samples::best> == 8) return level::avx2;
    return xsimd::sse2::supported() ? level::sse2 : level::neon64;
}

}  // namespace

TEMPLATE_TEST_CASE("every level that runs here agrees with every other", "[dispatch]", float, half, bfloat16) {
    // No level has products of pairs of bfloat16 as one instruction, which rounds otherwise; this file may.
    bool const in_pairs = std::is_same_v<TestType, bfloat16> && simd::has_dot_pairs<samples::best>;
    for (index const dim : {1, 7, 64, 130}) {
        auto const expected = run(dispatch::instantiate<samples::best, TestType>(), dim);
        for (level const which : dispatch::levels) {
            if (!dispatch::supported(which)) continue;
            CAPTURE(static_cast<int>(which), dim);
            auto const got = run(dispatch::kernels_of<TestType>(which), dim);
            CHECK(got.partner == expected.partner);
            CHECK(got.kept == expected.kept);
            CHECK(got.gathered == expected.gathered);
            CHECK(got.compacted == expected.compacted);
            for (std::size_t i = 0; i < got.columns.size(); ++i) CHECK(got.columns[i] == Approx(expected.columns[i]));
            for (std::size_t i = 0; i < got.best.size(); ++i)
                CHECK(got.best[i] == Approx(expected.best[i]).margin(1e-6));
            if (which == own_level() && !in_pairs) CHECK(got == expected);
        }
    }
}

TEST_CASE("every level's kernels by hand", "[dispatch]") {
    for (level const which : dispatch::levels) {
        if (!dispatch::supported(which)) continue;
        CAPTURE(static_cast<int>(which));
        auto const& k = dispatch::kernels_of<float>(which);
        std::vector<float> rows{3, 4, 9, 0, 0, 9, 0, 2, 9};  // three rows of two, each with a stranger behind it
        std::vector<float> inverse(3), best(1), scratch(static_cast<std::size_t>(k.nearest_scratch(1, 2)));
        dispatch::rows<float const> const view{rows.data(), 3};
        k.inverse_norms(3, view, 2, inverse);
        CHECK(inverse == std::vector<float>{1 / 5.0F, 0, 1 / 2.0F});
        std::vector<token> partner(1);
        k.nearest(1, view, 2, {rows.data() + 3, 3}, 2, best, partner, scratch);
        CHECK(partner[0] == 1);
        CHECK(best[0] == Approx(0.8F));

        // Equal keys share what is seen: two keys, then three.
        std::vector<float> const same(6, 1.0F);
        std::vector<float> columns(3);
        scratch.resize(static_cast<std::size_t>(k.softmax_columns_scratch(1, 2, 3, 2)));
        k.softmax_columns(1, 2, {same.data(), 2}, 0, 3, {same.data(), 2}, 2, 1, 0, 2, columns, 3, 3, scratch);
        CHECK(columns[0] == Approx(5.0F / 6));
        CHECK(columns[2] == Approx(1.0F / 3));

        std::vector<token> kept(2);
        std::vector<std::int32_t> ranks(4);
        k.top_k(std::vector<float>{1, 7, 7, 3}, kept, 10, ranks);
        CHECK(kept == std::vector<token>{11, 12});
        std::vector<token> const sources{0, 2};
        std::vector<float> out(4);
        k.gather_rows(view, sources, {out.data(), 2}, 2);
        CHECK(out == std::vector<float>{3, 4, 0, 2});
        k.sum_rows(view, sources, std::vector<float>{1, 2}, 4, out.data(), 2);
        CHECK(out == std::vector<float>{0.75F, 2, 0, 2});
        k.compact_rows({rows.data(), 3}, sources, 2);
        CHECK(rows == std::vector<float>{3, 4, 9, 0, 2, 9, 0, 2, 9});
    }
}

TEST_CASE("the best level is the last that runs", "[dispatch]") {
    REQUIRE(dispatch::supported(dispatch::best()));
    for (level const which : dispatch::levels)
        if (dispatch::supported(which)) CHECK(which <= dispatch::best());
    CHECK(dispatch::supported(level::neon64) != dispatch::supported(level::sse2));
    CHECK(dispatch::supported(own_level()));
}

}  // namespace terse::test
