// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>

#include <terse/core/rank.hpp>
#include <terse/core/types.hpp>
#include <terse/simd/load_store.hpp>

// Limited by passes over the scores: one that counts and keeps what lies in a bracket of the k-th, one that writes the
// positions; each a read, a comparison or two, and a compressing store a register. For few scores it is the bracket.

namespace terse::simd {

/// That of NaN.
inline constexpr std::int32_t lowest_rank = std::numeric_limits<std::int32_t>::min();

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
    ints<Arch> const zero(0), lowest(lowest_rank);
    auto const negative = bits < zero;
    auto const unordered = magnitude > ints<Arch>(0x7F80'0000);
#if defined(__AVX512F__)
    if constexpr (ints<Arch>::size == 16) {
        auto const ordered = _mm512_mask_sub_epi32(magnitude, negative.data, zero, magnitude);
        return ints<Arch>(_mm512_mask_mov_epi32(ordered, unordered.data, lowest));
    }
#endif
    return blend<Arch>(unordered, lowest, blend<Arch>(negative, -magnitude, magnitude));
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

template <class Arch>
inline constexpr unsigned all_lanes = static_cast<unsigned>((std::uint64_t{1} << ints<Arch>::size) - 1);

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

/// The same, but nothing is written beyond these lanes.
template <class Arch>
void compress_exactly(ints<Arch> const& x, unsigned bits, std::int32_t* to) noexcept {
    index const count = std::popcount(bits);
#if defined(__AVX512F__)
    if constexpr (ints<Arch>::size == 16) {
        auto const front = _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), x.data);
        _mm512_mask_storeu_epi32(to, first_lanes(count), front);
        return;
    }
#endif
    std::array<std::int32_t, ints<Arch>::size + 1> front;
    compress<Arch>(x, bits, front.data());
    copy_few<2 * lanes<Arch>>(front.data(), to, count);
}

/// first, first + 1, ...
template <class Arch>
[[nodiscard]] ints<Arch> load_positions(std::int32_t first) noexcept {
    std::array<std::int32_t, ints<Arch>::size> values;
    std::iota(values.begin(), values.end(), first);
    return ints<Arch>::load_unaligned(values.data());
}

/// Ranks that were found before stand for themselves.
using terse::rank;
[[nodiscard]] constexpr std::int32_t rank(std::int32_t known) noexcept { return known; }
template <class Arch>
[[nodiscard]] ints<Arch> rank(ints<Arch> const& known) noexcept {
    return known;
}

/// The ranks of the first `count` scores, of `lanes` at most; then the lowest there is.
template <class Arch, class Source>
[[nodiscard]] ints<Arch> load_ranks(Source const* from, index count = lanes<Arch>) noexcept {
    if (count >= lanes<Arch>) return rank(xsimd::batch<Source, Arch>::load_unaligned(from));
    if constexpr (std::same_as<Source, float>) {
        auto const valid = ints<Arch>(static_cast<std::int32_t>(count)) > load_positions<Arch>(0);
        return blend<Arch>(valid, rank(load_partial<Arch>(from, count)), ints<Arch>(lowest_rank));
    } else {
        std::array<Source, ints<Arch>::size> values;
        values.fill(lowest_rank);
        copy_few<lanes<Arch>>(from, values.data(), count);
        return ints<Arch>::load_unaligned(values.data());
    }
}

/// All lanes reduced by `op`, in every lane.
template <class Arch, class Op>
[[nodiscard]] ints<Arch> reduce_lanes(ints<Arch> const& x, Op const& op) noexcept {
    auto const by_bits = [&op](floats<Arch> const& a, floats<Arch> const& b) noexcept {
        return std::bit_cast<floats<Arch>>(op(std::bit_cast<ints<Arch>>(a), std::bit_cast<ints<Arch>>(b)));
    };
    return std::bit_cast<ints<Arch>>(reduce_lanes<Arch>(std::bit_cast<floats<Arch>>(x), by_bits));
}

/// The highest lane, in every lane.
template <class Arch>
[[nodiscard]] ints<Arch> highest_lane(ints<Arch> const& x) noexcept {
    return reduce_lanes<Arch>(x, [](auto const& a, auto const& b) noexcept { return max_int<Arch>(a, b); });
}

template <class Arch>
[[nodiscard]] std::int32_t first_lane(ints<Arch> const& x) noexcept {
    return std::bit_cast<std::int32_t>(first_lane<Arch>(std::bit_cast<floats<Arch>>(x)));
}

/// Ranks low .. high.
struct rank_range {
    std::int32_t low = lowest_rank;
    std::int32_t high = std::numeric_limits<std::int32_t>::max();
};

/// `count`, one more where x > y.
template <class Arch>
[[nodiscard]] ints<Arch> count_greater(ints<Arch> const& x, ints<Arch> const& y, ints<Arch> const& count) noexcept {
    return blend<Arch>(x > y, count + ints<Arch>(1), count);
}

/// A range that holds the k-th highest of `from`, most likely: found in a sample. Exact when there are few.
/// @complexity O(n), of a sample of 2 * sqrt(n) against itself; no more than of 256
template <class Arch, class Source>
[[nodiscard, gnu::flatten]] rank_range sample(std::span<Source const> from, index k) noexcept {
    constexpr index most = 256;
    index const n = std::ssize(from), root = static_cast<index>(std::sqrt(static_cast<float>(n)));
    index const m = n <= 96 ? n : std::clamp<index>(2 * root, 64, most), step = n / m;
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
            unroll<4>([&](auto v) { beaten[v] = count_greater<Arch>(x[v], other, beaten[v]); });
        }
        unroll<4>([&](auto v) {
            auto const reached = ints<Arch>(static_cast<std::int32_t>(m)) - beaten[v];
            highs = blend<Arch>((x[v] > highs) && (reached > ints<Arch>(above - 1)), x[v], highs);
            lows = blend<Arch>((x[v] > lows) && (reached > ints<Arch>(below - 1)), x[v], lows);
        });
    }
    rank_range found;
    if (above > 0) found.high = first_lane<Arch>(highest_lane<Arch>(highs));
    if (below <= m) found.low = first_lane<Arch>(highest_lane<Arch>(lows));
    return found;
}

struct split {
    index above = 0;   ///< ranks above the range
    index inside = 0;  ///< ranks in it
};

/// Gathers the ranks inside a range to the front of `to`, which may be `from` itself.
/// @complexity O(n)
template <class Arch, class Source>
[[nodiscard, gnu::flatten]] split gather_range(std::span<Source const> from, rank_range range,
                                               std::int32_t* to) noexcept {
    constexpr index width = lanes<Arch>;
    index const n = std::ssize(from);
    ints<Arch> const low(range.low), high(range.high);
    split count;
    index i = 0;
    auto const take = [&]<int Registers>(std::integral_constant<int, Registers>) noexcept {
        std::array<ints<Arch>, Registers> x;
        std::array<unsigned, Registers> above, inside;
        unroll<Registers>([&](auto v) {
            x[v] = load_ranks<Arch>(from.data() + i + v * width);
            above[v] = bits_of(x[v] > high);
            inside[v] = all_lanes<Arch> & ~(above[v] | bits_of(low > x[v]));
        });
        unroll<Registers>([&](auto v) {
            compress<Arch>(x[v], inside[v], to + count.inside);
            count.inside += std::popcount(inside[v]);
            count.above += std::popcount(above[v]);
        });
        i += Registers * width;
    };
    while (n - i >= 4 * width) take(std::integral_constant<int, 4>{});
    while (n - i >= width) take(std::integral_constant<int, 1>{});
    if (i == n) return count;
    auto const last = load_ranks<Arch>(from.data() + i, n - i);
    unsigned const there = (1U << static_cast<unsigned>(n - i)) - 1, above = bits_of(last > high);
    unsigned const inside = there & ~(above | bits_of(low > last));
    compress_exactly<Arch>(last, inside, to + count.inside);
    return {count.above + std::popcount(above), count.inside + std::popcount(inside)};
}

/// The k-th highest rank of `scores`, 1 <= k <= n.
struct threshold {
    std::int32_t rank = 0;
    index above = 0;  ///< how many scores rank above it
    index equal = 0;  ///< how many have it; 0 if that was not counted
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
    return {range.low, above, std::ssize(left)};
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
[[gnu::flatten]] void top_k(std::span<float const> scores, std::span<token> kept, token first,
                            std::span<std::int32_t> scratch) noexcept {
    assert(kept.size() <= scores.size() && std::ssize(scratch) >= top_k_scratch(std::ssize(scores)));
    if (kept.size() == scores.size()) {
        std::iota(kept.begin(), kept.end(), first);
        return;
    }
    if (kept.empty()) return;
    index const n = std::ssize(scores), k = std::ssize(kept);
    auto const [lowest, above, equal] = find_threshold<Arch>(scores, k, scratch);

    // Positions of what ranks above the k-th, and of the first that equal it until there are k.
    constexpr index width = lanes<Arch>;
    index equals = k - above, done = 0, i = 0;
    ints<Arch> position = load_positions<Arch>(first);
    auto const keep = [&](unsigned taken) noexcept {
        if (k - done >= width)
            compress<Arch>(position, taken, kept.data() + done);
        else
            compress_exactly<Arch>(position, taken, kept.data() + done);
        done += std::popcount(taken);
        position += ints<Arch>(static_cast<std::int32_t>(width));
        i += width;
    };
    ints<Arch> limit(lowest);
    if (equals == equal) {
        limit = ints<Arch>(lowest - 1);
        equals = 0;
    }
    while (equals > 0) {
        auto const x = load_ranks<Arch>(scores.data() + i, n - i);
        unsigned ties = bits_of(x == limit);
        while (std::popcount(ties) > equals) ties ^= std::bit_floor(ties);
        equals -= std::popcount(ties);
        keep(bits_of(x > limit) | ties);
    }
    while (n - i >= width && k - done >= width) keep(bits_of(load_ranks<Arch>(scores.data() + i) > limit));
    while (done < k) keep(bits_of(load_ranks<Arch>(scores.data() + i, n - i) > limit));
}

/// Position of the highest of `scores`: NaN last, the first of equal ones; -1 when there are none.
/// @complexity O(n)
template <class Arch = default_arch>
[[nodiscard]] index arg_highest(std::span<float const> scores) noexcept {
    index const n = std::ssize(scores);
    if (n == 0) return -1;
    // Lanes count their positions down from -1, so that of equal scores the highest is the first. One without a score
    // has the rank of NaN, at a position that is never the first.
    ints<Arch> const lowest(lowest_rank), width(static_cast<std::int32_t>(lanes<Arch>));
    auto place = ~load_positions<Arch>(0), where = place, highest = lowest;
    auto const take = [&](ints<Arch> const& x) noexcept {
        auto const better = x > highest;
        highest = blend<Arch>(better, x, highest);
        where = blend<Arch>(better, place, where);
        place -= width;
    };
    index i = 0;
    for (; i + lanes<Arch> <= n; i += lanes<Arch>) take(load_ranks<Arch>(scores.data() + i));
    if (i < n) take(load_ranks<Arch>(scores.data() + i, n - i));
    auto const best = highest_lane<Arch>(highest);
    return ~first_lane<Arch>(highest_lane<Arch>(blend<Arch>(highest == best, where, lowest)));
}

}  // namespace terse::simd
