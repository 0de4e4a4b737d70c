// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/parallel.hpp>
#include <terse/core/types.hpp>
#include <terse/score/scores.hpp>

namespace terse::score {

/// Fills [heads, tokens] from fill(h, begin, end, out), which writes the scores of slots [begin, end) of head h to
/// out[0], out[1], ...; heads are cut anywhere. Slots from length(h) on have no score: NaN, which ranks last.
/// @param channels  that a slot's score reads
template <class Length, class Fill, executor Run>
void for_slots(index heads, index tokens, index channels, Length length, std::span<float> values, Run const& run,
               Fill fill) noexcept {
    share_out(run, heads * tokens, channels * size_of<float>, [&](index begin, index end, index) noexcept {
        while (begin < end) {
            index const h = begin / tokens, first = begin - h * tokens, last = std::min(end - h * tokens, tokens);
            index const held = std::clamp<index>(length(h), first, last);
            float* const out = values.data() + begin;
            if (first < held) fill(h, first, held, out);
            std::fill(out + (held - first), out + (last - first), no_score);
            begin += last - first;
        }
    });
}

/// Slots that go together in a sum over a head: however the work is cut, a block is added up in one go and the blocks
/// in their order, so that the sum does not depend on the cut.
inline constexpr index block_slots = 1024;

[[nodiscard]] constexpr index slot_blocks(index tokens) noexcept { return (tokens + block_slots - 1) / block_slots; }

/// Calls sum(job, h, begin, end) for every block of every head, job = h * slot_blocks(tokens) + block; blocks that lie
/// beyond a head's length are empty.
/// @param channels  that are read of a slot
template <class Length, class Sum, executor Run>
void for_blocks(index heads, index tokens, index channels, Length length, Run const& run, Sum sum) noexcept {
    index const blocks = slot_blocks(tokens);
    index const bytes = block_slots * channels * size_of<float>;
    share_out(run, heads * blocks, bytes, [&](index begin, index end, index) noexcept {
        for (index job = begin; job < end; ++job) {
            index const h = job / blocks, held = length(h), first = std::min(job % blocks * block_slots, held);
            sum(job, h, first, std::min(first + block_slots, held));
        }
    });
}

}  // namespace terse::score
