// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/best_chunks.hpp>

namespace terse::kv {

/// Keeps whole chunks of consecutive slots, those with the highest mean scores, the same for all heads of a layer: what
/// is kept can still be read in its context.
///
/// Source: Liu et al., "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference",
/// arXiv:2502.00299; the choice of kvpress's ChunkKVPress without `exact`, over any scorer. Differs: what is protected
/// stays and its chunks come first. The paper's reuse of a layer's choice in the next ones needs no call: apply the
/// plan there too.
template <class Score>
struct chunkkv {
    Score score{};
    index keep = 1024;  ///< slots to keep, protected ones included
    index chunk = 20;   ///< slots of a chunk (the paper: 10)
    bool exact = true;  ///< trim the worst chunk kept to meet `keep`; else keep / chunk whole chunks, at least one
    index sinks = 0;    ///< first slots, always kept
    index recent = 0;   ///< last slots, always kept; those that the scorer leaves out are kept as well

    /// With `exact`; else the most that may be kept of more.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return std::min(exact || tokens < chunk ? keep : std::max(keep, chunk), tokens);
    }

    /// @param l   what `score` reads
    /// @return    one selection that all heads share, slots ascending; with fewer slots than a chunk, the highest of
    ///            each row of scores. errc::bad_setting for a chunk below one; errc::bad_shape when heads have
    ///            different lengths; errors as `evict`'s
    /// @complexity the scorer's, and O(kv_heads * tokens)
    template <class Input, executor Run = serial>
    [[nodiscard]] result<plans> operator()(Input const& l, arena& memory, Run const& run = {}) const noexcept {
        if (chunk < 1) return errc::bad_setting;
        index const tokens = l.tokens();
        select::quota const q{keep, sinks, recent};
        if (tokens < chunk) return select::highest(score, l, l.kv_heads(), tokens, q, memory, run);
        auto const choice = [&](scores const& s, std::span<select::row const> rows, std::span<plan> items,
                                std::span<token> kept, arena& scratch) noexcept -> result<index> {
            auto const found = select::best_chunks(s, tokens, rows, keep, chunk, exact, kept, scratch);
            if (!found) return found.error();
            std::construct_at(items.data(), select_rows(kept.first(static_cast<std::size_t>(*found)), tokens));
            return index{1};
        };
        index const room = std::clamp<index>(std::max(keep, chunk), 0, tokens);
        return select::choose_by_score(score, l, l.kv_heads(), tokens, q, room, choice, memory, run);
    }
};

}  // namespace terse::kv
