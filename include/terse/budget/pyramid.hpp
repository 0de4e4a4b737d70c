// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/budget/budget.hpp>
#include <terse/budget/layers.hpp>

namespace terse::budget {

/// Whose arithmetic a pyramid follows.
enum class pyramid_form {
    exact,            ///< ours: fractions go to the layers with the largest, and the layers keep layers * keep together
    kvcache_factory,  ///< the authors': whole steps, so that the layers keep more
    kvpress,          ///< the window is part of the line; every layer keeps `keep` where a pyramid does not fit
};

/// Many slots for the lower layers, few for the upper ones, along a line: attention narrows with depth.
///
/// Source: Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling",
/// arXiv:2406.02069. The published codes are the forms of their name; with one layer, where they divide by zero, it
/// keeps `keep`, and a layer that they leave empty keeps one slot.
struct pyramid {
    index keep = 1024;  ///< slots a layer, on average, window included
    index window = 32;  ///< last slots that every layer keeps
    index beta = 20;    ///< the last layer has about 1 / beta of the average, before the window
    pyramid_form form = pyramid_form::exact;
    double mean_keep = 0;  ///< kvpress: its average n * (1 - ratio), a fraction; 0: `keep`

    /// @return errc::bad_budget unless 0 <= window <= keep (kvpress: any window), keep >= 1 and beta >= 1
    /// @complexity O(layers)
    [[nodiscard]] result<index> count(index layer, index layers, index tokens) const noexcept {
        if (errc const error = check_layer(layer, layers, tokens); error != errc::ok) return error;
        bool const press = form == pyramid_form::kvpress;
        if (window < 0 || window > max_tokens || keep < 1 || keep > max_tokens || beta < 1 || (!press && window > keep))
            return errc::bad_budget;
        if (!(mean_keep >= 0 && mean_keep <= static_cast<double>(max_tokens))) return errc::bad_budget;
        if (press) return like_kvpress(layer, layers, tokens);
        if (keep >= tokens) return tokens;
        index const base = keep - window;
        if (layers == 1 || (form == pyramid_form::kvcache_factory && tokens < 2 * base)) return keep;
        if (form == pyramid_form::kvcache_factory) {
            index least = base / beta, most = 2 * base - least;
            if (most >= tokens - window) most = tokens - window, least = 2 * base - most;
            return std::max<index>(most - layer * ((most - least) / (layers - 1)) + window, 1);
        }
        double const mean = static_cast<double>(base);
        double const most = std::min(mean * (2 - 1 / static_cast<double>(beta)), static_cast<double>(tokens - window));
        auto const ideal = [&](index l) { return line(most, 2 * mean - most, l, layers); };
        index const low = window == 0 ? 1 : 0;
        apportion const share{.parts = layers, .total = layers * base, .low = low, .high = tokens - window};
        return window + share(layer, ideal);
    }

  private:
    [[nodiscard]] static double line(double first, double last, index l, index layers) noexcept {
        return first - static_cast<double>(l) * (first - last) / static_cast<double>(layers - 1);
    }

    [[nodiscard]] index like_kvpress(index layer, index layers, index tokens) const noexcept {
        auto const n = static_cast<double>(tokens), w = static_cast<double>(window);
        double const mean = mean_keep > 0 ? mean_keep : static_cast<double>(keep);
        double least = mean / static_cast<double>(beta), most = 2 * mean - least;
        if (most >= n - w) most = n - w, least = 2 * mean - most;
        bool const fits = layers > 1 && n >= most && most >= least && least >= w;
        index const own = rounded(fits ? line(most, least, layer, layers) : mean, rounding::nearest_even);
        return std::clamp<index>(own, std::min<index>(1, tokens), tokens);
    }
};

}  // namespace terse::budget
