// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>

#include <terse/core/picked.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// Compresses a prompt as it would be if it came in blocks: after each block what is kept so far and the block are
/// scored together, and the best stay. So a cache never holds more than keep + block slots.
///
/// Source: Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
/// Resource-Constrained Environments", arXiv:2504.15364, over any scorer; as kvpress's BlockPress. An engine that feeds
/// a prompt in blocks calls `evict` after each, with the same result.
///
/// Scorers that want queries get those of the block, where the layer has the queries of all its tokens:
/// all of them, where a short last block has fewer than `score::attention` is to ask.
template <class Score>
struct by_blocks {
    Score score{};
    index keep = 0;     ///< slots to keep for each kv head, protected ones included
    index block = 128;  ///< tokens that join at a time
    index sinks = 0;    ///< first slots, always kept
    index recent = 0;   ///< last slots after every block, kept in it; those that the scorer leaves out as well

    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   what `score` reads
    /// @return    a selection for each kv head, slots ascending; errc::bad_setting for a block below one; errors as
    ///            `evict`'s
    /// @complexity tokens / block times the scorer's for keep + block slots
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (block < 1) return errc::bad_setting;
        select::quota const q{keep, sinks, recent, l.guarded};
        if (errc const error = q.check(); error != errc::ok) return error;
        index const tokens = l.tokens(), heads = l.kv_heads();
        if (tokens < 0 || tokens > max_tokens || heads < 1 || !has_positions_of_all(l)) return errc::bad_shape;

        rollback undo{memory};
        auto const items = memory.take<plan>(heads);
        if (!taken(items)) return errc::out_of_memory;
        index const most = std::min(keep, tokens), room = std::min(most + std::min(block, tokens), tokens);
        auto const slots = memory.take<token>(heads * room);
        auto const top = memory.here();
        bool const has_positions = l.positions.data != nullptr;
        auto const positions = memory.take<token>(has_positions ? heads * room : 0);
        auto const asking = memory.take<token>(std::min(block, tokens));
        auto const lengths = memory.take<index>(heads);
        if (!taken(slots, positions, asking, lengths)) return errc::out_of_memory;
        auto const row = [room](std::span<token> all, index h) {
            return all.subspan(static_cast<std::size_t>(h * room), static_cast<std::size_t>(room));
        };
        for (index h = 0; h < heads; ++h) {
            lengths[static_cast<std::size_t>(h)] = std::min(most, l.length(h));
            std::iota(row(slots, h).begin(), row(slots, h).begin() + lengths[static_cast<std::size_t>(h)], token{0});
        }

        for (index begin = most; begin < tokens; begin += block) {
            index const end = std::min(begin + block, tokens);
            index longest = 0;
            for (index h = 0; h < heads; ++h) {
                index& length = lengths[static_cast<std::size_t>(h)];
                for (index t = begin; t < std::min(end, l.length(h)); ++t)
                    row(slots, h)[static_cast<std::size_t>(length++)] = static_cast<token>(t);
                longest = std::max(longest, length);
                for (index t = 0; has_positions && t < length; ++t) {
                    auto const at = static_cast<std::size_t>(t);
                    row(positions, h)[at] = l.positions_of(h)[static_cast<std::size_t>(row(slots, h)[at])];
                }
            }
            tokens_view<token> const picked{slots.data(), heads, longest, room};
            tokens_view<token> const at{has_positions ? positions.data() : slots.data(), heads, longest, room};
            auto now = pick_slots(l, picked, at, lengths, longest, {begin, end});
            if (now.window() > 0 && !has_positions) {  // fewer may be there than a scorer asks for
                std::iota(asking.begin(), asking.end(), static_cast<token>(begin));
                now.query_positions = asking.first(static_cast<std::size_t>(end - begin));
            }
            auto const before = memory.here();
            result<plans> const best = select::highest(score, now, heads, longest, q, memory, run);
            if (!best) return best.error();
            for (index h = 0; h < heads; ++h) {
                auto const own = row(slots, h);
                auto const sources = (*best)[h].sources;
                for (std::size_t i = 0; i < sources.size(); ++i) own[i] = own[static_cast<std::size_t>(sources[i])];
                lengths[static_cast<std::size_t>(h)] = std::ssize(sources);
            }
            memory.rewind(before);
        }
        for (index h = 0; h < heads; ++h) {
            auto const kept = row(slots, h).first(static_cast<std::size_t>(lengths[static_cast<std::size_t>(h)]));
            std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(kept, l.length(h)));
        }
        memory.rewind(top);
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv
