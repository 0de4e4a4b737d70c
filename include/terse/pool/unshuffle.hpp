// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/window/grid.hpp>

namespace terse::pool {

/// Puts the tokens of a block side by side in one row: pixel-unshuffle, space to depth, patch merging; with a factor on
/// `frames` or on `columns` alone, frame stacking. `gather_concat` applies the plan, in either order of channels.
///
/// Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
/// Neural Network", arXiv:1609.05158, inverted. As PyTorch's pixel_unshuffle with channel_order::channel_major.
struct unshuffle {
    terse::grid grid{};  ///< where the tokens stand
    per_axis factor{};   ///< the sides of a block, which divide the grid's; 0: 1

    /// How many rows a plan over `tokens` tokens has; or the errors of the call.
    [[nodiscard]] constexpr result<index> count(index tokens) const noexcept {
        if (errc const error = check(tokens); error != errc::ok) return error;
        return cells().count();
    }

    /// @param tokens  how many tokens there are: their values do not matter
    /// @return        a row for each block, in row-major order, its sources in row-major order; a partition.
    ///                Anchor: the token at the block's centre, the lower of two on each axis.
    ///                errc::bad_shape unless the grid has `tokens` tokens, errc::bad_setting unless the factor divides
    ///                it; errc::out_of_memory
    /// @complexity    O(tokens)
    [[nodiscard]] result<plan> operator()(index tokens, arena& memory) const noexcept {
        if (errc const error = check(tokens); error != errc::ok) return error;
        return window::gather(cells(), tokens, memory);
    }

    template <class T>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& x, arena& memory) const noexcept {
        return (*this)(x.tokens, memory);
    }

  private:
    [[nodiscard]] constexpr errc check(index tokens) const noexcept {
        auto const all = cells();
        if (errc const error = all.check(tokens); error != errc::ok) return error;
        bool const divides = grid.frames % all.frames.kernel == 0 && grid.rows % all.rows.kernel == 0 &&
                             grid.columns % all.columns.kernel == 0;
        return divides ? errc::ok : errc::bad_setting;
    }

    [[nodiscard]] constexpr window::cells<window::sliding> cells() const noexcept {
        auto const axis = [](index length, index side) noexcept {
            index const size = side == 0 ? 1 : side;
            return window::sliding{.length = length, .kernel = size, .stride = size};
        };
        return {axis(grid.frames, factor.frames), axis(grid.rows, factor.rows), axis(grid.columns, factor.columns)};
    }
};

}  // namespace terse::pool
