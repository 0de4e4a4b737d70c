// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/compact.hpp>
#include <terse/score/attention.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/blocks.hpp>
#include <terse/simd/dot.hpp>

namespace terse::kv {

/// What the slots of one layer's cache have received so far, one score a slot for all heads: the state of block-wise
/// eviction. Either sums of all steps, with the number of queries behind each where `since` has memory; or, where
/// `history` has memory, the last steps themselves.
///
/// A value over the engine's memory: to fork or save it, copy what the spans hold along with it. Evict with the plans
/// that it leads to, and `compact` it with the same plans.
struct block_scores {
    std::span<double> sums{};    ///< [capacity]; empty with a history
    std::span<token> since{};    ///< [capacity]: the number of the first query that scored a slot; empty: not counted
    std::span<float> history{};  ///< [steps to remember, capacity]; empty: sums
    index capacity = 0;          ///< the most slots
    index used = 0;              ///< slots in use
    index queries = 0;           ///< queries so far: those of the prompt, and one a token since
    index steps = 0;             ///< rows of the history in use
    index next = 0;              ///< the row that the next step takes
    bool prompt_only = false;    ///< the history holds nothing but the first call's scores, which are not pooled

    [[nodiscard]] constexpr index tokens() const noexcept { return used; }
    [[nodiscard]] constexpr bool remembers() const noexcept { return !history.empty(); }
    [[nodiscard]] constexpr index window() const noexcept { return capacity > 0 ? std::ssize(history) / capacity : 0; }
    [[nodiscard]] constexpr std::span<float> step(index row) const noexcept {
        return history.subspan(static_cast<std::size_t>(row * capacity), static_cast<std::size_t>(capacity));
    }

    /// How many queries have scored a slot.
    [[nodiscard]] constexpr index count(index slot) const noexcept {
        return queries - since[static_cast<std::size_t>(slot)];
    }

    /// errc::bad_shape unless the memory holds `capacity` slots, and sums or a history.
    [[nodiscard]] constexpr errc check() const noexcept {
        bool const kept =
            remembers() ? window() >= 1 && std::ssize(history) % capacity == 0 : std::ssize(sums) >= capacity;
        bool const counted = since.empty() || std::ssize(since) >= capacity;
        return kept && counted && 0 <= used && used <= capacity ? errc::ok : errc::bad_shape;
    }

    /// Adds the scores of one call of the model: a prompt, a chunk of it, or a step of decoding.
    ///
    /// @param scores  one a slot, reduced over heads and over the call's queries; those past `tokens()` are new
    /// @param pool    a slot takes the largest of this many scores, from its own on; not for a history
    /// @param voters  first call: how many of the last queries the scores are from; 0: all
    /// @return        errc::bad_shape by `check`, for fewer scores than slots, more than `capacity`, or more queries
    ///                than `token` counts; errc::bad_setting for a pool outside [1, simd::widest_forward_max] or voters
    ///                outside [0, scores]; errc::aliased when the scores overlap the state
    /// @complexity    O(tokens); no scratch
    errc add(std::span<float const> scores, index pool = 1, index voters = 0) noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        index const n = std::ssize(scores), before = used;
        if (n < before || n > capacity || queries + n - before > max_tokens) return errc::bad_shape;
        if (pool < 1 || pool > simd::widest_forward_max || voters < 0 || voters > n) return errc::bad_setting;
        if (overlap(scores, sums) || overlap(scores, history)) return errc::aliased;

        bool const first = queries == 0;
        index const unheard = first && voters > 0 ? n - voters : 0;  // queries of the prompt without a vote
        for (index t = before; t < n && !since.empty(); ++t)
            since[static_cast<std::size_t>(t)] = static_cast<token>(std::max(queries + t - before, unheard));
        if (remembers()) {
            for (index row = 0; row < steps; ++row) std::fill(step(row).begin() + before, step(row).begin() + n, 0.0F);
            std::copy(scores.begin(), scores.end(), step(next).begin());
            next = (next + 1) % window();
            steps = std::min(steps + 1, window());
            prompt_only = first;
        } else {
            std::fill(sums.begin() + before, sums.begin() + n, 0.0);
            simd::add_forward_max(scores, pool, sums);
        }
        used = n;
        queries += n - before;
        return errc::ok;
    }

    /// The same from a layer: the attention of its last queries, its mean over all query heads.
    ///
    /// @param voters  how many of the last queries vote; 0: all that the layer has
    /// @return        also errors of `score::attention`; errc::out_of_memory
    /// @complexity    as `score::attention`
    template <class T, class Cache, executor Run = serial>
    errc add(layer<T, Cache> const& l, index pool, index voters, arena& memory, Run const& run = {}) noexcept {
        rollback const scratch_only{memory};
        result<scores> const seen = score::attention{.queries = voters, .across_heads = true}(l, memory, run);
        if (!seen) return seen.error();
        return add(seen->row(0), pool, std::min(voters, l.tokens()));
    }

    /// The scores of slots [begin, end): their sums, or their mean over the history, pooled.
    ///
    /// @param memory  scratch and, with a history, what is returned
    /// @pre           check() == errc::ok, 0 <= begin <= end <= tokens()
    /// @return        errc::bad_setting for a pool outside its range; errc::out_of_memory
    /// @complexity    constant; with a history O(steps * (end - begin))
    [[nodiscard]] result<std::span<double const>> values(index begin, index end, index pool,
                                                         arena& memory) const noexcept {
        auto const count = static_cast<std::size_t>(end - begin);
        if (!remembers()) return std::span<double const>{sums.subspan(static_cast<std::size_t>(begin), count)};
        if (pool < 1 || pool > simd::widest_forward_max) return errc::bad_setting;

        rollback undo{memory};
        auto const out = memory.take<double>(end - begin);
        auto const top = memory.here();
        index const width = prompt_only ? 1 : pool, reached = std::min(used - begin, end - begin + width - 1);
        auto const mean = memory.take<float>(reached);
        if (!taken(out, mean)) return errc::out_of_memory;
        std::fill(mean.begin(), mean.end(), 0.0F);
        for (index row = 0; row < steps; ++row)
            simd::add_scaled(step(row).data() + begin, 1.0F / static_cast<float>(steps), mean.data(), reached);
        if (width > 1) {
            std::fill(out.begin(), out.end(), 0.0);
            simd::forward_max<simd::default_arch>(
                mean.data(), reached, width, [&](index first, index pooled, float const* maxima) noexcept {
                    for (index i = first; i < std::min(first + pooled, std::ssize(out)); ++i)
                        out[static_cast<std::size_t>(i)] = static_cast<double>(maxima[i - first]);
                });
        } else {
            std::copy(mean.begin(), mean.end(), out.begin());
        }
        memory.rewind(top);
        undo.keep();
        return std::span<double const>{out};
    }

    /// Keeps the scores of the slots that the plan keeps. A history starts anew.
    /// @return  errc::bad_plan unless it is one selection for all heads, in ascending order; errc::bad_shape when it is
    ///          for another number of slots
    errc compact(plans const& kept) noexcept {
        if (errc const error = check_compaction(kept, 1, used); error != errc::ok) return error;
        if (!sums.empty()) simd::compact_rows(sums.data(), 1, kept[0].sources, 1);
        if (!since.empty()) simd::compact_rows(since.data(), 1, kept[0].sources, 1);
        steps = next = 0;
        prompt_only = false;
        used = kept[0].kept();
        return errc::ok;
    }
};

}  // namespace terse::kv
