// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/batch.hpp>

namespace terse::score {

/// weight * First + second_weight * Second: two scorers of the same slots as one. The last slots that one of them
/// leaves without a score have none.
template <class First, class Second>
struct weighted_sum {
    First first{};
    Second second{};
    float weight = 1;  ///< of the first; at 0 it is not computed
    float second_weight = 1;

    /// @return      [rows, slots that both score]; as `second`'s where the first weighs nothing. errc::bad_setting for
    ///              a weight that is negative or not finite, errc::bad_shape when the two differ in heads, and the
    ///              errors of both
    /// @complexity  that of both
    template <class Input, executor Run = serial>
    [[nodiscard]] result<scores> operator()(Input const& input, arena& memory, Run const& run = {}) const noexcept {
        if (!simd::is_finite(weight) || weight < 0) return errc::bad_setting;
        if (!simd::is_finite(second_weight) || second_weight < 0) return errc::bad_setting;
        if (weight == 0) return second(input, memory, run);
        rollback undo{memory};
        result<scores> const a = first(input, memory, run);
        if (!a) return a.error();
        auto const total = memory.take<float>(a->heads * a->tokens);
        if (!taken(total)) return errc::out_of_memory;
        auto const top = memory.here();
        result<scores> const b = second(input, memory, run);
        if (!b) return b.error();
        if (a->heads != b->heads) return errc::bad_shape;
        index const tokens = std::min(a->tokens, b->tokens);
        auto out = total.begin();
        for (index h = 0; h < a->heads; ++h) {
            auto const x = a->row(h), y = b->row(h);
            for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t)
                *out++ = weight * x[t] + second_weight * y[t];
        }
        memory.rewind(top);
        undo.keep();
        return scores{total, a->heads, tokens, tokens};
    }
};

}  // namespace terse::score
