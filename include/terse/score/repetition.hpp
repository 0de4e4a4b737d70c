// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/attention_shape.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// How much each kv head attends to earlier occurrences of its query's token (echo), and to what followed them
/// (induction).
struct repetition_scores {
    std::span<float const> echo{};       ///< [kv_heads], in [0, 1]
    std::span<float const> induction{};  ///< [kv_heads], in [0, 1]
};

/// Scores heads on a prompt of random tokens that is repeated: `prefix` tokens, then periods that are all the same.
/// Means over the queries from the second period on, of the attention that goes to the token's earlier occurrences
/// together, and to the tokens after those; then the maximum over a kv head's query heads.
///
/// Random tokens have no other reason to look back, so no data is needed.
struct repetition {
    index prefix = 1;     ///< tokens before the first period
    index period = 2500;  ///< tokens of a period

    /// @param l     keys [kv_heads, tokens, dim] of the prompt and its last queries [heads, window, dim], or their
    ///              attention; all queries from the second period on should be there, fewer are a sample
    /// @return      errc::bad_setting for a negative prefix or a period below one; errc::bad_shape when no query is in
    ///              a later period, and by `check_attention`; errc::out_of_memory
    /// @complexity  O(heads * window * tokens * dim), with the layer's attention O(heads * window * periods); scratch:
    ///              group * tokens floats a worker, twice
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<repetition_scores> operator()(layer<T, Cache> const& l, arena& memory,
                                                       Run const& run = {}) const noexcept {
        if (prefix < 0 || period < 1) return errc::bad_setting;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        for (index kv = 0; kv < l.kv_heads(); ++kv)
            if (l.visible(kv, l.window() - 1) - 1 < prefix + period) return errc::bad_shape;
        index const group = l.group(), tokens = l.tokens();
        index const each = l.has_attention() ? 0 : simd::softmax_columns_scratch(attention_shape(l, group, 1, tokens));

        rollback undo{memory};
        auto const echo = memory.take<float>(l.kv_heads());
        auto const induction = memory.take<float>(l.kv_heads());
        auto const top = memory.here();
        auto const rows = memory.take<float>(l.has_attention() ? 0 : run.workers() * group * tokens);
        auto const scratch = memory.take<float>(run.workers() * each);
        auto const totals = memory.take<double>(run.workers() * 2 * group);
        if (!taken(echo, induction, rows, scratch, totals)) return errc::out_of_memory;

        index const seeing = group * l.window();
        index const cost =
            l.has_attention() ? tokens / period * seeing * size_of<float> : product_cost(tokens, seeing, l.keys.dim);
        share_out(run, l.kv_heads(), cost, [&](index begin, index end, index worker) noexcept {
            auto const part = [worker](auto all, index size) noexcept {
                return all.subspan(static_cast<std::size_t>(worker * size), static_cast<std::size_t>(size));
            };
            auto const found = part(totals, 2 * group);
            auto const row = part(rows, l.has_attention() ? 0 : group * tokens);
            for (index kv = begin; kv < end; ++kv) {
                std::fill(found.begin(), found.end(), 0.0);
                index voters = 0;
                for (index i = 0; i < l.window(); ++i) {
                    index const seen = l.visible(kv, i);
                    if (seen - 1 < prefix + period) continue;
                    ++voters;
                    attend(l, kv, i, seen, row, part(scratch, each));
                    for (index g = 0; g < group; ++g)
                        add(l.has_attention() ? l.attention.row(kv * group + g, i) : row.data() + g * tokens, seen - 1,
                            found.data() + 2 * g);
                }
                auto const at = static_cast<std::size_t>(kv);
                echo[at] = induction[at] = -std::numeric_limits<float>::infinity();
                for (std::size_t g = 0; g < static_cast<std::size_t>(group); ++g) {
                    echo[at] = std::max(echo[at], static_cast<float>(found[2 * g] / static_cast<double>(voters)));
                    induction[at] =
                        std::max(induction[at], static_cast<float>(found[2 * g + 1] / static_cast<double>(voters)));
                }
            }
        });
        memory.rewind(top);
        undo.keep();
        return repetition_scores{echo, induction};
    }

  private:
    /// The attention of query i of a kv head's group, where the layer does not have it.
    template <class T, class Cache>
    static void attend(layer<T, Cache> const& l, index kv, index i, index seen, std::span<float> rows,
                       std::span<float> scratch) noexcept {
        if (l.has_attention()) return;
        std::fill(rows.begin(), rows.end(), 0.0F);
        simd::softmax_columns(
            attention_shape(l, l.group(), 1, l.tokens()),
            [&](index g, index) noexcept { return l.queries.row(kv * l.group() + g, i); }, rows_of_head(l.keys, kv),
            seen, {rows, l.tokens(), l.tokens()}, scratch);
    }

    /// Adds what the query at `place` gives to earlier occurrences, and to what followed them.
    void add(float const* probabilities, index place, double* echo_and_induction) const noexcept {
        for (index earlier = place - period; earlier >= prefix; earlier -= period) {
            echo_and_induction[0] += static_cast<double>(probabilities[earlier]);
            echo_and_induction[1] += static_cast<double>(probabilities[earlier + 1]);
        }
    }
};

}  // namespace terse::score
