// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/attention.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/batch.hpp>

namespace terse::score {

/// out = the higher, or the sum, of two scores, after the global ones are scaled to the mean of the local ones; the
/// local ones where the global ones are all zero. NaN has no part in the means, and stays.
///
/// @param global, local, out  [tokens]; out may be either of them
inline void combine_aligned(std::span<float const> global, std::span<float const> local, bool sum,
                            std::span<float> out) noexcept {
    double global_total = 0, local_total = 0;
    for (std::size_t t = 0; t < out.size(); ++t) {
        if (simd::is_nan(global[t]) || simd::is_nan(local[t])) continue;
        global_total += static_cast<double>(global[t]);
        local_total += static_cast<double>(local[t]);
    }
    float const factor = global_total > 0 ? static_cast<float>(local_total / global_total) : 0.0F;
    for (std::size_t t = 0; t < out.size(); ++t) {
        float const aligned = global[t] * factor;
        out[t] = sum ? aligned + local[t] : aligned > local[t] ? aligned : local[t];
    }
}

/// What slots receive from all queries or from the last ones, whichever is more beside the mean of its kind: the score
/// of EMS. The last queries' own slots get none.
struct global_local {
    index queries = 32;  ///< last queries, which make the local score
    bool sum = false;    ///< the sum of both scores instead of the higher one
    reduction group = reduction::mean;

    /// @param l     as for `score::attention`: all its queries make the global score
    /// @return      [kv_heads, slots before the last queries]; errors as `score::attention`'s, errc::bad_setting for
    ///              `queries` below one
    /// @complexity  O(heads * window * tokens * dim), and that of the last queries once more
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (queries < 1) return errc::bad_setting;
        rollback undo{memory};
        auto const values = memory.take<float>(l.kv_heads() * l.tokens());
        if (!taken(values)) return errc::out_of_memory;
        auto const top = memory.here();
        auto const local = attention{.queries = queries, .past_only = true, .group = group}(l, memory, run);
        if (!local) return local.error();
        auto const global = attention{.group = group}(l, memory, run);
        if (!global) return global.error();
        index const scored = local->tokens;
        share_out(run, l.kv_heads(), 4 * scored * size_of<float>, [&](index begin, index end, index) noexcept {
            for (index h = begin; h < end; ++h) {
                std::span const out{values.data() + h * scored, static_cast<std::size_t>(scored)};
                combine_aligned(global->row(h).first(out.size()), local->row(h), sum, out);
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values.first(static_cast<std::size_t>(l.kv_heads() * scored)), l.kv_heads(), scored, scored};
    }
};

}  // namespace terse::score
