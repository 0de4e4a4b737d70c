// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/result.hpp>
#include <terse/select/blocks.hpp>

namespace terse::select {

/// The pattern of bits that blocks are compared with.
enum class anchor : unsigned char {
    random,       ///< fair bits from a seed, the same on every platform
    zeros,        ///< blocks without high scores come first
    ones,         ///< blocks full of them
    mean,         ///< each bit as in more than half of the blocks
    alternating,  ///< 0 1 0 1 ...
};

/// Of blocks that are to go, those that stand for the patterns of all: KVCrush.
///
/// A token's bit says whether its score is among the highest half. Blocks are put in the order of the Hamming distance
/// of their bits to the anchor, of equal ones the first first, and every (going / rescued)-th is rescued.
///
/// Source: Jha et al., "KVCrush: Key value cache size-reduction using similarity in head-behaviour", arXiv:2503.00022,
/// as OpenVINO GenAI has it. Differs: stable in its order, and with a generator of its own for random bits.
/// @param scores   [blocks * block], one a token
/// @param going    blocks, ascending
/// @param rescued  receives the rescued blocks, ascending; its size says how many
/// @param memory   scratch, given back
/// @pre            1 <= rescued.size() <= going.size(), all of them within the scores
/// @return         errc::out_of_memory
/// @complexity     O(tokens + going * log(going))
inline errc rescue(std::span<double const> scores, index block, std::span<token const> going, anchor kind,
                   std::uint64_t seed, std::span<token> rescued, arena& memory) noexcept {
    index const n = std::ssize(scores), blocks = n / block, words = (block + 63) / 64;
    rollback const scratch_only{memory};
    auto const high = memory.take<token>(n / 2);
    auto const bits = memory.take<std::uint64_t>(blocks * words);
    auto const pattern = memory.take<std::uint64_t>(words);
    auto const votes = memory.take<token>(block);
    auto const order = memory.take<std::uint64_t>(std::ssize(going));
    if (!taken(high, bits, pattern, votes, order)) return errc::out_of_memory;
    if (errc const error = top_k(scores, false, high, memory); error != errc::ok) return error;

    auto const set = [](std::span<std::uint64_t> row, index bit) {
        row[static_cast<std::size_t>(bit / 64)] |= std::uint64_t{1} << (bit % 64);
    };
    auto const bits_of = [&](index b) {
        return bits.subspan(static_cast<std::size_t>(b * words), static_cast<std::size_t>(words));
    };
    std::fill(bits.begin(), bits.end(), 0);
    std::fill(pattern.begin(), pattern.end(), 0);
    std::fill(votes.begin(), votes.end(), 0);
    for (token const at : high) {
        set(bits_of(at / block), at % block);
        ++votes[static_cast<std::size_t>(at % block)];
    }
    for (index bit = 0; bit < block; ++bit) {
        bool on = kind == anchor::ones;
        if (kind == anchor::alternating) on = bit % 2 != 0;
        if (kind == anchor::mean) on = 2 * votes[static_cast<std::size_t>(bit)] > blocks;
        if (kind == anchor::random) {  // splitmix64
            std::uint64_t x = seed += 0x9E3779B97F4A7C15;
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
            on = (x ^ (x >> 31)) >> 63 != 0;
        }
        if (on) set(pattern, bit);
    }

    // The distance above the block's number: one integer orders by both.
    std::transform(going.begin(), going.end(), order.begin(), [&](token b) {
        std::uint64_t distance = 0;
        auto const row = bits_of(b);
        for (std::size_t word = 0; word < row.size(); ++word)
            distance += static_cast<std::uint64_t>(std::popcount(row[word] ^ pattern[word]));
        return distance << 32 | static_cast<std::uint64_t>(b);
    });
    std::sort(order.begin(), order.end());
    std::size_t const step = going.size() / rescued.size();
    for (std::size_t i = 0; i < rescued.size(); ++i) rescued[i] = static_cast<token>(order[i * step] & 0xFFFF'FFFF);
    std::sort(rescued.begin(), rescued.end());
    return errc::ok;
}

}  // namespace terse::select
