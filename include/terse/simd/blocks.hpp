// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include <terse/simd/load_store.hpp>

// Bound by memory. Maxima are taken in a piece of the row that stays in the first cache, where a pass doubles the width
// of all windows; the sums of them are in double, read and written once.

namespace terse::simd {

/// The widest window of `forward_max`.
inline constexpr index widest_forward_max = 1024;

/// Calls use(first, count, maxima) for pieces of the row: maxima[i] is the largest of x[first + i] and the width - 1
/// values after it, as many as there are. NaN counts as -infinity.
/// @pre 1 <= width <= widest_forward_max
template <class Arch, class Use>
[[gnu::flatten]] void forward_max(float const* x, index n, index width, Use const& use) noexcept {
    using batch = floats<Arch>;
    constexpr index step = lanes<Arch>, room = 2 * widest_forward_max;
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    std::array<float, room + step> piece;
    float* const m = piece.data();
    index const each = (room - width + 1) / step * step;
    for (index first = 0; first < n; first += each) {
        index const count = std::min(each, n - first), reached = count + width - 1;
        index const read = std::min(reached, n - first), whole = read - read % step;
        for (index i = 0; i < whole; i += step)
            store<Arch>(max_number<Arch>(load<Arch>(x + first + i), batch(nothing)), m + i);
        for (index i = whole; i < read; ++i) m[i] = is_nan(x[first + i]) ? nothing : x[first + i];
        std::fill(m + read, m + reached + step, nothing);
        auto const join = [m](index from, index end) noexcept {
            for (index i = 0; i < end; i += step)
                store<Arch>(max_number<Arch>(load<Arch>(m + i), load<Arch>(m + i + from)), m + i);
        };
        index wide = 1;
        for (; 2 * wide <= width; wide *= 2) join(wide, reached - wide);
        if (wide < width) join(width - wide, count);
        use(first, count, static_cast<float const*>(m));
    }
}

/// out[i] = the largest of x[i] .. x[i + width - 1], as many as there are.
/// @complexity O(n log width)
template <class Arch = default_arch>
void forward_max(std::span<float const> x, index width, std::span<float> out) noexcept {
    forward_max<Arch>(x.data(), std::ssize(x), width, [&](index first, index count, float const* maxima) noexcept {
        std::copy_n(maxima, count, out.data() + first);
    });
}

/// sums[i] += the largest of x[i] .. x[i + width - 1], as many as there are.
/// @complexity O(n log width), in one pass
template <class Arch = default_arch>
void add_forward_max(std::span<float const> x, index width, std::span<double> sums) noexcept {
    constexpr index step = double_lanes<Arch>;
    forward_max<Arch>(x.data(), std::ssize(x), width, [&](index first, index count, float const* maxima) noexcept {
        double* const to = sums.data() + first;
        index i = 0;
        for (index const whole = count - count % step; i < whole; i += step)
            (doubles<Arch>::load_unaligned(to + i) + load_doubles<Arch>(maxima + i)).store_unaligned(to + i);
        for (; i < count; ++i) to[i] += static_cast<double>(maxima[i]);
    });
}

/// out[b] = the sum of term(i) over i in [b * block, (b + 1) * block); term(i) is a register, lone(i) one value.
template <class Arch, class Term, class Lone>
[[gnu::flatten]] void block_sums(index block, std::span<double> out, Term const& term, Lone const& lone) noexcept {
    constexpr index step = double_lanes<Arch>;
    for (index b = 0; b < std::ssize(out); ++b) {
        index i = b * block;
        index const end = i + block;
        std::array<doubles<Arch>, 4> sums;
        sums.fill(doubles<Arch>(0.0));
        for (; end - i >= 4 * step; i += 4 * step) unroll<4>([&](auto u) { sums[u] += term(i + u * step); });
        for (; end - i >= step; i += step) sums[0] += term(i);
        std::array<double, doubles<Arch>::size> values;
        ((sums[0] + sums[1]) + (sums[2] + sums[3])).store_unaligned(values.data());
        double sum = 0;
        for (double const value : values) sum += value;
        for (; i < end; ++i) sum += lone(i);
        out[static_cast<std::size_t>(b)] = sum;
    }
}

/// The sums of blocks of `block` values.
/// @param x  [blocks * block]
template <class Arch = default_arch>
void block_sums(std::span<double const> x, index block, std::span<double> out) noexcept {
    double const* const from = x.data();
    block_sums<Arch>(
        block, out, [from](index i) noexcept { return doubles<Arch>::load_unaligned(from + i); },
        [from](index i) noexcept { return from[i]; });
}

/// The same of x[i] / (now - since[i]).
/// @param since  [blocks * block], below `now`
template <class Arch = default_arch>
void block_sums(std::span<double const> x, std::span<token const> since, token now, index block,
                std::span<double> out) noexcept {
    double const* const from = x.data();
    token const* const start = since.data();
    doubles<Arch> const present(static_cast<double>(now));
    block_sums<Arch>(
        block, out,
        [&](index i) noexcept {
            return doubles<Arch>::load_unaligned(from + i) / (present - load_doubles<Arch>(start + i));
        },
        [&](index i) noexcept { return from[i] / static_cast<double>(now - start[i]); });
}

}  // namespace terse::simd
