// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// Keeps the attention sinks and a window of recent slots, whatever they hold.
///
/// Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453. As published; but
/// `coming` at or above `recent` keeps only the sinks and says so by the plan's count, where the published slicing
/// leaves the cache too long. The published cache holds keys before rotation and numbers them by slot: on a rotated
/// cache re-rotate the kept keys (`kv::rotate`), or keep positions and accept the gap.
struct streaming_llm {
    index sinks = 4;     ///< first slots, always kept
    index recent = 512;  ///< last slots, kept after the next `coming` tokens are appended (the authors' demo: 2000)
    index coming = 0;    ///< tokens that the engine is about to append: makes room for them

    [[nodiscard]] constexpr index count(index tokens) const noexcept { return places().fixed(tokens); }

    /// @param tokens  slots in use
    /// @return        one selection that all heads share; errc::bad_budget for a negative setting or
    ///                sinks + recent = 0; errc::bad_shape when `tokens` is negative or exceeds `token`;
    ///                errc::out_of_memory
    /// @complexity    O(kept)
    [[nodiscard]] result<plans> operator()(index tokens, arena& memory) const noexcept {
        return keep_places(
            1, [tokens](index) noexcept { return tokens; }, {}, memory);
    }

    /// The same from a layer, of which only the numbers of slots are read. What it guards is kept as well.
    /// @return  a selection for each head where heads have different lengths, else one that all share; errors as above,
    ///          and errc::bad_shape unless the guarded ranges ascend and are apart
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory, Run const& = {}) const noexcept {
        index rows = 1;
        for (index h = 0; h < l.kv_heads(); ++h)
            if (l.length(h) != l.tokens()) rows = l.kv_heads();
        auto const length = [&](index h) noexcept { return rows == 1 ? l.tokens() : l.length(h); };
        return keep_places(rows, length, l.guarded, memory);
    }

  private:
    [[nodiscard]] constexpr select::quota places(std::span<range const> guarded = {}) const noexcept {
        return {max_tokens, sinks, std::max<index>(recent - coming, 0), guarded};
    }

    template <class Length>
    [[nodiscard]] result<plans> keep_places(index rows, Length const& length, std::span<range const> guarded,
                                            arena& memory) const noexcept {
        if (sinks < 0 || recent < 0 || coming < 0 || (sinks == 0 && recent == 0)) return errc::bad_budget;
        select::quota const q = places(guarded);
        rollback undo{memory};
        auto const items = memory.take<plan>(rows);
        if (!taken(items)) return errc::out_of_memory;
        for (index h = 0; h < rows; ++h) {
            index const tokens = length(h);
            if (tokens < 0 || tokens > max_tokens || !q.ranges_ascend()) return errc::bad_shape;
            auto const kept = memory.take<token>(q.fixed(tokens));
            if (!taken(kept)) return errc::out_of_memory;
            select::choose_fixed(q, tokens, kept);
            std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(kept, tokens));
        }
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv
