// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/budget/mass.hpp>
#include <terse/core/layer.hpp>
#include <terse/score/attention.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// Keeps as many slots as carry a share of the attention, the same for all heads of a layer: many where attention is
/// spread, few where it is not. How many is decided by the attention that slots receive from the probing queries, which
/// ones by its mean over the probes that see them.
///
/// The published probes are recent and random queries (`layer::query_positions` says where they stand). The plan serves
/// to run the attention of a prompt among the kept slots alone, and to quantise or evict the others in decoding, where
/// it is made anew every 100 tokens.
///
/// Source: He et al., "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification",
/// arXiv:2410.08584. Reconstructed from the paper: no code of the authors was found, and the default share is not
/// theirs. The protection of sinks and recent slots is an addition, off by default.
struct zipvl {
    double share = 0.975;     ///< of the attention, in (0, 1]
    index least = 1;          ///< slots to keep at least
    index most = max_tokens;  ///< and at most, protected ones included
    index sinks = 0;          ///< first slots, always kept
    index recent = 0;         ///< last slots, always kept

    /// @param l   reads keys and the probing queries [heads, probes, dim], or their attention [heads, probes, tokens]
    /// @return    one selection that all heads share; all where `least` reaches the number of slots. errc::bad_budget
    ///            unless 0 < share <= 1, 1 <= least <= most and what is protected fits into `most`; errc::bad_shape
    ///            where heads hold different numbers of slots; errors of `score::attention`; errc::out_of_memory
    /// @complexity O(heads * probes * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        index const tokens = l.tokens();
        select::quota const asked{most, sinks, recent};
        budget::mass const carried{share, least, most};
        if (errc const error = asked.check(); error != errc::ok) return error;
        if (tokens < 0 || tokens > max_tokens || !is_even(l)) return errc::bad_shape;

        rollback undo{memory};
        auto const items = memory.take<plan>(1);
        auto const kept = memory.take<token>(std::min(most, tokens));
        auto const top = memory.here();
        auto const row = select::rows_of(l, 1, tokens, asked, memory);
        if (!row) return row.error();
        auto const mean = memory.take<float>(tokens);
        if (!taken(items) || !taken(kept, mean)) return errc::out_of_memory;

        result<index> count = carried.count({}, memory);
        if (!count) return count.error();
        if (least < tokens) {
            auto const received = score::attention{.across_heads = true}(l, memory, run);
            if (!received) return received.error();
            count = carried.count(received->row(0), memory);
            if (!count) return count.error();
            divide_by_probes(l, received->row(0), mean);
        } else {
            count = tokens;
        }
        select::quota& q = row->front().q;
        q.keep = std::clamp(*count, std::min(q.fixed(tokens), q.keep), q.keep);
        errc const error = select::highest_of_rows({mean, 1, tokens, tokens}, tokens, *row, items, kept, memory, run);
        if (error != errc::ok) return error;
        memory.rewind(top);
        undo.keep();
        return plans{items};
    }

  private:
    template <class T, class Cache>
    static void divide_by_probes(layer<T, Cache> const& l, std::span<float const> received,
                                 std::span<float> mean) noexcept {
        index blind = 0;  // probes that do not see slot t; those that do come after them
        for (index t = 0; t < std::ssize(mean); ++t) {
            while (blind < l.window() && l.visible(0, blind) <= t) ++blind;
            auto const at = static_cast<std::size_t>(t);
            mean[at] = received[at] / static_cast<float>(std::max<index>(l.window() - blind, 1));
        }
    }
};

}  // namespace terse::kv
