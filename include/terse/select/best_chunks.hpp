// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/select/top_k.hpp>
#include <terse/simd/dot.hpp>

namespace terse::select {

/// Marks what a row keeps whatever its score.
/// @param stays  [tokens]
inline void mark_fixed(quota q, index tokens, index scored, std::span<bool> stays) noexcept {
    q.trailing = std::max(q.trailing, tokens - scored);
    auto at = stays.begin();
    if (q.fixed(tokens) < tokens) {
        q.for_each_free(tokens, [&](index begin, index end) {
            std::fill(at, stays.begin() + begin, true);
            at = stays.begin() + end;
        });
    }
    std::fill(at, stays.end(), true);
}

/// The chunks of consecutive tokens with the highest mean scores, the same for all rows. A chunk's score is the mean
/// over its scored tokens of the sum over rows; of equal chunks the earlier wins. Chunks with a protected token come
/// first.
///
/// @param s       [rows, scored]; the last tokens - scored have no score and are kept
/// @param rows    [rows], all of `tokens` tokens; what is protected in one is in all
/// @param keep    tokens to keep, at most `tokens`
/// @param chunk   tokens of a chunk, at least 1; the last may have fewer
/// @param exact   keep exactly `keep`: of the worst chunk kept, the best tokens. Else keep / chunk whole chunks, at
///                least one, which may be fewer tokens, or chunk instead of `keep` ones
/// @param kept    at least max(keep, chunk), or `tokens` where there are fewer: receives the ascending positions
/// @param memory  scratch, given back
/// @return        how many are kept; errc::bad_shape when a row has another length; errc::bad_budget when more is
///                protected than kept; errc::out_of_memory
/// @complexity    O(rows * tokens), and sorting the chunks
[[nodiscard]] inline result<index> best_chunks(scores const& s, index tokens, std::span<row const> rows, index keep,
                                               index chunk, bool exact, std::span<token> kept, arena& memory) noexcept {
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    rows = rows.first(at(s.heads));
    if (std::any_of(rows.begin(), rows.end(), [tokens](row const& r) { return r.tokens != tokens; }))
        return errc::bad_shape;
    index const chunks = (tokens + chunk - 1) / chunk;
    rollback const scratch_only{memory};
    auto const sums = memory.take<float>(s.tokens);
    auto const stays = memory.take<bool>(tokens);
    auto const order = memory.take<std::uint64_t>(chunks);
    auto const apart = memory.take<float>(chunk);
    auto const ranks = memory.take<std::int32_t>(simd::top_k_scratch(chunk));
    auto const best = memory.take<token>(chunk);
    if (!taken(sums, stays, order, apart, ranks, best)) return errc::out_of_memory;

    std::fill(sums.begin(), sums.end(), 0.0F);
    for (index h = 0; h < s.heads; ++h) simd::add_scaled(s.row(h).data(), 1.0F, sums.data(), s.tokens);
    std::fill(stays.begin(), stays.end(), false);
    for (row const& r : rows) mark_fixed(r.q, tokens, s.tokens, stays);
    index left = keep - std::count(stays.begin(), stays.end(), true);
    if (left < 0) return errc::bad_budget;

    // Chunks as numbers that sort by what must stay, then by score, then by place.
    auto const bounds = [=](index c) { return range{c * chunk, std::min(c * chunk + chunk, tokens)}; };
    index forced = 0;
    for (index c = 0; c < chunks; ++c) {
        auto const [begin, end] = bounds(c);
        index const scored = std::clamp<index>(s.tokens - begin, 0, end - begin);
        float const mean = simd::sum(sums.data() + begin, scored) / static_cast<float>(std::max<index>(scored, 1));
        bool const must = std::find(stays.begin() + begin, stays.begin() + end, true) != stays.begin() + end;
        auto const ordered = static_cast<std::uint32_t>(rank(mean)) ^ 0x8000'0000U;
        order[at(c)] =
            std::uint64_t{must} << 63 | std::uint64_t{ordered} << 31 | static_cast<std::uint64_t>(max_tokens - c);
        forced += must;
    }
    std::sort(order.begin(), order.end(), std::greater<>{});

    index const whole = std::max<index>(keep / chunk, 1);
    if (!exact && forced > whole) return errc::bad_budget;
    for (index i = 0; i < (exact ? chunks : std::min(whole, chunks)); ++i) {
        auto const [begin, end] = bounds(max_tokens - static_cast<index>(order[at(i)] & 0x7FFF'FFFFU));
        auto const free = std::count(stays.begin() + begin, stays.begin() + end, false);
        if (!exact || free <= left) {
            std::fill(stays.begin() + begin, stays.begin() + end, true);
            left -= free;
            continue;
        }
        index count = 0;
        for (index t = begin; t < end; ++t)
            if (!stays[at(t)]) apart[at(count++)] = sums[at(t)];
        auto const chosen = best.first(at(left));
        simd::top_k(std::span<float const>{apart.first(at(count))}, chosen, 0, ranks);
        auto next = chosen.begin();
        count = 0;
        for (index t = begin; t < end && next != chosen.end(); ++t) {
            if (stays[at(t)]) continue;
            stays[at(t)] = count == *next;
            next += count++ == *next;
        }
        break;
    }
    auto to = kept.begin();
    for (token t = 0; t < tokens; ++t)
        if (stays[at(t)]) *to++ = t;
    return to - kept.begin();
}

}  // namespace terse::select
