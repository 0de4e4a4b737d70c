// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/compact.hpp>
#include <terse/score/attention.hpp>
#include <terse/simd/accumulate.hpp>

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
    /// @return       errc::bad_shape when the layer has other heads, fewer slots than the sums or more than `capacity`,
    ///               or heads of different lengths; the errors of `score::attention`; errc::out_of_memory
    /// @complexity   as `score::attention`; reading `l.attention`: O(heads * queries * tokens)
    template <class T, class Cache, executor Run = serial>
    errc add(layer<T, Cache> const& l, arena& memory, Run const& run = {},
             score::reduction group = score::reduction::mean) noexcept {
        if (l.kv_heads() != heads || l.tokens() < used || l.tokens() > capacity) return errc::bad_shape;
        if (std::ssize(values) < heads * capacity || !is_even(l)) return errc::bad_shape;
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

    /// Adds the attention of one query over all slots and finds, in the same pass, the slot of each kv head that has
    /// received least since: a step of decoding in a full cache, where the next token goes over one that is evicted.
    ///
    /// @param attention   [heads, 1, tokens()]: the new token's probabilities, its own slot included
    /// @param begin, end  the slots [begin, end) of every head are those that may go
    /// @param lowest      [kv_heads]: receives the slots; NaN goes first, of equal sums the first slot
    /// @return            errc::bad_shape when heads do not divide, slots or `lowest` differ or the range is not within
    ///                    the slots; errc::bad_budget when it is empty; errc::aliased when the attention overlaps the
    ///                    sums
    /// @complexity        O(heads * tokens), at the speed of the addition alone; no scratch
    template <executor Run = serial>
    errc add_and_find_lowest(attention_view attention, index begin, index end, std::span<token> lowest,
                             Run const& run = {}, score::reduction group = score::reduction::mean) noexcept {
        if (heads <= 0 || attention.heads <= 0 || attention.heads % heads != 0) return errc::bad_shape;
        if (attention.data == nullptr || attention.tokens != 1 || attention.dim != used) return errc::bad_shape;
        if (used > capacity || std::ssize(values) < heads * capacity || std::ssize(lowest) != heads)
            return errc::bad_shape;
        if (begin < 0 || begin > end || end > used) return errc::bad_shape;
        if (begin == end) return errc::bad_budget;
        if (overlap(extent(attention), values)) return errc::aliased;
        index const shared = attention.heads / heads;
        bool const mean = group == score::reduction::mean;
        share_out(run, heads, attention.tokens * used * shared * size_of<float>,
                  [&](index first, index last, index) noexcept {
                      for (index h = first; h < last; ++h) {
                          simd::terms const added{.rows = attention.row(h * shared, 0),
                                                  .stride = attention.head_stride,
                                                  .count = shared,
                                                  .largest = group == score::reduction::max,
                                                  .divisor = mean ? static_cast<float>(shared) : 1.0F};
                          lowest[static_cast<std::size_t>(h)] =
                              static_cast<token>(simd::add_arg_lowest(row(h), added, begin, end));
                      }
                  });
        return errc::ok;
    }

    /// Keeps the sums of the slots that the plans keep.
    /// @return  errc::bad_plan unless every head has a selection in ascending order and all keep the same count;
    ///          errc::bad_shape when a plan is for another number of slots
    errc compact(plans const& kept) noexcept {
        if (errc const error = check_even_compaction(kept, heads, used); error != errc::ok) return error;
        errc const error = kv::compact(heads_span<float>{values.data(), heads, used, 1, capacity, 1}, kept);
        if (error == errc::ok) used = kept[0].kept();
        return error;
    }
};

}  // namespace terse::kv
