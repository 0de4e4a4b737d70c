// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/rank.hpp>
#include <terse/core/result.hpp>

namespace terse::budget {

/// To every layer (or head) the least, and the rest in proportion to how much it loses by eviction, up to the most.
///
/// Source: Tu et al., "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation",
/// arXiv:2508.02401. As published: shares are rounded to nearest, halves to even; then one slot at a time is added, by
/// descending importance, or taken, by ascending, until the counts sum to the total or all are at their bound. Of
/// equal importance the lower layer gets first and gives last.
struct proportional {
    index keep = 1024;  ///< slots a layer, on average
    index least = 32;   ///< what every layer keeps
    index most = 3072;  ///< what no layer exceeds (the authors: 3 * keep)
    index total = 0;    ///< slots of all layers together; 0: layers * keep

    /// @param importance  [layers]: not negative; the authors' sum to one
    /// @param tokens      slots that a layer has: no layer gets more
    /// @param counts      [layers]: receives the counts; `table` makes a budget of them
    /// @return            errc::bad_shape when sizes differ, there are no layers or `tokens` is negative;
    ///                    errc::bad_setting when an importance is negative or not finite; errc::bad_budget unless
    ///                    1 <= least <= most and 0 <= total
    /// @complexity        O(layers^2); no allocation
    [[nodiscard]] errc operator()(std::span<float const> importance, index tokens,
                                  std::span<index> counts) const noexcept {
        index const layers = std::ssize(counts);
        if (layers < 1 || importance.size() != counts.size() || tokens < 0 || tokens > max_tokens)
            return errc::bad_shape;
        auto const usable = [](float x) { return rank(x) >= 0 && rank(x) < rank(infinity); };
        if (!std::all_of(importance.begin(), importance.end(), usable)) return errc::bad_setting;
        if (least < 1 || least > most || most > max_tokens || keep < 0 || keep > max_tokens || total < 0)
            return errc::bad_budget;

        index const low = std::min(least, tokens), high = std::min(most, tokens);
        index const wanted = total > 0 ? total : layers * keep;
        auto const shared = std::max(0.0, static_cast<double>(wanted - layers * low));
        index sum = 0;
        for (std::size_t l = 0; l < counts.size(); ++l) {
            double const share = std::min(static_cast<double>(importance[l]) * shared, 0x1p40);
            counts[l] = std::clamp(low + rounded(share, rounding::nearest_even), low, high);
            sum += counts[l];
        }
        move_towards(wanted - sum, low, high, importance, counts);
        return errc::ok;
    }

  private:
    static constexpr float infinity = std::numeric_limits<float>::infinity();

    /// Adds `difference` slots, or takes them, in turns: as many whole turns at once as no layer reaches its bound in.
    static void move_towards(index difference, index low, index high, std::span<float const> importance,
                             std::span<index> counts) noexcept {
        index const sign = difference < 0 ? -1 : 1;
        difference *= sign;
        auto const room = [&](std::size_t l) { return sign > 0 ? high - counts[l] : counts[l] - low; };
        while (difference > 0) {
            index open = 0, least_room = max_tokens;
            for (std::size_t l = 0; l < counts.size(); ++l) {
                if (room(l) == 0) continue;
                ++open;
                least_room = std::min(least_room, room(l));
            }
            if (open == 0) return;
            index const turns = std::min(difference / open, least_room);
            for (std::size_t l = 0; l < counts.size(); ++l)
                if (room(l) > 0) counts[l] += sign * turns;
            difference -= turns * open;
            if (turns > 0) continue;
            // The last turn reaches the first `difference` layers in order.
            std::size_t last = counts.size();
            for (; difference > 0; --difference) {
                std::size_t next = counts.size();
                for (std::size_t l = 0; l < counts.size(); ++l) {
                    bool const after = last == counts.size() || precedes(importance, last, l, sign);
                    if (room(l) > 0 && after && (next == counts.size() || precedes(importance, l, next, sign)))
                        next = l;
                }
                counts[next] += sign;
                last = next;
            }
        }
    }

    /// Whether layer a has its turn before layer b.
    [[nodiscard]] static bool precedes(std::span<float const> importance, std::size_t a, std::size_t b,
                                       index sign) noexcept {
        auto const x = rank(importance[a]), y = rank(importance[b]);
        return sign > 0 ? x > y || (x == y && a < b) : x < y || (x == y && a > b);
    }
};

}  // namespace terse::budget
