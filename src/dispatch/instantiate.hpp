// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a translation unit of one instruction set instantiates. Its functions must not become the program's copies of
// inline functions that others use too, so that nothing here leaves the unit but one table:
// - `Arch` is a type of the unit's own, without linkage, and so are all kernels on it;
// - what does not depend on it, the standard library's and Eigen's, is small and inlined (package.dispatch checks).
#include <terse/dispatch.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/softmax_columns.hpp>
#include <terse/simd/top_k.hpp>

#include "level_kernels.hpp"

namespace terse::dispatch {

template <class Arch, real T>
struct by_row : rows<T const> {
    [[nodiscard]] T const* operator()(index i) const noexcept { return this->data + i * this->stride; }
};

template <class Arch, real T>
struct by_head : rows<T const> {
    index heads_apart = 0;
    [[nodiscard]] T const* operator()(index h, index i) const noexcept {
        return this->data + h * heads_apart + i * this->stride;
    }
};

template <class Arch, real T>
[[nodiscard]] constexpr kernels<T> instantiate() noexcept {
    using view = by_row<Arch, T>;
    return {
        .inverse_norms =
            [](index count, rows<T const> row, index dim, std::span<float> inverse) noexcept {
                simd::inverse_norms<Arch>(count, view{row}, dim, inverse);
            },
        .nearest =
            [](index left_count, rows<T const> left, index right_count, rows<T const> right, index dim,
               std::span<float> best, std::span<token> partner, std::span<float> scratch) noexcept {
                simd::nearest<Arch>(0, left_count, view{left}, right_count, view{right}, dim, best, partner, scratch);
            },
        .nearest_scratch = [](index left_count,
                              index dim) noexcept { return simd::nearest_scratch<Arch>(left_count, dim); },
        .softmax_columns =
            [](index heads, index queries, rows<T const> query, index query_heads, index keys, rows<T const> key,
               index dim, float scale, float soft_cap, index visible, std::span<float> columns, index stride,
               index wanted, std::span<float> scratch) noexcept {
                simd::softmax_columns<Arch>({heads, queries, keys, dim, scale, soft_cap},
                                            by_head<Arch, T>{query, query_heads}, view{key}, visible,
                                            {columns, stride, wanted}, scratch);
            },
        .softmax_columns_scratch =
            [](index heads, index queries, index keys, index dim) noexcept {
                return simd::softmax_columns_scratch<Arch>({heads, queries, keys, dim});
            },
        .top_k = [](std::span<float const> scores, std::span<token> kept, token first,
                    std::span<std::int32_t> scratch) noexcept { simd::top_k<Arch>(scores, kept, first, scratch); },
        .gather_rows =
            [](rows<T const> from, std::span<token const> sources, rows<T> to, index dim) noexcept {
                simd::gather_rows<Arch>(from.data, from.stride, sources, to.data, to.stride, dim);
            },
        .compact_rows = [](rows<T> row, std::span<token const> sources,
                           index dim) noexcept { simd::compact_rows<Arch>(row.data, row.stride, sources, dim); },
        .sum_rows =
            [](rows<T const> row, std::span<token const> sources, std::span<float const> weights, float divisor, T* out,
               index dim) noexcept { simd::sum_rows<Arch>(row.data, row.stride, sources, weights, divisor, out, dim); },
    };
}

template <class Arch>
inline constexpr level_kernels all_kernels{instantiate<Arch, float>(), instantiate<Arch, half>(),
                                           instantiate<Arch, bfloat16>()};

}  // namespace terse::dispatch
