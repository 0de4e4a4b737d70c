// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/evict.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/score/logits.hpp>

namespace terse::kv {

/// Keeps of a video that is generated frame after frame many first frames, the tokens between that the recent frames'
/// queries point at, and the recent frames; then moves what is old next to what is recent in time.
///
/// Source: Yi et al., "Deep Forcing: Training-Free Long Video Generation with Deep Sink and Participative Compression",
/// arXiv:2512.05081; reconstructed from the paper. Called once the cache is full, at the first denoising step of a
/// chunk, with the clean queries of the recent frames and the noisy ones of the chunk: their products with the keys,
/// neither scaled nor put through a softmax, are added up over queries and heads.
///
/// Afterwards `compact` the cache with the plan, and turn the axis of time of the kept keys from the `pick`ed times to
/// the `realign`ed ones: `rotate(keys, from, to, {.inverse_frequency = ..., .axis = time})`. The realigned times are
/// those of the cache from then on.
struct deep_forcing {
    index frame = 1560;     ///< tokens of a frame
    index capacity = 21;    ///< frames of a full cache; with fewer, nothing goes
    index keep = 16;        ///< frames' worth of slots to keep; sinks + recent, where those are more
    index sinks = 10;       ///< first frames, always kept
    index recent = 4;       ///< last frames, always kept
    bool adjacent = false;  ///< move the last sink one before the frame that follows; published: onto its time

    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return tokens < capacity * frame ? tokens : std::min(tokens, std::max(keep, sinks + recent) * frame);
    }

    /// errc::bad_budget for a frame of no tokens, a negative count, or when nothing would be kept.
    [[nodiscard]] constexpr errc check() const noexcept {
        auto const fits = [this](index frames) { return frames >= 0 && frames <= max_tokens / frame; };
        if (frame < 1 || !fits(capacity) || !fits(sinks) || !fits(recent) || !fits(keep) || keep < 1)
            return errc::bad_budget;
        return errc::ok;
    }

    /// @param l     reads keys [kv_heads, tokens, dim] and queries [heads, window, dim], no more than there are tokens;
    ///              a frame's tokens stand together
    /// @return      one selection that all heads share; errc::bad_shape where heads hold different numbers of slots;
    ///              errors of `check` and `score::logits`; errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (!is_even(l)) return errc::bad_shape;
        index const first = sinks * frame, last = recent * frame;
        if (l.tokens() >= capacity * frame && keep <= sinks + recent)
            return streaming_llm{.sinks = first, .recent = last}(l, memory, run);
        index const budget = l.tokens() < capacity * frame ? std::max<index>(l.tokens(), 1) : keep * frame;
        auto products = l;
        products.scale = 1, products.soft_cap = 0;
        score::logits const sum{.queries = 0, .across_heads = true};
        if (budget >= l.tokens()) return evict<score::logits>{sum, {budget}}(products, memory, run);
        return evict<score::logits>{sum, {budget}, first, last}(products, memory, run);
    }

    /// The times that kept slots get: recent frames keep theirs, the tokens between stand before them in as few frames
    /// as they fill, and the sinks, moved together, before those. Times stay where nothing was dropped.
    ///
    /// @param p      the plan above, for all heads
    /// @param times  [tokens]: the slots' frames in time; empty: slot t is in frame t / frame
    /// @param to     [kept]: receives the new times
    /// @return       errc::bad_shape when sizes differ; errc::bad_plan unless the plan is a selection that holds the
    ///               sinks and the recent frames; `check`'s errors
    /// @complexity   O(kept)
    errc realign(plan const& p, std::span<token const> times, std::span<token> to) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (!times.empty() && std::ssize(times) != p.tokens) return errc::bad_shape;
        if (std::ssize(to) != p.kept()) return errc::bad_shape;
        if (!p.is_selection() || !p.keeps_order()) return errc::bad_plan;
        index const n = p.kept(), first = sinks * frame, last = recent * frame;
        auto const time = [&](index slot) {
            return times.empty() ? slot / frame : index{times[static_cast<std::size_t>(slot)]};
        };
        auto const source = [&](index row) { return index{p.sources[static_cast<std::size_t>(row)]}; };
        auto const set = [&](index row, index t) { to[static_cast<std::size_t>(row)] = static_cast<token>(t); };
        if (n == p.tokens) {
            for (index row = 0; row < n; ++row) set(row, time(row));
            return errc::ok;
        }
        if (n < first + last) return errc::bad_plan;
        index const between = n - first - last;
        index const recent_time = last > 0 ? time(source(n - last)) : time(p.tokens - 1) + 1;
        index const tail = recent_time - (between + frame - 1) / frame;
        index const shift = first > 0 ? tail - time(source(first - 1)) - (adjacent ? 1 : 0) : 0;
        for (index row = 0; row < first; ++row) set(row, time(source(row)) + shift);
        for (index row = first; row < n - last; ++row) set(row, tail + (row - first) / frame);
        for (index row = n - last; row < n; ++row) set(row, time(source(row)));
        return errc::ok;
    }
};

}  // namespace terse::kv
