// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/types.hpp>

namespace terse::budget {

/// How many tokens each layer removes: about layers * remove in all, constant or along a line.
///
/// Source: `parse_r` of the code of Bolya et al., "Token Merging: Your ViT But Faster", arXiv:2210.09461. As published;
/// for one layer, where that divides by zero, `remove`.
struct ramp {
    index remove = 8;    ///< tokens a layer, on average
    double inflect = 0;  ///< in [-1, 1]: -1 falls from 2 * remove to 0, 0 is constant, 1 rises from 0 to 2 * remove

    [[nodiscard]] constexpr index at(index layer, index layers) const noexcept {
        if (layers < 2) return remove;
        auto const first = static_cast<index>(static_cast<double>(remove) * (1 - inflect));
        index const last = 2 * remove - first;
        double const step = static_cast<double>(last - first) / static_cast<double>(layers - 1);
        return static_cast<index>(static_cast<double>(first) + step * static_cast<double>(layer));
    }
};

}  // namespace terse::budget
