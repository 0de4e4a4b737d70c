// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <iterator>
#include <span>

#include <terse/budget/apportion.hpp>
#include <terse/core/result.hpp>

namespace terse::budget {

/// A budget over layers: how many of `tokens` slots layer `layer` of `layers` keeps for each kv head, 1 to `tokens`
/// (0 of none). Known from shapes alone, and for a layer without the others.
///
/// `layer` counts the layers that are compressed: those of another kind (sliding windows, state spaces) have no number.
/// @return errc::bad_shape when there is no such layer or `tokens` is negative; errc::bad_budget by the rule's settings
template <class B>
concept layer_rule = requires(B const& b, index layer, index layers, index tokens) {
    { b.count(layer, layers, tokens) }
    noexcept->std::same_as<result<index>>;
};

[[nodiscard]] constexpr errc check_layer(index layer, index layers, index tokens) noexcept {
    bool const fits = 0 <= layer && layer < layers && layers <= max_tokens && 0 <= tokens && tokens <= max_tokens;
    return fits ? errc::ok : errc::bad_shape;
}

/// The counts of all layers.
/// @param counts  [layers]
/// @return        the rule's errors, before anything is written
/// @complexity    O(layers) calls of the rule
template <layer_rule Rule>
[[nodiscard]] errc fill(Rule const& rule, index tokens, std::span<index> counts) noexcept {
    index const layers = std::ssize(counts);
    for (index l = 0; l < layers; ++l)
        if (errc const error = rule.count(l, layers, tokens).error(); error != errc::ok) return error;
    for (index l = 0; l < layers; ++l) counts[static_cast<std::size_t>(l)] = *rule.count(l, layers, tokens);
    return errc::ok;
}

/// One layer of a budget over layers, as a budget for that layer's policy.
template <layer_rule Rule>
struct of_layer {
    Rule over{};
    index layer = 0;
    index layers = 1;

    [[nodiscard]] result<index> count(index tokens) const noexcept { return over.count(layer, layers, tokens); }
};

/// The same for every layer.
struct uniform {
    index keep = 0;  ///< at least 1

    [[nodiscard]] constexpr result<index> count(index layer, index layers, index tokens) const noexcept {
        if (errc const error = check_layer(layer, layers, tokens); error != errc::ok) return error;
        if (keep < 1) return errc::bad_budget;
        return std::min(keep, tokens);
    }
};

/// Along a line from the first layer to the last: falling, as PyramidKV's, or rising, as Scissorhands'. The layers keep
/// layers * keep together, to the last slot, or all that there is.
struct linear {
    index keep = 0;    ///< slots a layer, on average
    double first = 1;  ///< the first layer's share of `keep`, in [0, 2]; the last layer's is 2 - first
    index least = 1;   ///< what every layer keeps

    /// @return errc::bad_budget unless 1 <= least <= keep and 0 <= first <= 2
    /// @complexity O(layers)
    [[nodiscard]] result<index> count(index layer, index layers, index tokens) const noexcept {
        if (errc const error = check_layer(layer, layers, tokens); error != errc::ok) return error;
        if (least < 1 || least > keep || !(first >= 0 && first <= 2)) return errc::bad_budget;
        if (keep >= tokens) return tokens;
        auto const ideal = [this, layers](index l) {
            double const place = layers == 1 ? 0.5 : static_cast<double>(l) / static_cast<double>(layers - 1);
            return static_cast<double>(keep) * (first + place * (2 - 2 * first));
        };
        return apportion{.parts = layers, .total = layers * keep, .low = least, .high = tokens}(layer, ideal);
    }
};

/// What was found before, by calibration or by a search: a count for each layer.
struct table {
    std::span<index const> counts{};  ///< [layers], at least 1

    /// @return errc::bad_shape when there are not `layers` counts; errc::bad_budget for one below 1
    [[nodiscard]] constexpr result<index> count(index layer, index layers, index tokens) const noexcept {
        if (errc const error = check_layer(layer, layers, tokens); error != errc::ok) return error;
        if (std::ssize(counts) != layers) return errc::bad_shape;
        index const keep = counts[static_cast<std::size_t>(layer)];
        if (keep < 1) return errc::bad_budget;
        return std::min(keep, tokens);
    }
};

}  // namespace terse::budget
