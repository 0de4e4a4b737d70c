// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/score/attention_shape.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::kv {

/// Keeps only sinks and recent slots in a lazy layer, whose last queries attend to little else, and all slots in the
/// others: one decision a layer, for all heads.
///
/// Source: Zhang et al., "SimLayerKV: A Simple Framework for Layer-Level KV Cache Reduction", arXiv:2410.13846, in the
/// three published forms, see `judged_recent`. Differs: where sinks and recent slots overlap no slot counts twice, and
/// a lazy layer of kvpress's form with `last` = `recent` keeps its sinks, where the published slicing keeps everything.
struct simlayerkv {
    /// Which slots are recent when a layer is judged.
    enum class judged_recent : unsigned char {
        before_queries,  ///< the last ones before the judging queries (kvpress)
        newest,          ///< the last ones (the authors' code, which judges at its first step of decoding)
        before_each,     ///< the last ones before each query (the authors' rule for prompts, commented out there)
    };

    /// What the last queries say about a layer.
    struct verdict {
        bool lazy = false;
        float share = 0;  ///< of their attention that goes to sinks and recent slots, the mean over heads and queries
    };

    float threshold = 0.9F;  ///< a layer with a higher share is lazy (kvpress: 0.65 to 0.9 by model); 1: none is
    index last = 1;          ///< last queries that judge
    index recent = 1024;     ///< recent slots; in kvpress's form a lazy layer keeps `last` fewer, as published
    index sinks = 4;         ///< first slots
    judged_recent judged = judged_recent::before_queries;

    /// Whether a layer of so many slots can be shortened at all.
    [[nodiscard]] constexpr bool applies_to(index tokens) const noexcept {
        return threshold < 1 && tokens > sinks + recent + (judged == judged_recent::before_queries ? last : 0);
    }
    /// What a lazy layer keeps.
    [[nodiscard]] constexpr streaming_llm kept_when_lazy() const noexcept {
        return {.sinks = sinks, .recent = judged == judged_recent::before_queries ? recent - last : recent};
    }
    /// Slots that a lazy layer keeps.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return applies_to(tokens) ? kept_when_lazy().count(tokens) : tokens;
    }

    /// @param l    reads the attention of the `last` queries [heads, window, tokens], or those queries and the keys
    /// @return     errc::bad_setting for `last` below one or a threshold that is not finite; errc::bad_budget when a
    ///             count is negative or a lazy layer would keep nothing; errc::bad_shape when the layer has fewer
    ///             queries, and by `check_attention`; errc::out_of_memory
    /// @complexity O(heads * last * tokens * dim), with the layer's log_sum_exp O(heads * last * (sinks + recent) *
    ///             dim); scratch: a row of attention for each head that a worker takes at once
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<verdict> judge(layer<T, Cache> const& l, arena& memory, Run const& run = {}) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        if (last > l.window()) return errc::bad_shape;
        index const at_once = l.has_attention() ? 0 : std::min(l.group(), simd::softmax_heads(1));
        index const bundle = std::max<index>(at_once, 1), bundles = (l.group() + bundle - 1) / bundle;
        index const n = l.tokens(), row = known(l) ? std::min(n, std::min(sinks, n) + std::min(recent, n)) : n;
        index const each =
            at_once == 0 ? 0 : simd::softmax_columns_scratch(score::attention_shape(l, at_once, 1, row, known(l)));

        rollback const scratch_only{memory};
        auto const shares = memory.take<float>(l.heads());
        auto const rows = memory.take<float>(run.workers() * at_once * row);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(shares, rows, scratch)) return errc::out_of_memory;
        std::fill(shares.begin(), shares.end(), 0.0F);
        index const cost =
            at_once == 0 ? row * bundle * last * size_of<float> : product_cost(row, bundle * last, l.keys.dim);
        share_out(run, l.kv_heads() * bundles, cost, [&](index begin, index end, index worker) noexcept {
            auto const part = [worker](std::span<float> all, index size) noexcept {
                return all.subspan(static_cast<std::size_t>(worker * size), static_cast<std::size_t>(size));
            };
            for (; begin < end; ++begin) {
                index const kv = begin / bundles, skip = begin % bundles * bundle;
                index const first = kv * l.group() + skip, count = std::min(bundle, l.group() - skip);
                add_shares(l, kv, shares.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                           first, part(rows, at_once * row), row, part(scratch, each));
            }
        });
        float total = 0;
        for (float const share : shares) total += share;
        float const share = total / static_cast<float>(l.heads() * last);
        return verdict{share > threshold, share};
    }

    /// @param l   as for `judge`; of a layer that cannot be shortened, its length
    /// @return    one selection that all heads share, or one for each where `streaming_llm` gives one; errors as
    ///            `judge`'s
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (applies_to(l.tokens())) {
            auto const found = judge(l, memory, run);
            if (!found) return found.error();
            if (found->lazy) return kept_when_lazy()(l, memory, run);
        }
        return streaming_llm{.recent = std::max<index>(l.tokens(), 1)}(l, memory, run);
    }

  private:
    [[nodiscard]] errc check() const noexcept {
        if (last < 1 || !simd::is_finite(threshold)) return errc::bad_setting;
        auto const kept = kept_when_lazy();
        return sinks < 0 || kept.recent < 0 || sinks + kept.recent < 1 ? errc::bad_budget : errc::ok;
    }

    /// Whether the sums are given, so that no slots but sinks and recent ones need a logit.
    template <class T, class Cache>
    [[nodiscard]] static bool known(layer<T, Cache> const& l) noexcept {
        return l.has_log_sum_exp() && !l.has_attention();
    }

    /// Adds to each head's share what its last queries give to sinks and recent slots.
    /// @param rows  room for a row of `stride` for each head, where the layer has no attention
    template <class T, class Cache>
    void add_shares(layer<T, Cache> const& l, index kv, std::span<float> shares, index first, std::span<float> rows,
                    index stride, std::span<float> scratch) const noexcept {
        index const skipped = l.window() - last, count = std::ssize(shares);
        for (index i = skipped; i < l.window(); ++i) {
            index const seen = l.visible(kv, i);
            index const own = judged == judged_recent::before_each ? seen - 1 : l.visible(kv, skipped) - 1;
            index const end = judged == judged_recent::newest ? l.length(kv) : std::max<index>(own, 0);
            index const leading = std::min(sinks, judged == judged_recent::before_queries ? end : seen);
            index const begin = std::min(std::max(sinks, end - recent), end);
            index const trailing = std::max<index>(std::min(end, seen) - begin, 0);
            index const left_out = known(l) ? begin - leading : 0;
            if (!l.has_attention()) {
                index const needed = known(l) ? leading + trailing : l.length(kv);
                std::fill(rows.begin(), rows.end(), 0.0F);
                simd::softmax_columns(
                    score::attention_shape(l, count, 1, needed, known(l)),
                    [&](index h, index) noexcept { return l.queries.row(first + h, i); },
                    [&](index t) noexcept { return l.keys.row(kv, t < leading ? t : t + left_out); },
                    known(l) ? needed : seen, {rows, stride, needed}, scratch, simd::once{},
                    [&](index h, index) noexcept { return l.log_sum_exp.row(first + h)[i]; });
            }
            for (index h = 0; h < count; ++h) {
                float const* const row = l.has_attention() ? l.attention.row(first + h, i) : rows.data() + h * stride;
                shares[static_cast<std::size_t>(h)] +=
                    simd::sum(row, leading) + simd::sum(row + begin - left_out, trailing);
            }
        }
    }
};

}  // namespace terse::kv
