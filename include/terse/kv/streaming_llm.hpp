// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>

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
        return keep_places(1, tokens, layer<float>{}, memory);
    }

    /// The same from a layer, of which only the numbers of slots are read. What it guards is kept as well.
    /// @return  a selection for each head where heads have different lengths or positions, else one that all share;
    ///          errors as above, and errc::bad_shape unless the guarded ranges ascend and are apart
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory, Run const& = {}) const noexcept {
        bool const even = (l.guarded.empty() || l.positions.tokens <= 1) && is_even(l);
        return keep_places(even ? 1 : l.kv_heads(), l.tokens(), l, memory);
    }

  private:
    [[nodiscard]] constexpr select::quota places() const noexcept {
        return {max_tokens, sinks, std::max<index>(recent - coming, 0)};
    }

    template <class Layer>
    [[nodiscard]] result<plans> keep_places(index rows, index tokens, Layer const& l, arena& memory) const noexcept {
        if (coming < 0) return errc::bad_budget;
        if (errc const error = select::check_ends(sinks, recent); error != errc::ok) return error;
        if (tokens < 0 || tokens > max_tokens) return errc::bad_shape;
        rollback undo{memory};
        auto const items = memory.take<plan>(rows);
        auto const quotas = select::rows_of(l, rows, tokens, places(), memory);
        if (!quotas) return quotas.error();
        if (!taken(items)) return errc::out_of_memory;
        for (std::size_t h = 0; h < items.size(); ++h) {
            auto const [own, q] = (*quotas)[h];
            auto const kept = memory.take<token>(q.fixed(own));
            if (!taken(kept)) return errc::out_of_memory;
            select::choose_fixed(q, own, kept);
            std::construct_at(&items[h], select_rows(kept, own));
        }
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv
