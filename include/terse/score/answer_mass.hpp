// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/score/attention_shape.hpp>
#include <terse/score/scores.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// How much each query head attends to an answer that stands in the prompt, while the model gives that answer: what
/// CompressKV ranks heads by.
///
/// A query counts if its token is one of the answer's. Add up the scores of all steps, and of all prompts that the
/// model answers well (the authors ask for a ROUGE-1 recall above 50).
struct answer_mass {
    range answer{};                       ///< the slots where the answer stands
    std::span<token const> answer_ids{};  ///< the tokens there
    std::span<token const> query_ids{};   ///< [window]: the tokens of the queries
    bool once =
        false;  ///< a token that the answer holds several times counts once, not each time as in the authors' code

    /// @param l     keys and queries of steps that give the answer, or their attention; see `check_attention`
    /// @return      [1, heads]: a value for each query head. errc::bad_shape when the answer does not lie within the
    ///              slots, or the ids do not fit it or the window, and by `check_attention`; errc::out_of_memory
    /// @complexity  O(heads * queries that count * tokens * dim); with `layer::log_sum_exp` only of the tokens up to the
    ///              answer's end
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (errc const error = check_attention(l); error != errc::ok) return error;
        if (answer.begin < 0 || answer.end < answer.begin || answer.end > l.tokens()) return errc::bad_shape;
        if (std::ssize(answer_ids) != answer.size() || std::ssize(query_ids) != l.window()) return errc::bad_shape;

        index const group = l.group(), wanted = answer.end;
        rollback undo{memory};
        auto const values = memory.take<float>(l.heads());
        auto const top = memory.here();
        auto const voters = memory.take<index>(l.window());
        auto const weights = memory.take<float>(l.window());
        if (!taken(values, voters, weights)) return errc::out_of_memory;
        index count = 0;
        for (index i = 0; i < l.window(); ++i) {
            auto const times = std::count(answer_ids.begin(), answer_ids.end(), query_ids[static_cast<std::size_t>(i)]);
            if (times == 0) continue;
            weights[static_cast<std::size_t>(count)] = once ? 1.0F : static_cast<float>(times);
            voters[static_cast<std::size_t>(count++)] = i;
        }
        bool const known = l.has_log_sum_exp();
        index const each =
            l.has_attention() ? 0 : simd::softmax_columns_scratch(attention_shape(l, group, count, l.tokens(), known));
        auto const rows = memory.take<float>(run.workers() * group * wanted);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(rows, scratch)) return errc::out_of_memory;

        share_out(run, l.kv_heads(), product_cost(l.tokens(), group * count, l.keys.dim),
                  [&](index begin, index end, index worker) noexcept {
                      auto const mine =
                          scratch.subspan(static_cast<std::size_t>(worker * each), static_cast<std::size_t>(each));
                      auto const columns = rows.subspan(static_cast<std::size_t>(worker * group * wanted),
                                                        static_cast<std::size_t>(group * wanted));
                      auto const weight = [&](index i) noexcept { return weights[static_cast<std::size_t>(i)]; };
                      auto const voter = [&](index i) noexcept { return voters[static_cast<std::size_t>(i)]; };
                      for (index kv = begin; kv < end; ++kv) {
                          index const held = std::min(wanted, l.length(kv)), first = kv * group;
                          std::fill(columns.begin(), columns.end(), 0.0F);
                          if (l.has_attention()) {
                              for (index row = 0; row < group * count; ++row)
                                  simd::add_scaled(l.attention.row(first + row / count, voter(row % count)),
                                                   weight(row % count), columns.data() + row / count * wanted, held);
                          } else {
                              simd::softmax_columns(
                                  attention_shape(l, group, count, l.length(kv), known),
                                  [&](index h, index i) noexcept { return l.queries.row(first + h, voter(i)); },
                                  rows_of_head(l.keys, kv), [&](index i) noexcept { return l.visible(kv, voter(i)); },
                                  {columns, wanted, held}, mine, weight,
                                  [&](index h, index i) noexcept { return l.log_sum_exp.row(first + h)[voter(i)]; });
                          }
                          for (index g = 0; g < group; ++g)
                              values[static_cast<std::size_t>(first + g)] =
                                  simd::sum(columns.data() + g * wanted + answer.begin, answer.size());
                      }
                  });
        memory.rewind(top);
        undo.keep();
        return scores{values, 1, l.heads(), l.heads()};
    }
};

}  // namespace terse::score
