// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>

#include <terse/core/layer.hpp>
#include <terse/core/view.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/slots.hpp>
#include <terse/simd/dots.hpp>

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
        return of_rows(
            l.kv_heads(), l.tokens(), l.keys.dim, [&](index h) noexcept { return l.length(h); },
            [&](index h, index t) noexcept { return l.keys.row(h, t); }, memory, run);
    }

    /// @param x     [tokens, dim]
    /// @return      [1, tokens]; errc::out_of_memory
    template <class T, executor Run = serial>
    [[nodiscard]] result<scores> operator()(tokens_span<T> const& x, arena& memory,
                                            Run const& run = {}) const noexcept {
        return of_rows(
            1, x.tokens, x.dim, [&](index) noexcept { return x.tokens; },
            [&](index, index t) noexcept { return x.row(t); }, memory, run);
    }

  private:
    template <class Length, class Row, executor Run>
    [[nodiscard]] result<scores> of_rows(index heads, index tokens, index dim, Length length, Row row, arena& memory,
                                         Run const& run) const noexcept {
        auto const values = memory.take<float>(heads * tokens);
        if (!taken(values)) return errc::out_of_memory;
        for_slots(heads, tokens, dim, length, values, run, [&](index h, index begin, index end, float* out) noexcept {
            simd::norms(
                begin, end - begin, [&](index t) noexcept { return row(h, t); }, dim, out);
            if (!longest) std::transform(out, out + (end - begin), out, std::negate{});
        });
        return scores{values, heads, tokens, tokens};
    }
};

}  // namespace terse::score
