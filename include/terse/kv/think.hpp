// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/evict.hpp>
#include <terse/score/channel_energy.hpp>

namespace terse::kv {

/// Keeps the channels of the keys that add most to the logits of the last queries. Its plans are over channels: apply
/// them with `gather_channels` to keys and queries, which then meet in fewer channels, or with `zero_channels` to see
/// what it costs.
///
/// Source: Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning", arXiv:2407.21018, in the form of NVIDIA's
/// kvpress: the mean square of a channel's queries, over the group, times that of its keys. The authors leave the keys
/// of the window whole; which slots are made thin is the engine's choice here. Keys are pruned as cached, after
/// position encoding, and keys that come later lose the same channels.
struct think {
    index keep = 0;     ///< channels to keep for each kv head
    index window = 32;  ///< last queries that vote

    [[nodiscard]] constexpr score::channel_energy scorer() const noexcept { return {window}; }
    [[nodiscard]] constexpr index count(index channels) const noexcept { return keep < channels ? keep : channels; }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last `window` queries [heads, window, dim]
    /// @return    a selection of the dim channels for each kv head, ascending; errc::bad_setting for a window below
    ///            one; errors as `evict`'s and `score::channel_energy`'s
    /// @complexity O((kv_heads * tokens + heads * window) * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (window < 1) return errc::bad_setting;
        auto const score = [this](over_channels<layer<T, Cache>> const& input, arena& scratch,
                                  Run const& workers) noexcept { return scorer()(input.of, scratch, workers); };
        return evict<decltype(score)>{score, {keep}}(over_channels<layer<T, Cache>>{l}, memory, run);
    }

  private:
    /// A layer whose channels are what is selected.
    template <class Layer>
    struct over_channels {
        Layer const& of;

        [[nodiscard]] constexpr index tokens() const noexcept { return of.keys.dim; }
        [[nodiscard]] constexpr index kv_heads() const noexcept { return of.kv_heads(); }
    };
};

}  // namespace terse::kv
