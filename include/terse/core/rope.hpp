// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <span>

#include <terse/core/rank.hpp>
#include <terse/core/result.hpp>
#include <terse/core/types.hpp>

namespace terse {

/// Which channels of a key turn together, of `rotary` = 2 * frequencies that do.
enum class rope_layout : unsigned char {
    half_split,   ///< (i, i + rotary / 2): Llama in transformers, GPT-NeoX
    interleaved,  ///< (2 i, 2 i + 1): GPT-J, Llama as its authors and llama.cpp store it
};

/// An engine's rotary position encoding: a key at position p has its pair i turned by p * inverse_frequency[i].
struct rope {
    std::span<float const> inverse_frequency{};  ///< [rotary / 2]: the engine's own, scaled as it scales them
    rope_layout layout = rope_layout::half_split;
    /// The pairs that turn, where positions have several axes and each has pairs of its own (time, height and width of
    /// a video): those of the axis that the positions are of. Empty: all.
    range axis{};

    /// The pairs that turn.
    [[nodiscard]] constexpr range turning() const noexcept {
        return axis.size() == 0 ? range{0, std::ssize(inverse_frequency)} : axis;
    }

    /// errc::bad_shape when more channels turn than there are or the axis has others, errc::bad_setting when a
    /// frequency is not finite.
    [[nodiscard]] constexpr errc check(index dim) const noexcept {
        if (std::ssize(inverse_frequency) > dim / 2) return errc::bad_shape;
        if (axis.begin < 0 || axis.end < axis.begin || axis.end > std::ssize(inverse_frequency)) return errc::bad_shape;
        constexpr auto infinite = rank(std::numeric_limits<float>::infinity());
        auto const finite = [](float f) { return -infinite < rank(f) && rank(f) < infinite; };
        bool const all = std::all_of(inverse_frequency.begin(), inverse_frequency.end(), finite);
        return all ? errc::ok : errc::bad_setting;
    }
};

}  // namespace terse
