// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include <terse/core/plan.hpp>

namespace terse {

/// The plan whose row i is the mean of the inputs that i owns: how every method that merges disjoint groups ends.
///
/// @param owner   [tokens]: the row of each input, or -1 for a dropped one; must live as long as the plan
/// @param anchor  [rows]: the input whose identity each row inherits; must live as long as the plan
/// @param sizes   [tokens]: how many inputs each input stands for already, the weights of the mean; empty: all ones
/// @return        errc::bad_shape when `sizes` has another length; errc::bad_setting when a size is not positive and
///                finite; errc::out_of_memory
/// @complexity    O(tokens + rows)
[[nodiscard]] inline result<plan> group_means(std::span<token const> owner, std::span<token const> anchor,
                                              std::span<float const> sizes, arena& memory) noexcept {
    if (!sizes.empty() && sizes.size() != owner.size()) return errc::bad_shape;
    auto const positive = [](float s) { return s > 0 && std::isfinite(s); };
    if (!std::all_of(sizes.begin(), sizes.end(), positive)) return errc::bad_setting;
    auto const size = [&](std::size_t t) { return sizes.empty() ? 1.0F : sizes[t]; };

    rollback undo{memory};
    auto const rows = std::ssize(anchor);
    auto const entries = std::count_if(owner.begin(), owner.end(), [](token row) { return row >= 0; });
    auto const offsets = memory.take<token>(rows + 1);
    auto const sources = memory.take<token>(entries);
    auto const weights = memory.take<float>(entries);
    auto const top = memory.here();
    auto const next = memory.take<token>(rows);
    auto const total = memory.take<float>(rows);
    if (!taken(offsets, sources, weights, next, total)) return errc::out_of_memory;

    std::fill(offsets.begin(), offsets.end(), token{0});
    std::fill(total.begin(), total.end(), 0.0F);
    for (std::size_t t = 0; t < owner.size(); ++t) {
        if (owner[t] < 0) continue;
        auto const row = static_cast<std::size_t>(owner[t]);
        ++offsets[row + 1];
        total[row] += size(t);
    }
    for (std::size_t row = 0; row < next.size(); ++row) {
        next[row] = offsets[row];
        offsets[row + 1] += offsets[row];
    }
    for (std::size_t t = 0; t < owner.size(); ++t) {
        if (owner[t] < 0) continue;
        auto const row = static_cast<std::size_t>(owner[t]);
        auto const at = static_cast<std::size_t>(next[row]++);
        sources[at] = static_cast<token>(t);
        weights[at] = size(t) / total[row];
    }
    memory.rewind(top);
    undo.keep();
    return plan{static_cast<index>(owner.size()), sources, offsets, weights, anchor, owner};
}

}  // namespace terse
