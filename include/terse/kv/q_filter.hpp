// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/projection.hpp>

namespace terse::kv {

/// Keeps the slots whose keys reach least along their head's filter: the principal direction of the model's queries,
/// along which long keys go unattended.
///
/// Source: Godey et al., "Q-Filters: Leveraging QK Geometry for Efficient KV Cache Compression", arXiv:2503.02812. As
/// published, for filters that the caller brings: of each kv head the first right singular vector of the queries of a
/// calibration text, with the sign that the authors' filters have. The protection of sinks and recent slots is an
/// addition, off by default.
struct q_filter {
    index keep = 0;                ///< slots to keep for each kv head, protected ones included
    tokens_view<float> filters{};  ///< [kv_heads, dim]
    index sinks = 0;               ///< first slots, always kept
    index recent = 0;              ///< last slots, always kept

    [[nodiscard]] constexpr score::projection scorer() const noexcept { return {filters}; }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim]
    /// @return    a selection for each kv head; errc::bad_shape when the filters are not [kv_heads, dim] and something
    ///            must go; errors as `evict`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::projection>{scorer(), {keep}, sinks, recent}(l, memory, run);
    }
};

}  // namespace terse::kv
