// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/kv/evict.hpp>
#include <terse/score/lag.hpp>

namespace terse::kv {

/// Keeps, of each partition of the slots, those that stand out in the scale of the partition after it; and the sinks,
/// the last whole partition and what follows it.
///
/// Source: Liang et al., "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important",
/// arXiv:2504.04704, in the form of NVIDIA's kvpress, whose defaults these are. Differs: channels that are constant
/// over a partition are left out, where the published code divides by zero; a budget below the slots that are always
/// kept keeps the sinks and the last of them. A prompt shorter than the sinks and two partitions keeps its sinks and
/// its last slots, as kvpress; the paper keeps all of it: do not call the policy then.
struct lagkv {
    index keep = 0;              ///< slots to keep for each kv head, protected ones included
    index sinks = 4;             ///< first slots, always kept (the authors' code: 16)
    index lag = 128;             ///< slots of a partition
    bool cross_scoring = false;  ///< compare scores across partitions, instead of ranks within one

    [[nodiscard]] constexpr score::lag scorer() const noexcept { return {sinks, lag, !cross_scoring}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and values [kv_heads, tokens, any]
    /// @return    a selection for each kv head; errc::bad_setting for a lag below one; errors as `evict`'s and
    ///            `score::lag`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (lag < 1) return errc::bad_setting;
        return evict<score::lag>{scorer(), {keep}, sinks, recent(l)}(l, memory, run);
    }

  private:
    /// Last slots that every head keeps: those without a score, as far as the budget goes.
    template <class Layer>
    [[nodiscard]] index recent(Layer const& l) const noexcept {
        index last = keep - std::max<index>(sinks, 0);
        for (range const r : l.guarded) last -= r.size();
        for (index h = 0; h < l.kv_heads(); ++h) last = std::min(last, scorer().unscored(l.length(h)));
        return std::max<index>(last, 0);
    }
};

}  // namespace terse::kv
