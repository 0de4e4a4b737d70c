// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numeric>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/arena.hpp>
#include <terse/core/result.hpp>
#include <terse/simd/batch.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::budget {

/// Whose arithmetic a share of heads follows.
enum class heads_form {
    exact,            ///< kvpress: every head's highest are out of the contest, so the total is met
    kvcache_factory,  ///< the authors': the share of the highest and a floor are mixed, and the sum rounded
};

/// A layer's budget goes to the heads that have the highest scores, besides a floor that every head gets.
///
/// Source: Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM
/// Inference", arXiv:2407.11550. As kvpress has it by default; as the authors' and KVCache-Factory's code in the other
/// form, which keeps some slots more or fewer than the total.
struct across_heads {
    double floor = 0.2;  ///< of the mean count, what every head gets at least, in [0, 1] (the authors: 0.2 or 0.5)
    index least = 1;     ///< and at least so many; `exact` only (kvpress: 0)
    bool normalise =
        false;  ///< weigh a head's scores, not negative, by what share its `mean` highest have of their sum
    heads_form form = heads_form::exact;

    /// errc::bad_budget unless 0 <= floor <= 1 and least >= 0.
    [[nodiscard]] constexpr errc check() const noexcept {
        return floor >= 0 && floor <= 1 && least >= 0 ? errc::ok : errc::bad_budget;
    }

    /// How many of its highest every head keeps, of `mean` on average.
    [[nodiscard]] constexpr index safe(index mean) const noexcept {
        if (form != heads_form::exact) return 0;
        return std::min(std::max(floor_of(mean), least), mean);
    }

    /// @param candidates  the scores of all heads' slots, head after head; NaN ranks last
    /// @param sizes       [heads]: how many of them each head has
    /// @param total       slots that the heads keep together; all, where there are no more
    /// @param counts      [heads]: receives how many each head keeps
    /// @param memory      scratch, given back
    /// @return            check()'s errors; errc::bad_shape when there are more candidates than `token` counts, or
    ///                    sizes do not fit; errc::bad_budget for a negative total; errc::out_of_memory
    /// @complexity        O(candidates)
    [[nodiscard]] errc operator()(std::span<float const> candidates, std::span<index const> sizes, index total,
                                  std::span<index> counts, arena& memory) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        index const all = std::accumulate(sizes.begin(), sizes.end(), index{0}), heads = std::ssize(sizes);
        if (heads < 1 || sizes.size() != counts.size() || all != std::ssize(candidates) || all > max_tokens)
            return errc::bad_shape;
        if (total < 0) return errc::bad_budget;
        if (total >= all) {
            std::copy(sizes.begin(), sizes.end(), counts.begin());
            return errc::ok;
        }
        index const mean = total / heads;

        rollback const scratch_only{memory};
        auto const open = memory.take<float>(all);  // what heads compete for, head after head
        auto const ranks = memory.take<std::int32_t>(simd::top_k_scratch(all));
        auto const kept = memory.take<token>(total);
        if (!taken(open, ranks, kept)) return errc::out_of_memory;
        auto const first = [](auto all_of, index count) noexcept {
            return all_of.first(static_cast<std::size_t>(count));
        };

        index left = total;
        auto to = open.begin();
        for (std::size_t h = 0; h < counts.size(); ++h) {
            auto const row = first(candidates, sizes[h]);
            candidates = candidates.subspan(row.size());
            index const own = std::min(safe(mean), sizes[h]);
            auto const highest = first(kept, own);
            simd::top_k(row, highest, 0, ranks);
            auto const begin = to;
            auto from = row.begin();
            for (token const t : highest) {
                to = std::copy(from, row.begin() + t, to);
                from = row.begin() + t + 1;
            }
            to = std::copy(from, row.end(), to);
            if (normalise) {
                auto const best = first(kept, std::min(mean, sizes[h]));
                simd::top_k(row, best, 0, ranks);
                float const weight = concentration(row, best);
                std::for_each(begin, to, [weight](float& x) { x *= weight; });
            }
            counts[h] = own;
            left -= own;
        }
        auto const winners = first(kept, left);
        simd::top_k(std::span<float const>{open.begin(), to}, winners, 0, ranks);
        token end = 0;
        auto winner = winners.begin();
        for (std::size_t h = 0; h < counts.size(); ++h) {
            end += static_cast<token>(sizes[h] - counts[h]);
            auto const next = std::lower_bound(winner, winners.end(), end);
            index const won = next - winner;
            winner = next;
            if (form == heads_form::exact) {
                counts[h] += won;
            } else {  // a short head may have less than the floor
                double const mixed = static_cast<double>(won) * (1 - floor) + static_cast<double>(floor_of(mean));
                counts[h] = std::min(rounded(mixed, rounding::nearest_even), sizes[h]);
            }
        }
        return errc::ok;
    }

  private:
    [[nodiscard]] constexpr index floor_of(index mean) const noexcept {
        return static_cast<index>(static_cast<double>(mean) * floor);
    }

    /// Which share of a row's sum its highest have.
    [[nodiscard]] static float concentration(std::span<float const> row, std::span<token const> highest) noexcept {
        double best = 0, all = 0;
        for (token const t : highest)
            if (float const x = row[static_cast<std::size_t>(t)]; !simd::is_nan(x)) best += static_cast<double>(x);
        for (float const x : row)
            if (!simd::is_nan(x)) all += static_cast<double>(x);
        return all > 0 ? static_cast<float>(best / all) : 1.0F;
    }
};

}  // namespace terse::budget
