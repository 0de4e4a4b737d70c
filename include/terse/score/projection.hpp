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

/// How far a key reaches against a given direction of its head: the negated product of the two.
struct projection {
    tokens_view<float> directions{};  ///< [kv_heads, dim], of any length

    /// @param l     only its keys are read
    /// @return      [kv_heads, tokens]; errc::bad_shape when there is not one direction of dim channels a kv head;
    ///              errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        index const heads = l.kv_heads(), n = l.tokens(), dim = l.keys.dim;
        if (directions.data == nullptr || directions.tokens != heads || directions.dim != dim) return errc::bad_shape;
        auto const values = memory.take<float>(heads * n);
        if (!taken(values)) return errc::out_of_memory;
        for_slots(
            heads, n, dim, [&](index h) noexcept { return l.length(h); }, values, run,
            [&](index h, index begin, index end, float* out) noexcept {
                simd::dots(begin, end, l.length(h), rows_of_head(l.keys, h), directions.row(h), dim, out);
                std::transform(out, out + (end - begin), out, std::negate{});
            });
        return scores{values, heads, n, n};
    }
};

}  // namespace terse::score
