// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/view.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/dot.hpp>

namespace terse::score {

/// The L2 norm of a token or of its key, negated unless `longest`: a low key norm goes with a high attention weight.
struct norm {
    bool longest = false;  ///< score the norm itself

    /// @param l     only its keys are read
    /// @return      [kv_heads, tokens]; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        auto const row = [&](index h, index t) noexcept { return l.keys.row(h, t); };
        return of_rows(l.kv_heads(), l.tokens(), l.keys.dim, row, memory, run);
    }

    /// @param x     [tokens, dim]
    /// @return      [1, tokens]; errc::out_of_memory
    template <class T, executor Run = serial>
    [[nodiscard]] result<scores> operator()(tokens_span<T> const& x, arena& memory,
                                            Run const& run = {}) const noexcept {
        return of_rows(
            1, x.tokens, x.dim, [&](index, index t) noexcept { return x.row(t); }, memory, run);
    }

  private:
    template <class Row, executor Run>
    [[nodiscard]] result<scores> of_rows(index heads, index tokens, index dim, Row row, arena& memory,
                                         Run const& run) const noexcept {
        auto const values = memory.take<float>(heads * tokens);
        if (!taken(values)) return errc::out_of_memory;
        share_out(run, heads * tokens, dim, [&](index begin, index end, index) noexcept {
            while (begin < end) {
                index const h = begin / tokens, first = h * tokens, last = std::min(end, first + tokens);
                for (; begin < last; ++begin) {
                    float const length = std::sqrt(simd::squared_norm(row(h, begin - first), dim));
                    values[static_cast<std::size_t>(begin)] = longest ? length : -length;
                }
            }
        });
        return scores{values, heads, tokens, tokens};
    }
};

}  // namespace terse::score
