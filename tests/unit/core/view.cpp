#include <array>
#include <numeric>
#include <type_traits>

#include <terse/core/tensor.hpp>
#include <terse/core/view.hpp>

#include "support.hpp"

using terse::token;

namespace {

// 0, 1, 2, ...: a view's rows show where it points.
template <std::size_t N>
std::array<float, N> counting() {
    std::array<float, N> a{};
    std::iota(a.begin(), a.end(), 0.0F);
    return a;
}

}  // namespace

TEST_CASE("views over raw memory", "[core][view]") {
    auto a = counting<24>();

    auto const packed = terse::view(a.data(), 6, 4);
    CHECK(packed.stride == 4);
    CHECK(*packed.row(5) == 20);

    auto const padded = terse::view(a.data(), 3, 5, 8);
    CHECK(*padded.row(2) == 16);
    CHECK(terse::extent(padded).size() == 21);
    CHECK(terse::extent(terse::view(a.data(), 0, 5)).empty());
    CHECK(terse::extent(terse::view(a.data(), 5, 0)).empty());

    *packed.row(1) = 100;
    CHECK(a[4] == 100);
    terse::tokens_view<float> const read_only = packed;
    CHECK(read_only.row(1) == &a[4]);
    static_assert(!std::is_convertible_v<terse::tokens_view<float>, terse::tokens_span<float>>);
}

TEST_CASE("every n-th row of a view", "[core][view]") {
    auto const a = counting<14>();
    auto const x = terse::view(a.data(), 7, 2);
    auto const even = x.every(2), odd = x.every(2, 1);
    CHECK(even.tokens == 4);
    CHECK(*even.row(3) == 12);
    CHECK(odd.tokens == 3);
    CHECK(*odd.row(2) == 10);
    CHECK(x.every(10, 6).tokens == 1);
    CHECK(x.every(2, 7).tokens == 0);
}

TEST_CASE("a view of a head, and its Eigen map", "[core][view]") {
    auto const a = counting<24>();

    auto const heads = terse::head_major(a.data(), 2, 3, 4);
    CHECK(*heads.row(1, 2) == 20);
    CHECK(heads.head(1).map()(2, 3) == 23);

    auto const tokens = terse::token_major(a.data(), 2, 3, 4);
    CHECK(*tokens.row(1, 2) == 20);  // ((2 * 2) + 1) * 4
    CHECK(*tokens.row(0, 2) == 16);
    CHECK(*tokens.row(1, 0) == 4);
    CHECK(tokens.head(1).map().row(1).sum() == 12 + 13 + 14 + 15);
    CHECK(terse::extent(tokens.head(1)).size() == 20);
}

TEST_CASE("views of Eigen matrices and maps", "[core][view]") {
    terse::row_major<float> m(3, 4);
    std::iota(m.data(), m.data() + m.size(), 0.0F);

    auto const writable = terse::view(m);
    static_assert(std::is_same_v<decltype(writable), terse::tokens_span<float> const>);
    CHECK(writable.tokens == 3);
    CHECK(writable.dim == 4);
    CHECK(*writable.row(2) == 8);
    static_assert(std::is_same_v<decltype(terse::view(std::as_const(m))), terse::tokens_view<float>>);

    using map = Eigen::Map<terse::row_major<float>, Eigen::Unaligned, Eigen::OuterStride<>>;
    auto const strided = terse::view(map{m.data(), 2, 3, Eigen::OuterStride<>{8}});
    static_assert(std::is_same_v<decltype(strided), terse::tokens_span<float> const>);
    CHECK(strided.stride == 8);
    CHECK(strided.dim == 3);
    CHECK(*strided.row(1) == 8);

    using const_map = Eigen::Map<terse::row_major<float> const>;
    auto const fixed = terse::view(const_map{m.data(), 3, 4});
    static_assert(std::is_same_v<decltype(fixed), terse::tokens_view<float> const>);
    CHECK(*fixed.row(2) == 8);

    Eigen::Matrix<float, 2, 3, Eigen::RowMajor> sized = Eigen::Matrix<float, 2, 3, Eigen::RowMajor>::Ones();
    CHECK(terse::view(sized).stride == 3);
}

TEST_CASE("views of Eigen tensor maps", "[core][view][tensor]") {
    auto a = counting<24>();

    Eigen::TensorMap<Eigen::Tensor<float, 2, Eigen::RowMajor>> const two{a.data(), 6, 4};
    auto const x = terse::view(two);
    static_assert(std::is_same_v<decltype(x), terse::tokens_span<float> const>);
    CHECK(x.tokens == 6);
    CHECK(x.dim == 4);
    CHECK(*x.row(5) == 20);

    Eigen::TensorMap<Eigen::Tensor<float, 3, Eigen::RowMajor> const> const three{a.data(), 2, 3, 4};
    auto const h = terse::view(three);
    static_assert(std::is_same_v<decltype(h), terse::heads_view<float> const>);
    CHECK(*h.row(1, 2) == three(1, 2, 0));
}

TEST_CASE("a paged view finds rows through its block table", "[core][view]") {
    auto const a = counting<48>();  // 4 blocks of [heads 2, tokens 2, dim 3]
    std::array<token, 3> const blocks{2, 0, 3};
    terse::paged_view<float> const cache{.data = a.data(),
                                         .blocks = blocks,
                                         .heads = 2,
                                         .tokens = 5,
                                         .dim = 3,
                                         .block_tokens = 2,
                                         .block_stride = 12,
                                         .head_stride = 6,
                                         .token_stride = 3};
    CHECK(*cache.row(0, 0) == 24);
    CHECK(*cache.row(1, 1) == 33);
    CHECK(*cache.row(0, 3) == 3);
    CHECK(*cache.row(1, 4) == 42);
    static_assert(terse::cache_rows<terse::paged_view<float>>);
}

TEST_CASE("a transposed view has channels contiguous", "[core][view]") {
    auto const a = counting<24>();  // [heads 2, dim 3, tokens 4]
    terse::transposed_view<float> const values{a.data(), 2, 4, 3, 12, 4};
    CHECK(values.row(1, 2)[0] == 14);
    CHECK(values.row(1, 2)[2] == 22);
    CHECK(values.channel(0, 1) == a.data() + 4);
    static_assert(terse::cache_rows<terse::heads_view<terse::half>>);
    static_assert(!terse::cache_rows<terse::transposed_view<float>>);
}

TEST_CASE("overlap sees a shared byte and no less", "[core][view]") {
    std::array<int, 8> a{};
    std::span<int> const all{a};
    CHECK(terse::overlap(all, all));
    CHECK(terse::overlap(all.first(5), all.last(4)));
    CHECK_FALSE(terse::overlap(all.first(4), all.last(4)));
    CHECK_FALSE(terse::overlap(all.first(0), all));
}
