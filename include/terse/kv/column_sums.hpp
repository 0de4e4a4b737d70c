// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/score/attention.hpp>

namespace terse::kv {

/// The attention that every slot of a layer's cache has received so far: the state of H2O.
///
/// A value over the engine's memory: to fork or save it, copy `values` along with it. Evict with the plans that it
/// leads to, and `compact` it with the same plans.
struct column_sums {
    std::span<float> values{};  ///< [kv_heads, capacity], the engine's memory
    index heads = 0;            ///< kv heads
    index capacity = 0;         ///< the most slots for a head
    index used = 0;             ///< slots in use, the same for every head

    [[nodiscard]] constexpr index kv_heads() const noexcept { return heads; }
    [[nodiscard]] constexpr index tokens() const noexcept { return used; }
    [[nodiscard]] constexpr std::span<float> row(index h) const noexcept {
        return values.subspan(static_cast<std::size_t>(h * capacity), static_cast<std::size_t>(used));
    }

    /// Adds the attention of the layer's last queries. Slots that are new to the sums start at zero.
    ///
    /// @param l      `tokens()` slots, the last ones new, and the queries of the new tokens (or their attention)
    /// @param group  from query heads to the kv head they share
    /// @return       errc::bad_shape when the layer has other heads, fewer slots than the sums or more than `capacity`;
    ///               the errors of `score::attention`; errc::out_of_memory
    /// @complexity   as `score::attention`; reading `l.attention`: O(heads * queries * tokens)
    template <class T, class Cache, executor Run = serial>
    errc add(layer<T, Cache> const& l, arena& memory, Run const& run = {},
             score::reduction group = score::reduction::mean) noexcept {
        if (l.kv_heads() != heads || l.tokens() < used || l.tokens() > capacity) return errc::bad_shape;
        if (std::ssize(values) < heads * capacity) return errc::bad_shape;
        rollback const scratch_only{memory};
        result<scores> const seen = score::attention{.group = group}(l, memory, run);
        if (!seen) return seen.error();
        index const before = used;
        used = l.tokens();
        for (index h = 0; h < heads; ++h) {
            auto const sums = row(h);
            auto const more = seen->row(h);
            std::fill(sums.begin() + before, sums.end(), 0.0F);
            for (std::size_t t = 0; t < sums.size(); ++t) sums[t] += more[t];
        }
        return errc::ok;
    }

    /// Keeps the sums of the slots that the plans keep.
    /// @return  errc::bad_plan unless every head has a selection in ascending order and all keep the same count;
    ///          errc::bad_shape when a plan is for another number of slots
    errc compact(plans const& kept) noexcept {
        if (!kept.shared() && std::ssize(kept.items) != heads) return errc::bad_shape;
        for (plan const& p : kept.items) {
            if (p.tokens != used) return errc::bad_shape;
            if (!p.is_selection() || !p.keeps_order() || p.kept() != kept.items[0].kept()) return errc::bad_plan;
        }
        for (index h = 0; h < heads; ++h) {
            auto const sums = row(h);
            std::size_t to = 0;
            for (token const from : kept[h].sources) sums[to++] = sums[static_cast<std::size_t>(from)];
        }
        used = kept[0].kept();
        return errc::ok;
    }
};

}  // namespace terse::kv
