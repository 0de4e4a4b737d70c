// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/core/types.hpp>
#include <terse/simd/batch.hpp>

// Limited by passes over the scores: one that counts and keeps what lies in a bracket of the k-th, one that writes the
// positions; each a read, a comparison or two, and a compressing store a register. For few scores it is the bracket.

namespace terse::simd {

/// `rank` of every lane.
template <class Arch>
[[nodiscard]] ints<Arch> rank(floats<Arch> const& scores) noexcept {
    ints<Arch> bits;
    if constexpr (requires { xsimd::bitwise_cast<ints<Arch>>(scores); }) {
        bits = xsimd::bitwise_cast<ints<Arch>>(scores);
    } else {
        bits = xsimd::bitwise_cast<std::int32_t>(scores);  // since xsimd 9
    }
    auto const magnitude = bits & ints<Arch>(0x7FFF'FFFF);
    auto const ordered = xsimd::select(bits < ints<Arch>(0), -magnitude, magnitude);
    ints<Arch> const lowest(std::numeric_limits<std::int32_t>::min());
    return xsimd::select(magnitude > ints<Arch>(0x7F80'0000), lowest, ordered);
}

/// A mask's lanes as bits, the first lane lowest.
template <class Arch>
[[nodiscard]] unsigned bits_of(xsimd::batch_bool<std::int32_t, Arch> const& mask) noexcept {
#if defined(__AVX512F__)
    if constexpr (ints<Arch>::size == 16) return static_cast<unsigned>(static_cast<__mmask16>(mask.data));
#endif
#if defined(__AVX2__)
    if constexpr (ints<Arch>::size == 8)
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mask.data)));
#endif
#if defined(__SSE2__)
    if constexpr (ints<Arch>::size == 4) return static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(mask.data)));
#endif
    std::array<bool, ints<Arch>::size> values;
    mask.store_unaligned(values.data());
    unsigned bits = 0;
    for (std::size_t i = 0; i < values.size(); ++i) bits |= static_cast<unsigned>(values[i]) << i;
    return bits;
}

/// For each byte, where its set bits stand: the lanes to bring to the front.
inline constexpr auto lanes_of_byte = [] {
    std::array<std::array<std::uint8_t, 8>, 256> table{};
    for (unsigned byte = 0; byte < 256; ++byte) {
        std::size_t next = 0;
        for (std::uint8_t lane = 0; lane < 8; ++lane)
            if ((byte >> lane & 1U) != 0) table[byte][next++] = lane;
    }
    return table;
}();

/// Writes the lanes whose bits are set to the front of `to`, in order; the rest of a whole vector there is rubbish.
template <class Arch>
void compress(ints<Arch> const& x, unsigned bits, std::int32_t* to) noexcept {
#if defined(__AVX512F__)
    if constexpr (ints<Arch>::size == 16) {
        _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), x.data));
        return;
    }
#endif
#if defined(__AVX2__)
    if constexpr (ints<Arch>::size == 8) {
        auto const order = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(lanes_of_byte[bits].data()));
        auto const front = _mm256_permutevar8x32_epi32(x.data, _mm256_cvtepu8_epi32(order));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), front);
        return;
    }
#endif
    std::array<std::int32_t, ints<Arch>::size> values;
    x.store_unaligned(values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
        *to = values[i];
        to += bits >> i & 1U;
    }
}

template <class Arch>
[[nodiscard]] ints<Arch> load_ranks(float const* scores) noexcept {
    return rank(floats<Arch>::load_unaligned(scores));
}
template <class Arch>
[[nodiscard]] ints<Arch> load_ranks(std::int32_t const* known) noexcept {
    return ints<Arch>::load_unaligned(known);
}
using terse::rank;
[[nodiscard]] constexpr std::int32_t rank(std::int32_t known) noexcept { return known; }

/// first, first + 1, ...
template <class Arch>
[[nodiscard]] ints<Arch> load_positions(std::int32_t first) noexcept {
    std::array<std::int32_t, ints<Arch>::size> values;
    std::iota(values.begin(), values.end(), first);
    return ints<Arch>::load_unaligned(values.data());
}

template <class Arch>
[[nodiscard]] std::int32_t highest_lane(ints<Arch> const& x) noexcept {
    std::array<std::int32_t, ints<Arch>::size> values;
    x.store_unaligned(values.data());
    return *std::max_element(values.begin(), values.end());
}

/// Ranks low .. high.
struct rank_range {
    std::int32_t low = std::numeric_limits<std::int32_t>::min();
    std::int32_t high = std::numeric_limits<std::int32_t>::max();
};

/// A range that holds the k-th highest of `from`, most likely: found in a sample. Exact when there are few.
/// @complexity O(n), of a sample of sqrt(n) against itself; no more than of 256
template <class Arch, class Source>
[[nodiscard, gnu::flatten]] rank_range sample(std::span<Source const> from, index k) noexcept {
    constexpr index most = 256;
    index const n = std::ssize(from), root = static_cast<index>(std::sqrt(static_cast<float>(n)));
    index const m = std::min(n, std::clamp<index>(root, 32, most)), step = n / m;
    std::array<std::int32_t, most> taken;
    taken.fill(rank_range{}.low);
    for (index i = 0; i < m; ++i) taken[static_cast<std::size_t>(i)] = rank(from[static_cast<std::size_t>(i * step)]);

    // The k-th highest is the largest that at least k reach. One and a half standard deviations on each side: a miss
    // costs a pass, a wide bracket more work in the next.
    float const expected = static_cast<float>(k * m) / static_cast<float>(n);
    float const variance = expected * (1 - expected / static_cast<float>(m));
    float const margin = n == m ? 0.0F : 1.5F * std::sqrt(std::max(variance, 0.0F)) + 1;
    auto const above = static_cast<std::int32_t>(expected - margin);
    auto const below = static_cast<std::int32_t>(std::ceil(expected + margin));
    ints<Arch> highs(rank_range{}.low), lows(rank_range{}.low);
    for (index i = 0; i < m; i += 4 * lanes<Arch>) {  // four registers at a time share what they are compared with
        std::array<ints<Arch>, 4> x, beaten;
        unroll<4>([&](auto v) { x[v] = ints<Arch>::load_unaligned(taken.data() + i + v * lanes<Arch>); });
        beaten.fill(ints<Arch>(0));
        for (index j = 0; j < m; ++j) {
            ints<Arch> const other(taken[static_cast<std::size_t>(j)]);
            unroll<4>([&](auto v) { beaten[v] += ints<Arch>(x[v] > other); });
        }
        unroll<4>([&](auto v) {
            auto const reached = ints<Arch>(static_cast<std::int32_t>(m)) - beaten[v];
            highs = xsimd::select((x[v] > highs) && (reached > ints<Arch>(above - 1)), x[v], highs);
            lows = xsimd::select((x[v] > lows) && (reached > ints<Arch>(below - 1)), x[v], lows);
        });
    }
    rank_range found;
    if (above > 0) found.high = highest_lane(highs);
    if (below <= m) found.low = highest_lane(lows);
    return found;
}

struct split {
    index above = 0;   ///< ranks above the range
    index inside = 0;  ///< ranks in it
};

/// Gathers the ranks inside a range to the front of `to`, which may be `from` itself.
/// @complexity O(n)
template <class Arch, class Source>
[[nodiscard]] split gather_range(std::span<Source const> from, rank_range range, std::int32_t* to) noexcept {
    constexpr std::size_t width = ints<Arch>::size;
    constexpr unsigned all = static_cast<unsigned>((std::uint64_t{1} << width) - 1);
    ints<Arch> const low(range.low), high(range.high);
    std::size_t const whole = from.size() - from.size() % width;
    split count;
    for (std::size_t i = 0; i < whole; i += width) {
        auto const x = load_ranks<Arch>(from.data() + i);
        unsigned const above = bits_of(x > high), inside = all & ~(above | bits_of(low > x));
        compress<Arch>(x, inside, to + count.inside);
        count.above += std::popcount(above);
        count.inside += std::popcount(inside);
    }
    for (Source const s : from.subspan(whole)) {
        std::int32_t const x = rank(s);
        if (range.low <= x && x <= range.high) to[count.inside++] = x;
        count.above += x > range.high;
    }
    return count;
}

/// The k-th highest rank of `scores`, 1 <= k <= n, and how many scores rank above it.
struct threshold {
    std::int32_t rank = 0;
    index above = 0;
};

/// A sample brackets the k-th, one pass keeps what the bracket holds, and so on with what is left. A bracket that
/// missed costs a pass over the scores. One that took in most of them (ties, or an input made to defeat the sample) is
/// followed by one that halves the range, and after sixteen rounds all do, so that there are never more than some 100
/// passes.
/// @complexity O(n), in about 1.5 passes
template <class Arch>
[[nodiscard]] threshold find_threshold(std::span<float const> scores, index k,
                                       std::span<std::int32_t> scratch) noexcept {
    enum class bracket { sampled, everything, upper_half };
    bracket next = bracket::sampled;
    rank_range range;                    // holds the k-th
    index above = 0;                     // scores above `range`
    std::span<std::int32_t const> left;  // the ranks in `range`, once they were gathered
    for (int round = 0; range.low < range.high; ++round) {
        bool const gathered = left.data() != nullptr;
        rank_range guess = range;
        if (next == bracket::upper_half) guess.low = std::midpoint(range.low, range.high) + 1;
        if (next == bracket::sampled) {
            guess = gathered ? sample<Arch>(left, k - above) : sample<Arch>(scores, k);
            guess = {std::clamp(guess.low, range.low, range.high), std::clamp(guess.high, range.low, range.high)};
        }
        split count = gathered ? gather_range<Arch>(left, guess, scratch.data())
                               : gather_range<Arch>(scores, guess, scratch.data());
        if (gathered) count.above += above;
        if (k <= count.above || k > count.above + count.inside) {
            if (k <= count.above) {
                range.low = guess.high + 1;
            } else {
                range.high = guess.low - 1;
                above = count.above + count.inside;
            }
            left = {};  // overwritten
            next = bracket::everything;
        } else {
            bool const stalled = 2 * count.inside > (gathered ? std::ssize(left) : std::ssize(scores));
            bool const halve = round >= 16 || (stalled && next != bracket::everything);
            next = halve ? bracket::upper_half : bracket::sampled;
            range = guess;
            above = count.above;
            left = scratch.first(static_cast<std::size_t>(count.inside));
        }
    }
    return {range.low, above};
}

/// How many ranks `top_k` needs as scratch for `n` scores.
[[nodiscard]] constexpr index top_k_scratch(index n) noexcept { return n; }

/// The kept.size() highest of `scores`, as ascending positions first, first + 1, ... Of equal scores the lower position
/// wins; NaN is below -infinity, -0 equals +0; right under -ffast-math too.
///
/// @param scores   [n]
/// @param kept     [k], k <= n
/// @param scratch  [top_k_scratch(n)]
/// @complexity     O(n), in about 2.5 passes; no allocation
template <class Arch = default_arch>
void top_k(std::span<float const> scores, std::span<token> kept, token first,
           std::span<std::int32_t> scratch) noexcept {
    assert(kept.size() <= scores.size() && std::ssize(scratch) >= top_k_scratch(std::ssize(scores)));
    if (kept.size() == scores.size()) {
        std::iota(kept.begin(), kept.end(), first);
        return;
    }
    if (kept.empty()) return;
    auto const [lowest, above] = find_threshold<Arch>(scores, std::ssize(kept), scratch);

    // Positions of what ranks above the k-th, and of the first that equal it until there are k.
    constexpr std::size_t width = ints<Arch>::size;
    ints<Arch> const limit(lowest);
    ints<Arch> position = load_positions<Arch>(first);
    index equals = std::ssize(kept) - above;
    std::size_t const whole = scores.size() - scores.size() % width;
    std::size_t done = 0, i = 0;
    for (; i < whole && done < kept.size(); i += width) {
        auto const x = load_ranks<Arch>(scores.data() + i);
        unsigned taken = bits_of(x > limit);
        for (unsigned ties = equals > 0 ? bits_of(x == limit) : 0; ties != 0 && equals > 0; --equals) {
            taken |= ties & (~ties + 1);
            ties &= ties - 1;
        }
        if (kept.size() - done >= width) {
            compress<Arch>(position, taken, kept.data() + done);
            done += static_cast<std::size_t>(std::popcount(taken));
        } else {
            for (; taken != 0; taken &= taken - 1)
                kept[done++] = first + static_cast<token>(i) + static_cast<token>(std::countr_zero(taken));
        }
        position += ints<Arch>(static_cast<std::int32_t>(width));
    }
    for (; done < kept.size(); ++i) {
        std::int32_t const x = rank(scores[i]);
        bool const tie = x == lowest && equals > 0;
        kept[done] = first + static_cast<token>(i);
        done += x > lowest || tie;
        equals -= tie;
    }
}

/// Position of the highest of `scores`: NaN last, the first of equal ones; -1 when there are none.
/// @complexity O(n)
template <class Arch = default_arch>
[[nodiscard]] index arg_highest(std::span<float const> scores) noexcept {
    constexpr std::size_t width = ints<Arch>::size;
    std::size_t const whole = scores.size() - scores.size() % width;
    index found = -1;
    std::int32_t best = 0;
    auto const take = [&](std::int32_t x, index at) {
        if (found >= 0 && (x < best || (x == best && at > found))) return;
        best = x;
        found = at;
    };
    if (whole != 0) {
        auto highest = load_ranks<Arch>(scores.data());
        auto position = load_positions<Arch>(0), where = position;
        for (std::size_t i = width; i < whole; i += width) {
            position += ints<Arch>(static_cast<std::int32_t>(width));
            auto const x = load_ranks<Arch>(scores.data() + i);
            auto const better = x > highest;
            highest = xsimd::select(better, x, highest);
            where = xsimd::select(better, position, where);
        }
        std::array<std::int32_t, width> values, positions;
        highest.store_unaligned(values.data());
        where.store_unaligned(positions.data());
        for (std::size_t lane = 0; lane < width; ++lane) take(values[lane], positions[lane]);
    }
    for (std::size_t i = whole; i < scores.size(); ++i) take(rank(scores[i]), static_cast<index>(i));
    return found;
}

}  // namespace terse::simd
