// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/core/types.hpp>

/// The hot kernels for every instruction set in one library, chosen when the program runs: for engines that ship one
/// binary. Link terse::dispatch (CMake option TERSE_DISPATCH). Headers alone, terse's kernels and policies use what the
/// including file is compiled for; an engine that wants whole policies per processor builds its own shared library per
/// instruction set.
namespace terse::dispatch {

/// An instruction set that this library may hold.
enum class level {
    sse2,    ///< every x86-64
    avx2,    ///< AVX2, FMA and F16C
    avx512,  ///< AVX-512 F, CD, DQ, BW and VL, and avx2's
    neon64,  ///< every AArch64
};
inline constexpr level levels[] = {level::sse2, level::avx2, level::avx512, level::neon64};

/// Rows of contiguous values at one distance from each other, in elements.
template <real T>
struct rows {
    T* data = nullptr;
    index stride = 0;
};

/// One instruction set's kernels, for rows of T. Sums are in float. No call allocates, or checks what it is given: the
/// preconditions, ties and NaN rules are those of the kernels of the same names in <terse/simd/...>.
template <real T>
struct kernels {
    /// inverse[i] = 1 / max(|row i|, 1e-12) for i < count; 0 for a zero row.
    void (*inverse_norms)(index count, rows<T const> row, index dim, std::span<float> inverse) noexcept;

    /// For each left row the right row of highest cosine: best and partner, [left_count]. The lowest index of equals;
    /// -infinity and -1 where nothing compares. `scratch` holds nearest_scratch(left_count, dim) floats.
    void (*nearest)(index left_count, rows<T const> left, index right_count, rows<T const> right, index dim,
                    std::span<float> best, std::span<token> partner, std::span<float> scratch) noexcept;
    index (*nearest_scratch)(index left_count, index dim) noexcept;

    /// columns[h][j] += what key j < wanted receives of head h's queries, which start `query_heads` elements apart and
    /// read the same keys: softmax over keys of scale * <q, k>. Query i sees the first visible + i keys; soft_cap > 0
    /// caps logits. Columns of a head are `stride` from the next's. `scratch` holds
    /// softmax_columns_scratch(heads, queries, keys, dim) floats.
    void (*softmax_columns)(index heads, index queries, rows<T const> query, index query_heads, index keys,
                            rows<T const> key, index dim, float scale, float soft_cap, index visible,
                            std::span<float> columns, index stride, index wanted, std::span<float> scratch) noexcept;
    index (*softmax_columns_scratch)(index heads, index queries, index keys, index dim) noexcept;

    /// The kept.size() highest scores as ascending positions first, first + 1, ...; the lower position of equals, NaN
    /// last. `scratch` holds scores.size() ranks.
    void (*top_k)(std::span<float const> scores, std::span<token> kept, token first,
                  std::span<std::int32_t> scratch) noexcept;

    /// Row i of `to` becomes row sources[i] of `from`.
    void (*gather_rows)(rows<T const> from, std::span<token const> sources, rows<T> to, index dim) noexcept;

    /// Row i becomes row sources[i], in place; sources ascend.
    void (*compact_rows)(rows<T> row, std::span<token const> sources, index dim) noexcept;

    /// out = the sum of weights[k] * row sources[k], divided by `divisor`. Empty `weights`: all ones.
    void (*sum_rows)(rows<T const> row, std::span<token const> sources, std::span<float const> weights, float divisor,
                     T* out, index dim) noexcept;
};

/// Whether this library holds the level, and processor and operating system run it.
[[nodiscard]] bool supported(level which) noexcept;

/// The highest level that is supported. Asks the processor once.
[[nodiscard]] level best() noexcept;

/// The kernels of a level.
/// @pre supported(which)
template <real T>
[[nodiscard]] kernels<T> const& kernels_of(level which = best()) noexcept;

}  // namespace terse::dispatch
