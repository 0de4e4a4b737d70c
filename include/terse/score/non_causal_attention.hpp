// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// The attention that a slot would receive within its chunk of the prompt if nothing were masked, times the length of
/// its value: the part of Compactor's score that knows the queries.
///
/// Per chunk a softmax over the chunk's keys, summed over its queries; the mean over the query heads of a kv head,
/// times |v|, averaged over a token and its two neighbours, as z-scores over all heads and slots. Only chunk^2 products
/// a chunk: linear in the prompt's length. As published, a last chunk that is not full is filled up with zero keys and
/// zero queries, which take part.
struct non_causal_attention {
    index chunk = 256;  ///< slots that attend to each other
    index sinks = 0;    ///< first slots, not scored: infinity; the first chunk starts behind them
    index recent = 0;   ///< last slots of each head, likewise
    float scale = 1;    ///< of the logits; the published code does not scale them

    /// @param l     keys and values, and the queries of all slots in their order: l.queries [heads, tokens, dim]
    /// @return      [kv_heads, tokens]. errc::bad_setting for a chunk below one, a negative count or a scale that is
    ///              not finite; errc::bad_shape when values or queries are missing or have another shape, or heads do
    ///              not divide; errc::out_of_memory
    /// @complexity  O(heads * tokens * chunk * dim); scratch: a tile row of exponentials for each key of a chunk and
    ///              worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (chunk < 1 || chunk > max_tokens || sinks < 0 || recent < 0 || !simd::is_finite(scale))
            return errc::bad_setting;
        index const n = l.tokens(), kv_heads = l.kv_heads(), dim = l.keys.dim;
        if (kv_heads < 1 || l.queries.heads < 1 || l.queries.heads % kv_heads != 0) return errc::bad_shape;
        if (l.queries.tokens != n || l.queries.dim != dim) return errc::bad_shape;
        if (l.values.heads != kv_heads || l.values.tokens != n) return errc::bad_shape;
        index const group = l.queries.heads / kv_heads, chunks = std::max<index>((n - sinks + chunk - 1) / chunk, 0);
        index const each = simd::softmax_columns_scratch(softmax_of(group, dim));

        rollback undo{memory};
        auto const values = memory.take<float>(kv_heads * n);
        auto const top = memory.here();
        auto const padding = zeros(l.keys, memory);
        auto const received = memory.take<float>(run.workers() * group * chunk);
        auto const scratch = memory.take<float>(run.workers() * each);
        auto const pooled = memory.take<float>(run.workers() * n);
        if (!padding || !taken(values, received, scratch, pooled)) return errc::out_of_memory;
        auto const part = [](std::span<float> all, index i, index size) noexcept {
            return all.subspan(static_cast<std::size_t>(i * size), static_cast<std::size_t>(size));
        };

        share_out(run, kv_heads * chunks, product_cost(chunk, group * chunk, dim),
                  [&](index begin, index end, index worker) noexcept {
                      for (index unit = begin; unit < end; ++unit) {
                          index const h = unit / chunks, first = sinks + unit % chunks * chunk;
                          index const last = std::max<index>(l.length(h) - recent, 0);
                          index const count = std::min(chunk, last - first);
                          if (count <= 0) continue;
                          auto const sums = part(received, worker, group * chunk).first(size(group * count));
                          columns(l, h, first, count, *padding, sums, part(scratch, worker, each));
                          auto const out = part(values, h, n).subspan(size(first), size(count));
                          reduce_rows(sums, out, reduction::mean);
                          for (index t = 0; t < count; ++t)
                              out[size(t)] *= std::sqrt(simd::squared_norm(l.values.row(h, first + t), l.values.dim));
                      }
                  });
        share_out(run, kv_heads, n * size_of<float> * 4, [&](index begin, index end, index worker) noexcept {
            for (index h = begin; h < end; ++h) {
                index const length = l.length(h), first = std::min(sinks, length);
                index const last = std::max(first, length - recent);
                auto const row = part(values, h, n);
                auto const scored = row.subspan(size(first), size(last - first));
                auto const copy = part(pooled, worker, n).first(scored.size());
                std::copy(scored.begin(), scored.end(), copy.begin());
                pool_row(copy, scored, pooling::average, 3);
                frame_row(row, first, last, length);
            }
        });
        standardise(values);
        memory.rewind(top);
        undo.keep();
        return scores{values, kv_heads, n, n};
    }

  private:
    [[nodiscard]] static constexpr std::size_t size(index n) noexcept { return static_cast<std::size_t>(n); }

    /// Of a whole chunk.
    [[nodiscard]] constexpr simd::attention_shape softmax_of(index heads, index dim) const noexcept {
        return {.heads = heads, .queries = chunk, .keys = chunk, .dim = dim, .scale = scale};
    }

    /// A row of zeros in `memory`, as those of `keys` are; errc::out_of_memory
    template <class Cache, class Row = decltype(Cache{}.row(0, 0))>
    [[nodiscard]] static result<Row> zeros(Cache const& keys, arena& memory) noexcept {
        if constexpr (is_quantised_row<Row>) {
            auto const codes = memory.take<std::int8_t>(keys.dim);
            auto const scales = memory.take<typename Cache::scale>(keys.dim);
            if (!taken(codes, scales)) return errc::out_of_memory;
            std::fill(codes.begin(), codes.end(), std::int8_t{0});
            std::fill(scales.begin(), scales.end(), typename Cache::scale(0.0F));
            return Row{codes.data(), scales.data(), keys.group};
        } else {
            using value = std::remove_const_t<std::remove_pointer_t<Row>>;
            auto const channels = memory.take<value>(keys.dim);
            if (!taken(channels)) return errc::out_of_memory;
            std::fill(channels.begin(), channels.end(), value(0.0F));
            return Row{channels.data()};
        }
    }

    /// sums[g][t] = what slot first + t receives from the chunk's queries of head g of kv head h.
    template <class T, class Cache, class Row>
    void columns(layer<T, Cache> const& l, index h, index first, index count, Row const& padding, std::span<float> sums,
                 std::span<float> scratch) const noexcept {
        index const group = l.queries.heads / l.kv_heads(), missing = chunk - count;
        // A zero query attends to all alike.
        std::fill(sums.begin(), sums.end(), static_cast<float>(missing) / static_cast<float>(chunk));
        auto const query = [&](index g, index i) noexcept { return l.queries.row(h * group + g, first + i); };
        auto const key = [&](index t) noexcept -> Row { return t < count ? l.keys.row(h, first + t) : padding; };
        auto shape = softmax_of(group, l.keys.dim);
        shape.queries = count;
        simd::softmax_columns(shape, query, key, chunk, {sums, count, count}, scratch);
    }
};

}  // namespace terse::score
