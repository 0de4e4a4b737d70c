// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <type_traits>

#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/scalar.hpp>

// Bound by memory: rows pass through registers as they are, a row's loads before its stores, so that a load does not
// wait for a store whose address looks like its own. Rows are asked for ahead, since no prefetcher guesses which ones
// stay. What is written beyond the caches goes around them.

namespace terse::simd {

/// Copies less than a register: two words of the largest size that fits, which may overlap.
/// @pre size < 64
inline void copy_short(std::uint8_t const* from, std::uint8_t* to, index size) noexcept {
    auto const ends = [=](auto word) noexcept {
        constexpr auto bytes = static_cast<index>(sizeof(word));
        auto last = word;
        std::memcpy(&word, from, sizeof(word));
        std::memcpy(&last, from + size - bytes, sizeof(word));
        std::memcpy(to, &word, sizeof(word));
        std::memcpy(to + size - bytes, &last, sizeof(word));
    };
    if (size >= 32) return ends(std::array<std::uint64_t, 4>{});
    if (size >= 16) return ends(std::array<std::uint64_t, 2>{});
    if (size >= 8) return ends(std::uint64_t{});
    if (size >= 4) return ends(std::uint32_t{});
    for (index i = 0; i < size; ++i) to[i] = from[i];
}

/// to[i] = from[i] for i < count, in whole registers: for rows of some hundred bytes, where a call of memcpy shows.
/// @pre the two do not overlap
template <class Arch = default_arch, class T>
[[gnu::flatten]] void copy_row(T const* from, T* to, index count) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    using bytes = xsimd::batch<std::uint8_t, Arch>;
    constexpr auto width = static_cast<index>(bytes::size);
    index const size = count * static_cast<index>(sizeof(T));
    auto const* const in = reinterpret_cast<std::uint8_t const*>(from);
    auto* const out = reinterpret_cast<std::uint8_t*>(to);
    // As many registers from `begin` on as before `end`, which may overlap.
    auto const move = [=](auto registers, index begin, index end) noexcept {
        std::array<bytes, registers> first, last;
        unroll<registers>([&](auto v) { first[v] = bytes::load_unaligned(in + begin + v * width); });
        unroll<registers>([&](auto v) { last[v] = bytes::load_unaligned(in + end - (registers - v) * width); });
        unroll<registers>([&](auto v) { first[v].store_unaligned(out + begin + v * width); });
        unroll<registers>([&](auto v) { last[v].store_unaligned(out + end - (registers - v) * width); });
    };
    if (size < width) return copy_short(in, out, size);
    index i = 0;
    for (; size - i > 8 * width; i += 8 * width) move(std::integral_constant<int, 4>{}, i, i + 8 * width);
    if (size - i > 4 * width) return move(std::integral_constant<int, 4>{}, i, size);
    if (size - i > 2 * width) return move(std::integral_constant<int, 2>{}, i, size);
    if (size - i > width) return move(std::integral_constant<int, 1>{}, i, size);
    bytes::load_unaligned(in + size - width).store_unaligned(out + size - width);
}

/// copy_row out of line: inlined where gcc sees a small buffer, its blocks are taken for accesses beyond it.
template <class Arch, class T>
[[gnu::noinline]] void copy_lone_row(T const* from, T* to, index count) noexcept {
    copy_row<Arch>(from, to, count);
}

/// From how many bytes on a destination is written around the caches: more than a core's share of the last one.
inline constexpr index stream_bytes = index{8} << 20;

/// Whether `stream_row` can write rows of `dim` to `to`, `stride` apart.
template <class T>
[[nodiscard]] bool can_stream([[maybe_unused]] T const* to, [[maybe_unused]] index stride,
                              [[maybe_unused]] index dim) noexcept {
#ifdef __SSE2__
    constexpr auto size = static_cast<index>(sizeof(T));
    return reinterpret_cast<std::uintptr_t>(to) % 16 == 0 && stride * size % 16 == 0 && dim * size % 16 == 0;
#else
    return false;
#endif
}

/// `copy_row` around the caches, for a destination that is not read soon: in the widest registers that it is aligned
/// to, since of narrower ones a line leaves in parts when memory is busy.
/// @pre can_stream; end_stream() after the last row
template <class Arch, class T>
[[gnu::flatten]] void stream_row([[maybe_unused]] T const* from, [[maybe_unused]] T* to,
                                 [[maybe_unused]] index count) noexcept {
#ifdef __SSE2__
    auto const* const in = reinterpret_cast<std::uint8_t const*>(from);
    auto* const out = reinterpret_cast<std::uint8_t*>(to);
    index const size = count * static_cast<index>(sizeof(T));
    index i = 0;
    auto const move = [&](auto width, auto load, auto store) noexcept {
        auto const move_blocks = [&](auto registers) noexcept {
            for (; size - i >= registers * width; i += registers * width) {
                decltype(load(in)) x[registers];  // std::array would drop its alignment
                unroll<registers>([&](auto v) { x[v] = load(in + i + v * width); });
                unroll<registers>([&](auto v) { store(x[v], out + i + v * width); });
            }
        };
        move_blocks(std::integral_constant<int, 8>{});
        move_blocks(std::integral_constant<int, 1>{});
    };
    using bytes = xsimd::batch<std::uint8_t, Arch>;
    constexpr auto wide = static_cast<index>(bytes::size);
    if (wide > 16 && reinterpret_cast<std::uintptr_t>(out) % bytes::size == 0)
        move(
            std::integral_constant<index, wide>{},
            [](std::uint8_t const* place) noexcept { return bytes::load_unaligned(place); },
            []([[maybe_unused]] bytes const& x, [[maybe_unused]] std::uint8_t* place) noexcept {
#ifdef __AVX__
                if constexpr (wide == 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(place), x);
#endif
#ifdef __AVX512F__
                if constexpr (wide == 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(place), x);
#endif
            });
    // Named by their instructions: another translation unit may have these batches, for another instruction set.
    move(
        std::integral_constant<index, 16>{},
        [](std::uint8_t const* place) noexcept { return _mm_loadu_si128(reinterpret_cast<__m128i const*>(place)); },
        [](__m128i x, std::uint8_t* place) noexcept { _mm_stream_si128(reinterpret_cast<__m128i*>(place), x); });
#endif
}

/// Makes streamed rows visible to other threads in order, as ordinary stores are.
inline void end_stream() noexcept {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

template <class T>
[[nodiscard]] std::span<std::uint8_t const> bytes_of(T const* row, index count) noexcept {
    return {reinterpret_cast<std::uint8_t const*>(row), static_cast<std::size_t>(count) * sizeof(T)};
}

/// Asks for the cache lines of a row's start ahead of its use, or for one each `step` bytes; `Locality` as in
/// __builtin_prefetch. Always inlined: gcc takes a function that only prefetches for one that does nothing, and leaves
/// its calls out.
template <int Locality = 3>
[[gnu::always_inline]] inline void prefetch_bytes(std::span<std::uint8_t const> row, std::size_t step = 64) noexcept {
    for (std::size_t i = 0; i < std::min<std::size_t>(row.size(), 1024); i += step)
        __builtin_prefetch(row.data() + i, 0, Locality);
}

template <class T>
[[gnu::always_inline]] inline void prefetch_row(T const* row, index count) noexcept {
    prefetch_bytes(bytes_of(row, count));
}

/// Floats that stay in a core's second-level cache.
inline constexpr index near_floats = index{1} << 17;

/// How many rows ahead the kernels that compute with them ask for.
inline constexpr index rows_ahead = 8;

/// How many rows ahead of their turn rows of `size` bytes that move are asked for. Of short ones several share a line:
/// the processor sees where they go.
[[nodiscard]] constexpr index moved_rows_ahead(index size) noexcept {
    constexpr index bytes = index{8} << 10;
    return size < 64 ? max_tokens : bytes / size + 1;
}

/// How rows of `size` bytes move within the caches: what asks for one, and what copies it. In the second cache each
/// request costs about a load; of a long row a few do, since the processor brings the lines beside.
template <class Arch, class Size, class Move>
[[gnu::always_inline]] inline void with_copies(Size size, Move const& move) noexcept {
    move([size](std::uint8_t const* row) noexcept { prefetch_bytes(bytes_of(row, size), size < 512 ? 64 : 256); },
         [size](std::uint8_t const* from, std::uint8_t* to) noexcept { copy_row<Arch>(from, to, size); });
}

/// The same around them: all of a row is asked for, and not for the further caches, since it is read once.
/// @pre can_stream
template <class Arch, class Size, class Move>
[[gnu::always_inline]] inline void with_streams(Size size, Move const& move) noexcept {
    move([size](std::uint8_t const* row) noexcept { prefetch_bytes<0>(bytes_of(row, size)); },
         [size](std::uint8_t const* from, std::uint8_t* to) noexcept { stream_row<Arch>(from, to, size); });
    end_stream();
}

/// gather_rows of rows of `size` bytes, a constant or not.
template <class Arch, class Size>
[[gnu::flatten]] void gather_bytes(std::uint8_t const* from, index from_stride, std::span<token const> sources,
                                   std::uint8_t* to, index to_stride, Size size) noexcept {
    index const count = std::ssize(sources), ahead = moved_rows_ahead(size);
    token const* const source = sources.data();
    auto const move_rows = [&](auto prefetch, auto copy) noexcept {
        for (index i = 0; i < count; ++i) {
            if (i + ahead < count) prefetch(from + source[i + ahead] * from_stride);
            copy(from + source[i] * from_stride, to + i * to_stride);
        }
    };
    if (count * size > stream_bytes && can_stream(to, to_stride, size))
        with_streams<Arch>(size, move_rows);
    else
        with_copies<Arch>(size, move_rows);
}

/// compact_rows of rows of `size` bytes, a constant or not.
template <class Arch, class Size>
[[gnu::flatten]] void compact_bytes(std::uint8_t* rows, index stride, std::span<token const> sources,
                                    Size size) noexcept {
    index const count = std::ssize(sources), ahead = moved_rows_ahead(size);
    token const* const source = sources.data();
    index i = 0;
    while (i < count && source[i] == i) ++i;
    // No row moves by less than the one before it.
    index most = can_stream(rows, stride, size) ? stream_bytes / std::max<index>(stride, 1) : max_tokens;
    auto const move_rows = [&](auto prefetch, auto copy) noexcept {
        while (i < count && source[i] - i <= most) {
            index run = 1;
            if (stride == size)
                while (i + run + 7 <= count && source[i + run + 6] - source[i] == run + 6) run += 7;
            if (run > 1) {
                std::memmove(rows + i * size, rows + source[i] * size, static_cast<std::size_t>(run * size));
            } else {
                if (i + ahead < count) prefetch(rows + source[i + ahead] * stride);
                copy(rows + source[i] * stride, rows + i * stride);
            }
            i += run;
        }
    };
    with_copies<Arch>(size, move_rows);
    if (i == count) return;
    most = max_tokens;
    with_streams<Arch>(size, move_rows);
}

/// Calls body(size) with a constant where it is a common one: in a cache a loop over a row's registers shows.
template <class Body>
void with_row_size(index size, Body const& body) noexcept {
    switch (size) {
        case 128:
            return body(std::integral_constant<index, 128>{});
        case 256:
            return body(std::integral_constant<index, 256>{});
        case 512:
            return body(std::integral_constant<index, 512>{});
        default:
            return body(size);
    }
}

/// Row i of `to` becomes row sources[i] of `from`; strides in elements. Above `stream_bytes` the rows are written
/// around the caches.
/// @pre the two do not overlap
template <class Arch = default_arch, class T>
void gather_rows(T const* from, index from_stride, std::span<token const> sources, T* to, index to_stride,
                 index dim) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    constexpr auto bytes = static_cast<index>(sizeof(T));
    with_row_size(dim * bytes, [=](auto size) noexcept {
        gather_bytes<Arch>(reinterpret_cast<std::uint8_t const*>(from), from_stride * bytes, sources,
                           reinterpret_cast<std::uint8_t*>(to), to_stride * bytes, size);
    });
}

/// Row i becomes row sources[i], in place; long runs of packed rows move at once. Rows that come from further than
/// `stream_bytes` are written around the caches.
/// @pre sources ascend strictly
template <class Arch = default_arch, class T>
void compact_rows(T* rows, index stride, std::span<token const> sources, index dim) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    constexpr auto bytes = static_cast<index>(sizeof(T));
    if (dim * bytes == 8) {  // codes' scales: all else shows beside one word
        for (std::size_t i = 0; i < sources.size(); ++i)
            std::memmove(rows + static_cast<index>(i) * stride, rows + sources[i] * stride, 8);
        return;
    }
    with_row_size(dim * bytes, [=](auto size) noexcept {
        compact_bytes<Arch>(reinterpret_cast<std::uint8_t*>(rows), stride * bytes, sources, size);
    });
}

/// Calls body(registers, first) for blocks of 8, 4 or 1 registers that cover [0, dim), the last one overlapping the one
/// before it where dim is not a multiple of a register.
/// @pre dim >= lanes<Arch>
template <class Arch, class Body>
void for_blocks(index dim, Body const& body) noexcept {
    constexpr index width = lanes<Arch>;
    index c = 0;
    for (; dim - c >= 8 * width; c += 8 * width) body(std::integral_constant<int, 8>{}, c);
    for (; dim - c >= 4 * width; c += 4 * width) body(std::integral_constant<int, 4>{}, c);
    for (; dim - c >= width; c += width) body(std::integral_constant<int, 1>{}, c);
    if (c < dim) body(std::integral_constant<int, 1>{}, dim - width);
}

/// out = the sum over k of weights[k] * row sources[k] of `in`, divided by `divisor`: added in float in that order,
/// every `rows_at_once` by themselves, so that long sums round no worse than short ones, and rounded once; a lone row
/// of weight one is copied. Empty `weights`: all ones. No sources: zeros. Out of line for the reason of `copy_lone_row`.
/// @pre out is not one of the rows
template <class Arch = default_arch, real T>
[[gnu::flatten, gnu::noinline]] void sum_rows(T const* in, index stride, std::span<token const> sources,
                                              std::span<float const> weights, float divisor, T* out,
                                              index dim) noexcept {
    if (sources.size() == 1 && divisor == 1.0F && (weights.empty() || weights[0] == 1.0F))
        return copy_lone_row<Arch>(in + sources[0] * stride, out, dim);  // most rows of a merge
    if (dim < lanes<Arch>) return scalar::sum_rows(in, stride, sources, weights, divisor, out, dim);
    for_blocks<Arch>(dim, [&](auto registers, index first) {
        std::array<floats<Arch>, registers> sum;
        sum.fill(floats<Arch>(0.0F));
        auto const add = [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t k = begin; k < end; ++k) {
                T const* const row = in + sources[k] * stride + first;
                floats<Arch> const weight(weights.empty() ? 1.0F : weights[k]);
                unroll<registers>(
                    [&](auto v) { sum[v] = fma<Arch>(weight, load<Arch>(row + v * lanes<Arch>), sum[v]); });
            }
        };
        add(0, std::min(sources.size(), scalar::rows_at_once));
        for (std::size_t k = scalar::rows_at_once; k < sources.size(); k += scalar::rows_at_once) {
            auto const before = sum;
            sum.fill(floats<Arch>(0.0F));
            add(k, std::min(sources.size(), k + scalar::rows_at_once));
            unroll<registers>([&](auto v) { sum[v] = before[v] + sum[v]; });
        }
        if (divisor != 1.0F) unroll<registers>([&](auto v) { sum[v] = sum[v] / floats<Arch>(divisor); });
        unroll<registers>([&](auto v) { store<Arch>(sum[v], out + first + v * lanes<Arch>); });
    });
}

/// out = the largest of each channel over rows `sources` of `in`; NaN if one is. No sources: zeros.
/// @pre out is not one of the rows
template <class Arch = default_arch, real T>
[[gnu::flatten, gnu::noinline]] void max_rows(T const* in, index stride, std::span<token const> sources, T* out,
                                              index dim) noexcept {
    if (dim < lanes<Arch> || sources.empty()) return scalar::max_rows(in, stride, sources, out, dim);
    for_blocks<Arch>(dim, [&](auto registers, index first) {
        std::array<floats<Arch>, registers> most;
        T const* const start = in + sources[0] * stride + first;
        unroll<registers>([&](auto v) { most[v] = load<Arch>(start + v * lanes<Arch>); });
        for (token const source : sources.subspan(1)) {
            T const* const row = in + source * stride + first;
            unroll<registers>([&](auto v) {
                auto const x = load<Arch>(row + v * lanes<Arch>);
                most[v] = xsimd::select((x > most[v]) || xsimd::isnan(x), x, most[v]);
            });
        }
        unroll<registers>([&](auto v) { store<Arch>(most[v], out + first + v * lanes<Arch>); });
    });
}

}  // namespace terse::simd
