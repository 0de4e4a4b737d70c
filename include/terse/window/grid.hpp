// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/window/axis.hpp>

namespace terse {

/// The grid that tokens stand on, row-major: token (f, r, c) is (f * rows + r) * columns + c. An image has one frame;
/// a sequence, such as audio, has `columns` alone.
struct grid {
    index frames = 1;
    index rows = 1;
    index columns = 1;
};

/// One setting for each axis of a grid. What 0 means is said where it is used.
struct per_axis {
    index frames = 0;
    index rows = 0;
    index columns = 0;
};

namespace window {

/// a * b, or -1 if that is more than `token` counts. Neither is negative, one at most is above `max_tokens`.
[[nodiscard]] constexpr index bounded_product(index a, index b) noexcept {
    return b != 0 && a > max_tokens / b ? -1 : a * b;
}

/// The cells of a grid: each frame cell by each row cell by each column cell, in row-major order.
template <axis Axis>
struct cells {
    Axis frames{};
    Axis rows{};
    Axis columns{};

    /// errc::bad_setting unless the axes are valid, errc::bad_shape unless they are a grid of `tokens` tokens, or when
    /// the cells or all of their inputs are more than `token` counts.
    [[nodiscard]] constexpr errc check(index tokens) const noexcept {
        if (frames.length < 1 || rows.length < 1 || columns.length < 1) return errc::bad_shape;
        if (product(frames.length, rows.length, columns.length) != tokens) return errc::bad_shape;
        if (!frames.is_valid() || !rows.is_valid() || !columns.is_valid()) return errc::bad_setting;
        return count() < 0 || inputs() < 0 ? errc::bad_shape : errc::ok;
    }

    [[nodiscard]] constexpr index count() const noexcept {
        return product(frames.count(), rows.count(), columns.count());
    }

    /// Inputs of all cells, those in several cells counted in each.
    [[nodiscard]] constexpr index inputs() const noexcept {
        return product(inputs_of(frames), inputs_of(rows), inputs_of(columns));
    }

    [[nodiscard]] constexpr bool is_identity() const noexcept {
        return frames.is_identity() && rows.is_identity() && columns.is_identity();
    }

    /// Calls body(frame cell, row cell, column cell) for every cell, in order.
    template <class Body>
    constexpr void for_each(Body&& body) const noexcept {
        for (index f = 0; f < frames.count(); ++f)
            for (index r = 0; r < rows.count(); ++r)
                for (index c = 0; c < columns.count(); ++c) body(frames[f], rows[r], columns[c]);
    }

    /// Where a grid's token stands in the sequence.
    [[nodiscard]] constexpr token at(index f, index r, index c) const noexcept {
        return static_cast<token>((f * rows.length + r) * columns.length + c);
    }

  private:
    [[nodiscard]] static constexpr index product(index a, index b, index c) noexcept {
        if (a < 0 || b < 0 || c < 0) return -1;
        index const ab = bounded_product(a, b);
        return ab < 0 ? -1 : bounded_product(ab, c);
    }

    [[nodiscard]] static constexpr index inputs_of(Axis const& a) noexcept {
        index total = 0;
        for (index i = 0; i < a.count() && total <= max_tokens; ++i) total += a[i].size();
        return total <= max_tokens ? total : -1;
    }
};

/// The plan whose rows are the cells of a grid, all weights one: for `gather_concat` and `apply_max`.
/// @return  anchors: the tokens at the cells' centres, the lower of two on each axis. Owners: the first cell that a
///          token is in. The errors of `cells::check`; errc::out_of_memory
/// @complexity O(tokens + inputs of all cells)
template <axis Axis>
[[nodiscard]] result<plan> gather(cells<Axis> const& all, index tokens, arena& memory) noexcept {
    if (errc const error = all.check(tokens); error != errc::ok) return error;
    if (all.is_identity()) return keep_all(tokens, memory);

    rollback undo{memory};
    auto const offsets = memory.take<token>(all.count() + 1);
    auto const anchor = memory.take<token>(all.count());
    auto const sources = memory.take<token>(all.inputs());
    if (!taken(offsets, anchor, sources)) return errc::out_of_memory;

    std::size_t row = 0, entry = 0;
    offsets[0] = 0;
    all.for_each([&](cell f, cell r, cell c) noexcept {
        for (index i = f.begin; i < f.end; ++i)
            for (index j = r.begin; j < r.end; ++j)
                for (index k = c.begin; k < c.end; ++k) sources[entry++] = all.at(i, j, k);
        anchor[row] = all.at(f.centre(), r.centre(), c.centre());
        offsets[++row] = static_cast<token>(entry);
    });

    auto const p = with_owner({.tokens = tokens, .sources = sources, .offsets = offsets, .anchor = anchor}, memory);
    if (p) undo.keep();
    return p;
}

/// The same with the weights of a mean: one over the product of the cells' divisors.
template <axis Axis>
[[nodiscard]] result<plan> mean(cells<Axis> const& all, index tokens, arena& memory) noexcept {
    rollback undo{memory};
    auto p = gather(all, tokens, memory);
    if (!p || p->is_selection()) {
        if (p) undo.keep();
        return p;
    }
    auto const weights = memory.take<float>(all.inputs());
    if (!taken(weights)) return errc::out_of_memory;

    auto next = weights.begin();
    all.for_each([&](cell f, cell r, cell c) noexcept {
        auto const divisor = static_cast<double>(f.divisor) * static_cast<double>(r.divisor * c.divisor);
        next = std::fill_n(next, f.size() * r.size() * c.size(), static_cast<float>(1 / divisor));
    });
    plan weighted = *p;
    weighted.weights = weights;
    undo.keep();
    return weighted;
}

}  // namespace window
}  // namespace terse
