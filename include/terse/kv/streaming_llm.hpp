// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>

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

    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        if (tokens <= sinks || tokens - sinks <= recent - coming) return tokens;
        return sinks + std::max<index>(recent - coming, 0);
    }

    /// @param tokens  slots in use
    /// @return        one selection that all heads share; errc::bad_budget for a negative setting or sinks + recent =
    /// 0;
    ///                errc::bad_shape when `tokens` is negative or exceeds `token`; errc::out_of_memory
    /// @complexity    O(kept)
    [[nodiscard]] result<plans> operator()(index tokens, arena& memory) const noexcept {
        if (sinks < 0 || recent < 0 || coming < 0 || (sinks == 0 && recent == 0)) return errc::bad_budget;
        if (tokens < 0 || tokens > max_tokens) return errc::bad_shape;
        rollback undo{memory};
        auto const item = memory.take<plan>(1);
        auto const kept = memory.take<token>(count(tokens));
        if (!taken(item) || !taken(kept)) return errc::out_of_memory;
        auto const tail = kept.begin() + std::min(sinks, std::ssize(kept));
        std::iota(kept.begin(), tail, token{0});
        std::iota(tail, kept.end(), static_cast<token>(tokens - (kept.end() - tail)));
        std::construct_at(item.data(), select_rows(kept, tokens));
        undo.keep();
        return plans{item};
    }

    /// The same from a layer, of which only the number of slots is read.
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory, Run const& = {}) const noexcept {
        return (*this)(l.tokens(), memory);
    }
};

}  // namespace terse::kv
