// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/compact.hpp>
#include <terse/score/hits.hpp>

namespace terse::kv {

/// How often every slot of a layer's cache was hit by the queries so far: the state of Scissorhands.
///
/// Counts forget by a decay. A window of the last queries that is exact needs those queries: `scissorhands` counts them
/// anew from a layer.
///
/// A value over the engine's memory: to fork or save it, copy `values` and `visible` along with it. Evict with the
/// plans that it leads to, and `compact` it with the same plans.
struct hit_counts {
    std::span<float> values{};   ///< [kv_heads, capacity], the engine's memory
    std::span<float> visible{};  ///< the same size: how many queries saw a slot; empty: not counted
    index heads = 0;             ///< kv heads
    index capacity = 0;          ///< the most slots for a head
    index used = 0;              ///< slots in use, the same for every head

    [[nodiscard]] constexpr index kv_heads() const noexcept { return heads; }
    [[nodiscard]] constexpr index tokens() const noexcept { return used; }
    [[nodiscard]] constexpr std::span<float> row(index h) const noexcept { return part(values, h, used); }
    [[nodiscard]] constexpr std::span<float> visible_row(index h) const noexcept { return part(visible, h, used); }

    /// Adds the hits of the layer's last queries. Slots that are new to the counts start at zero.
    ///
    /// @param l      `tokens()` slots, the last ones new, and the queries of the new tokens (or their attention)
    /// @param how    which of the queries count, and what for
    /// @param decay  in [0, 1]: what is left of the counts so far; 1 forgets nothing
    /// @return       errc::bad_setting for another decay; errc::bad_shape when the layer has other heads, fewer slots
    ///               than the counts or more than `capacity`, heads of different lengths, or `values` or `visible` are
    ///               too small; the errors of `score::hits`; errc::out_of_memory
    /// @complexity   as `score::hits`; reading `l.attention`: O(heads * queries * tokens)
    template <class T, class Cache, executor Run = serial>
    errc add(layer<T, Cache> const& l, arena& memory, Run const& run = {}, score::hits const& how = {},
             float decay = 1) noexcept {
        if (!(decay >= 0 && decay <= 1)) return errc::bad_setting;
        if (l.kv_heads() != heads || l.tokens() < used || l.tokens() > capacity) return errc::bad_shape;
        index const size = heads * capacity;
        if (std::ssize(values) < size || (!visible.empty() && std::ssize(visible) < size)) return errc::bad_shape;
        if (!is_even(l)) return errc::bad_shape;
        if (errc const error = how.check(l); error != errc::ok) return error;

        auto const started = [&](index h) noexcept {  // asked for once what may fail is done
            auto const counts = part(values, h, l.tokens());
            start(counts, decay);
            return counts;
        };
        if (errc const error = how.add(l, started, memory, run); error != errc::ok) return error;
        for (index h = 0; h < heads && !visible.empty(); ++h) {
            auto const seen = part(visible, h, l.tokens());
            start(seen, decay);
            how.for_each_visible(l, h, [&](std::size_t t, float count) { seen[t] += count; });
        }
        used = l.tokens();
        return errc::ok;
    }

    /// Keeps the counts of the slots that the plans keep.
    /// @return  errc::bad_plan unless every head has a selection in ascending order and all keep the same count;
    ///          errc::bad_shape when a plan is for another number of slots
    errc compact(plans const& kept) noexcept {
        if (errc const error = check_even_compaction(kept, heads, used); error != errc::ok) return error;
        for (auto const all : {values, visible}) {
            if (all.empty()) continue;
            errc const error = kv::compact(heads_span<float>{all.data(), heads, used, 1, capacity, 1}, kept);
            if (error != errc::ok) return error;
        }
        used = kept[0].kept();
        return errc::ok;
    }

  private:
    [[nodiscard]] constexpr std::span<float> part(std::span<float> all, index h, index count) const noexcept {
        return all.subspan(static_cast<std::size_t>(h * capacity), static_cast<std::size_t>(count));
    }

    /// What is left of a row's counts, and zeros for new slots.
    void start(std::span<float> row, float decay) const noexcept {
        if (decay < 1)
            for (float& x : row.first(static_cast<std::size_t>(used))) x *= decay;
        std::fill(row.begin() + used, row.end(), 0.0F);
    }
};

}  // namespace terse::kv
