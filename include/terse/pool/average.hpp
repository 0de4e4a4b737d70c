// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/window/grid.hpp>

namespace terse::pool {

/// What happens to the inputs at an axis' end that do not fill a window.
enum class border : unsigned char {
    drop,     ///< they are in no window: PyTorch's default
    partial,  ///< they have a window of their own, which divides by what it holds: PyTorch's ceil_mode
};

/// Averages windows of a grid, in one, two or three dimensions: the pooling of LLaVolta, Oryx and many projectors.
/// The plan serves max pooling too: `apply_max` reads its rows and not its weights.
///
/// Source: the windows and divisors of PyTorch's avg_pool1d, 2d and 3d; Chen et al., "Efficient Large Multi-modal
/// Models via Visual Context Compression", arXiv:2406.20092 for its use inside a decoder. Differs: nothing is dropped
/// by default, and padding is not averaged in by default.
struct average {
    terse::grid grid{};  ///< where the tokens stand
    per_axis kernel{};   ///< 0: the axis is not pooled
    per_axis stride{};   ///< 0: as the kernel
    per_axis padding{};  ///< on both ends, at most half the kernel
    pool::border border = border::partial;
    bool count_padding = false;  ///< divide by the padding too: count_include_pad, whose rows then sum to less than one

    /// How many rows a plan over `tokens` tokens has; or the errors of the call.
    [[nodiscard]] constexpr result<index> count(index tokens) const noexcept {
        auto const all = cells();
        if (errc const error = all.check(tokens); error != errc::ok) return error;
        return all.count();
    }

    /// @param tokens  how many tokens there are: their values do not matter
    /// @return        a row for each window, in row-major order. Anchor: the token at the window's centre, the lower of
    ///                two on each axis. Owner: the first window that a token is in. Windows of one token: all kept.
    ///                errc::bad_shape unless the grid has `tokens` tokens, errc::bad_setting for a negative kernel or
    ///                stride, for padding above half the kernel and for a kernel that does not fit the padded axis;
    ///                errc::out_of_memory
    /// @complexity    O(tokens + entries)
    [[nodiscard]] result<plan> operator()(index tokens, arena& memory) const noexcept {
        return window::mean(cells(), tokens, memory);
    }

    template <class T>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& x, arena& memory) const noexcept {
        return (*this)(x.tokens, memory);
    }

  private:
    [[nodiscard]] constexpr window::cells<window::sliding> cells() const noexcept {
        auto const axis = [this](index length, index wide, index step, index pad) noexcept {
            index const size = wide == 0 ? 1 : wide;
            return window::sliding{length,       size, step == 0 ? size : step, pad, border == border::partial,
                                   count_padding};
        };
        return {axis(grid.frames, kernel.frames, stride.frames, padding.frames),
                axis(grid.rows, kernel.rows, stride.rows, padding.rows),
                axis(grid.columns, kernel.columns, stride.columns, padding.columns)};
    }
};

/// Averages a grid down to a given one: PLLaVA's pooling, and resizing by area.
///
/// Bins are exact: where the output does not divide the input, neighbours share inputs and the plan is no partition;
/// where the output is larger, inputs repeat.
///
/// Source: PyTorch's adaptive_avg_pool1d, 2d and 3d; Xu et al., "PLLaVA: Parameter-free LLaVA Extension from Images to
/// Videos for Video Dense Captioning", arXiv:2404.16994. As published.
struct adaptive_average {
    terse::grid grid{};  ///< where the tokens stand
    per_axis out{};      ///< how many cells an axis gets; 0: as many as it has tokens

    /// How many rows a plan over `tokens` tokens has; or the errors of the call.
    [[nodiscard]] constexpr result<index> count(index tokens) const noexcept {
        auto const all = cells();
        if (errc const error = all.check(tokens); error != errc::ok) return error;
        return all.count();
    }

    /// @param tokens  how many tokens there are: their values do not matter
    /// @return        a row for each cell of `out`, in row-major order; anchor and owner as in `average`.
    ///                errc::bad_shape unless the grid has `tokens` tokens, errc::bad_setting for a negative `out`;
    ///                errc::out_of_memory
    /// @complexity    O(tokens + entries)
    [[nodiscard]] result<plan> operator()(index tokens, arena& memory) const noexcept {
        return window::mean(cells(), tokens, memory);
    }

    template <class T>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& x, arena& memory) const noexcept {
        return (*this)(x.tokens, memory);
    }

  private:
    [[nodiscard]] constexpr window::cells<window::adaptive> cells() const noexcept {
        auto const axis = [](index length, index bins) noexcept {
            return window::adaptive{length, bins == 0 ? length : bins};
        };
        return {axis(grid.frames, out.frames), axis(grid.rows, out.rows), axis(grid.columns, out.columns)};
    }
};

}  // namespace terse::pool
