// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <type_traits>

#include <Eigen/Core>

#include <terse/core/types.hpp>

namespace terse {

template <class T>
using row_major = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
using strided_map = Eigen::Map<std::conditional_t<std::is_const_v<T>, row_major<T> const, row_major<T>>,
                               Eigen::Unaligned, Eigen::OuterStride<>>;

/// [tokens, dim] over the engine's memory: rows contiguous, any distance between them. Owns nothing.
template <class T>
struct tokens_span {
    T* data = nullptr;
    index tokens = 0;
    index dim = 0;
    index stride = 0;  ///< elements from one row to the next

    [[nodiscard]] constexpr T* row(index t) const noexcept { return data + t * stride; }
    [[nodiscard]] strided_map<T> map() const { return {data, tokens, dim, Eigen::OuterStride<>{stride}}; }

    /// Tokens first, first + step, ... as a view of their own.
    [[nodiscard]] constexpr tokens_span every(index step, index first = 0) const noexcept {
        if (first >= tokens) return {data, 0, dim, stride * step};
        return {row(first), (tokens - first + step - 1) / step, dim, stride * step};
    }

    constexpr operator tokens_span<T const>() const noexcept requires(!std::is_const_v<T>) {
        return {data, tokens, dim, stride};
    }
};

/// [heads, tokens, dim] over the engine's memory with free head and token strides, in elements: covers the
/// head-major and the token-major layouts of a KV cache, and padded rows. Owns nothing.
template <class T>
struct heads_span {
    T* data = nullptr;
    index heads = 0;
    index tokens = 0;
    index dim = 0;
    index head_stride = 0;
    index token_stride = 0;

    [[nodiscard]] constexpr T* row(index h, index t) const noexcept {
        return data + h * head_stride + t * token_stride;
    }
    [[nodiscard]] constexpr tokens_span<T> head(index h) const noexcept {
        return {data + h * head_stride, tokens, dim, token_stride};
    }

    constexpr operator heads_span<T const>() const noexcept requires(!std::is_const_v<T>) {
        return {data, heads, tokens, dim, head_stride, token_stride};
    }
};

/// The same, read only.
template <class T>
using tokens_view = tokens_span<T const>;
template <class T>
using heads_view = heads_span<T const>;

/// Attention probabilities [heads, queries, keys]: `tokens` counts the queries, `dim` the keys.
using attention_view = heads_view<float>;

/// [heads, tokens, dim] in blocks of `block_tokens` rows, found through a block table. Owns nothing.
template <class T>
struct paged_span {
    T* data = nullptr;
    std::span<token const> blocks{};  ///< block i holds tokens [i * block_tokens, (i + 1) * block_tokens)
    index heads = 0;
    index tokens = 0;  ///< at most blocks.size() * block_tokens
    index dim = 0;
    index block_tokens = 1;
    index block_stride = 0;  ///< elements from one block to the next
    index head_stride = 0;
    index token_stride = 0;

    [[nodiscard]] constexpr T* row(index h, index t) const noexcept {
        index const block = blocks[static_cast<std::size_t>(t / block_tokens)];
        return data + block * block_stride + h * head_stride + t % block_tokens * token_stride;
    }

    constexpr operator paged_span<T const>() const noexcept requires(!std::is_const_v<T>) {
        return {data, blocks, heads, tokens, dim, block_tokens, block_stride, head_stride, token_stride};
    }
};

template <class T>
using paged_view = paged_span<T const>;

/// [heads, tokens, dim] where every head holds its own number of rows: one store of rows, in it a stretch for each
/// head, and at a stretch's end room that is not in use. Owns nothing. Made by `ragged`.
template <class T>
struct ragged_span {
    T* data = nullptr;
    std::span<token const> offsets{};  ///< [heads + 1], ascending: head h has rows [offsets[h], offsets[h + 1])
    std::span<token const> lengths{};  ///< [heads]: of them, the first that are in use; empty: all
    index heads = 0;
    index tokens = 0;  ///< rows of the head that holds most
    index dim = 0;
    index token_stride = 0;

    [[nodiscard]] constexpr T* row(index h, index t) const noexcept {
        return data + (offsets[static_cast<std::size_t>(h)] + t) * token_stride;
    }
    /// Rows that head h may hold.
    [[nodiscard]] constexpr index room(index h) const noexcept {
        return offsets[static_cast<std::size_t>(h) + 1] - offsets[static_cast<std::size_t>(h)];
    }
    /// Rows that head h holds.
    [[nodiscard]] constexpr index length(index h) const noexcept {
        return lengths.empty() ? room(h) : lengths[static_cast<std::size_t>(h)];
    }
    [[nodiscard]] constexpr tokens_span<T> head(index h) const noexcept {
        return {row(h, 0), length(h), dim, token_stride};
    }

    constexpr operator ragged_span<T const>() const noexcept requires(!std::is_const_v<T>) {
        return {data, offsets, lengths, heads, tokens, dim, token_stride};
    }
};

template <class T>
using ragged_view = ragged_span<T const>;

/// A row whose elements stand apart.
template <class T>
struct strided_row {
    T* data = nullptr;
    index stride = 0;

    [[nodiscard]] constexpr T& operator[](index i) const noexcept { return data[i * stride]; }
};

/// [heads, dim, tokens]: values stored so that a channel's tokens are contiguous. Owns nothing.
template <class T>
struct transposed_span {
    T* data = nullptr;
    index heads = 0;
    index tokens = 0;
    index dim = 0;
    index head_stride = 0;
    index dim_stride = 0;  ///< elements from one channel to the next

    [[nodiscard]] constexpr strided_row<T> row(index h, index t) const noexcept {
        return {data + h * head_stride + t, dim_stride};
    }
    /// All tokens of one channel, contiguous.
    [[nodiscard]] constexpr T* channel(index h, index c) const noexcept {
        return data + h * head_stride + c * dim_stride;
    }
};

template <class T>
using transposed_view = transposed_span<T const>;

/// What a scorer reads keys from: [heads, tokens, dim] with contiguous rows, wherever they stand. A row is a pointer,
/// or what stands for one: `quantised_row`.
template <class C>
concept cache_rows = requires(C const& cache, index i) {
    { cache.heads } -> std::convertible_to<index>;
    { cache.tokens } -> std::convertible_to<index>;
    { cache.dim } -> std::convertible_to<index>;
    { *cache.row(i, i) } -> real;
};

/// Slots that head h of a cache holds: its length(h), or `tokens` where all heads hold the same.
template <class C>
[[nodiscard]] constexpr index length_of(C const& cache, index h) noexcept {
    if constexpr (requires { cache.length(h); }) {
        return cache.length(h);
    } else {
        return cache.tokens;
    }
}

/// The rows of head h, as a callable that kernels take. It holds the view: one that refers to it has to read its strides
/// again after every store.
template <cache_rows C>
[[nodiscard]] constexpr auto rows_of_head(C const& cache, index h) noexcept {
    return [cache, h](index t) noexcept { return cache.row(h, t); };
}

/// Whether a cache points to data.
template <class C>
[[nodiscard]] constexpr bool has_data(C const& cache) noexcept {
    if constexpr (requires { cache.data; }) {
        return cache.data != nullptr;
    } else {
        return cache.has_data();
    }
}

// Factories. A stride of 0 means packed. The tensor's type decides whether the view can be written.

template <class T>
[[nodiscard]] constexpr tokens_span<T> view(T* data, index tokens, index dim, index stride = 0) noexcept {
    return {data, tokens, dim, stride == 0 ? dim : stride};
}

/// [heads, tokens, dim], packed.
template <class T>
[[nodiscard]] constexpr heads_span<T> head_major(T* data, index heads, index tokens, index dim) noexcept {
    return {data, heads, tokens, dim, tokens * dim, dim};
}

/// [tokens, heads, dim], packed.
template <class T>
[[nodiscard]] constexpr heads_span<T> token_major(T* data, index heads, index tokens, index dim) noexcept {
    return {data, heads, tokens, dim, dim, heads * dim};
}

/// Heads of different length in one store of rows, see `ragged_span`; `lengths` empty: all room is in use.
template <class T>
[[nodiscard]] constexpr ragged_span<T> ragged(T* data, std::span<token const> offsets, std::span<token const> lengths,
                                              index dim, index stride = 0) noexcept {
    index const heads = offsets.empty() ? 0 : std::ssize(offsets) - 1;
    ragged_span<T> all{data, offsets, lengths, heads, 0, dim, stride == 0 ? dim : stride};
    for (index h = 0; h < heads; ++h) all.tokens = std::max(all.tokens, all.length(h));
    return all;
}

/// A row-major Eigen matrix or map whose rows are contiguous, [tokens, dim].
template <class Derived>
requires(Derived::IsRowMajor != 0) [[nodiscard]] auto view(Eigen::PlainObjectBase<Derived>& m) noexcept {
    return tokens_span<typename Derived::Scalar>{m.data(), m.rows(), m.cols(), m.outerStride()};
}
template <class Derived>
requires(Derived::IsRowMajor != 0) [[nodiscard]] auto view(Eigen::PlainObjectBase<Derived> const& m) noexcept {
    return tokens_view<typename Derived::Scalar>{m.data(), m.rows(), m.cols(), m.outerStride()};
}
template <class Plain, int Options, class Stride>
requires(Plain::IsRowMajor != 0) [[nodiscard]] auto view(Eigen::Map<Plain, Options, Stride> const& m) noexcept {
    using value = std::remove_pointer_t<decltype(const_cast<Eigen::Map<Plain, Options, Stride>&>(m).data())>;
    static_assert(Stride::InnerStrideAtCompileTime == 0 || Stride::InnerStrideAtCompileTime == 1,
                  "a row's elements must be contiguous");
    return tokens_span<value>{const_cast<value*>(m.data()), m.rows(), m.cols(), m.outerStride()};
}

/// Whether two stretches of memory share a byte.
template <class T, class U>
[[nodiscard]] bool overlap(std::span<T> a, std::span<U> b) noexcept {
    auto const a_begin = reinterpret_cast<std::uintptr_t>(a.data()), a_end = a_begin + a.size_bytes();
    auto const b_begin = reinterpret_cast<std::uintptr_t>(b.data()), b_end = b_begin + b.size_bytes();
    return a_begin < b_end && b_begin < a_end;
}

/// The memory from a view's first element to its last.
template <class T>
[[nodiscard]] constexpr std::span<T> extent(tokens_span<T> v) noexcept {
    if (v.tokens == 0 || v.dim == 0) return {};
    return {v.data, static_cast<std::size_t>((v.tokens - 1) * v.stride + v.dim)};
}
template <class T>
[[nodiscard]] constexpr std::span<T> extent(heads_span<T> v) noexcept {
    if (v.heads == 0 || v.tokens == 0 || v.dim == 0) return {};
    index const last = (v.heads - 1) * v.head_stride + (v.tokens - 1) * v.token_stride;
    return {v.data, static_cast<std::size_t>(last + v.dim)};
}
template <class T>
[[nodiscard]] constexpr std::span<T> extent(ragged_span<T> v) noexcept {
    if (v.heads == 0 || v.dim == 0 || v.offsets.front() == v.offsets.back()) return {};
    index const rows = v.offsets.back() - v.offsets.front();
    return {v.row(0, 0), static_cast<std::size_t>((rows - 1) * v.token_stride + v.dim)};
}

}  // namespace terse
