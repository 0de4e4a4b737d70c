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
#include <terse/simd/batch.hpp>
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
    if (size < width) return copy_short(in, out, size);
    index i = 0;
    auto const move = [&](auto registers) noexcept {
        constexpr index block = registers * width;
        for (index const whole = size - (size - i) % block; i < whole; i += block) {
            std::array<bytes, registers> x;
            unroll<registers>([&](auto v) { x[v] = bytes::load_unaligned(in + i + v * width); });
            unroll<registers>([&](auto v) { x[v].store_unaligned(out + i + v * width); });
        }
    };
    move(std::integral_constant<int, 8>{});
    move(std::integral_constant<int, 4>{});
    move(std::integral_constant<int, 1>{});
    if (i < size) bytes::load_unaligned(in + size - width).store_unaligned(out + size - width);
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

/// `copy_row` around the caches, for a destination that is not read soon. Registers of 16 bytes: the line is put
/// together from them at no cost, and more destinations are aligned to them.
/// @pre can_stream; end_stream() after the last row
template <class T>
void stream_row([[maybe_unused]] T const* from, [[maybe_unused]] T* to, [[maybe_unused]] index count) noexcept {
#ifdef __SSE2__
    auto const* const in = reinterpret_cast<__m128i const*>(from);
    auto* const out = reinterpret_cast<__m128i*>(to);
    index const size = count * static_cast<index>(sizeof(T)) / 16;
    index i = 0;
    for (index const whole = size - size % 8; i < whole; i += 8) {
        __m128i x[8];  // std::array would drop its alignment
        unroll<8>([&](auto v) { x[v] = _mm_loadu_si128(in + i + v); });
        unroll<8>([&](auto v) { _mm_stream_si128(out + i + v, x[v]); });
    }
    for (; i < size; ++i) _mm_stream_si128(out + i, _mm_loadu_si128(in + i));
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

/// Asks for the cache lines of a row's start ahead of its use. Always inlined: gcc takes a function that only prefetches
/// for one that does nothing, and leaves its calls out.
[[gnu::always_inline]] inline void prefetch_bytes(std::span<std::uint8_t const> row) noexcept {
    for (std::size_t i = 0; i < std::min<std::size_t>(row.size(), 1024); i += 64) __builtin_prefetch(row.data() + i);
}

template <class T>
[[gnu::always_inline]] inline void prefetch_row(T const* row, index count) noexcept {
    prefetch_bytes(bytes_of(row, count));
}

/// Floats that stay in a core's second-level cache.
inline constexpr index near_floats = index{1} << 17;

/// How many rows ahead the kernels below ask for.
inline constexpr index rows_ahead = 8;

/// Row i of `to` becomes row sources[i] of `from`; strides in elements. Above `stream_bytes` the rows are written
/// around the caches.
/// @pre the two do not overlap
template <class Arch = default_arch, class T>
[[gnu::flatten]] void gather_rows(T const* from, index from_stride, std::span<token const> sources, T* to,
                                  index to_stride, index dim) noexcept {
    index const count = std::ssize(sources);
    auto const for_rows = [&](auto copy) noexcept {
        for (index i = 0; i < count; ++i) {
            if (i + rows_ahead < count) prefetch_row(from + sources.data()[i + rows_ahead] * from_stride, dim);
            copy(from + sources.data()[i] * from_stride, to + i * to_stride);
        }
    };
    if (count * dim * static_cast<index>(sizeof(T)) > stream_bytes && can_stream(to, to_stride, dim)) {
        for_rows([dim](T const* source, T* target) noexcept { stream_row(source, target, dim); });
        end_stream();
    } else {
        for_rows([dim](T const* source, T* target) noexcept { copy_row<Arch>(source, target, dim); });
    }
}

/// compact_rows of rows of `size` bytes, a constant or not.
template <class Arch, class Size>
[[gnu::flatten]] void compact_bytes(std::uint8_t* rows, index stride, std::span<token const> sources,
                                    Size size) noexcept {
    index const count = std::ssize(sources);
    token const* const source = sources.data();
    index const far = can_stream(rows, stride, size) ? stream_bytes / std::max<index>(stride, 1) : max_tokens;
    bool streamed = false;
    index i = 0;
    while (i < count && source[i] == i) ++i;
    while (i < count) {
        index run = 1;
        if (stride == size)
            while (i + run + 7 <= count && source[i + run + 6] - source[i] == run + 6) run += 7;
        if (run > 1) {
            std::memmove(rows + i * size, rows + source[i] * size, static_cast<std::size_t>(run * size));
        } else {
            // Of shorter rows several share a line: the processor sees where they go.
            if (size >= 64 && i + rows_ahead < count) prefetch_row(rows + source[i + rows_ahead] * stride, size);
            std::uint8_t const* const from = rows + source[i] * stride;
            if (source[i] - i > far) {
                stream_row(from, rows + i * stride, size);
                streamed = true;
            } else {
                copy_row<Arch>(from, rows + i * stride, size);
            }
        }
        i += run;
    }
    if (streamed) end_stream();
}

/// Row i becomes row sources[i], in place; long runs of packed rows move at once. Rows that come from further than
/// `stream_bytes` are written around the caches.
/// @pre sources ascend strictly
template <class Arch = default_arch, class T>
void compact_rows(T* rows, index stride, std::span<token const> sources, index dim) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    constexpr auto size = static_cast<index>(sizeof(T));
    auto* const bytes = reinterpret_cast<std::uint8_t*>(rows);
    // In a cache a loop over a row's registers shows, and of rows of one word (codes' scales) all else.
    switch (dim * size) {
        case 8:
            for (std::size_t i = 0; i < sources.size(); ++i)
                std::memmove(rows + static_cast<index>(i) * stride, rows + sources[i] * stride, 8);
            return;
        case 128:
            return compact_bytes<Arch>(bytes, stride * size, sources, std::integral_constant<index, 128>{});
        case 256:
            return compact_bytes<Arch>(bytes, stride * size, sources, std::integral_constant<index, 256>{});
        default:
            return compact_bytes<Arch>(bytes, stride * size, sources, dim * size);
    }
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
/// of weight one is copied. Empty `weights`: all ones. No sources: zeros.
/// @pre out is not one of the rows
template <class Arch = default_arch, real T>
[[gnu::flatten]] void sum_rows(T const* in, index stride, std::span<token const> sources,
                               std::span<float const> weights, float divisor, T* out, index dim) noexcept {
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
[[gnu::flatten]] void max_rows(T const* in, index stride, std::span<token const> sources, T* out, index dim) noexcept {
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
